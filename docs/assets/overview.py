"""Draws the README's picture: python docs/assets/overview.py [FOLDER]."""

import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import jaxloss as jl

# Okabe and Ito's colours, apart for every kind of sight; dashes tell them apart too.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#555555"

plt.rcParams |= {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "jaxloss",  # the same picture gives the same file
}
figure, (shapes, digits) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")

error = jnp.linspace(-3, 3, 91)
for name, loss, color, dashes in [
    ("l2_loss", jl.l2_loss(error), GREY, ":"),
    ("huber_loss", jl.huber_loss(error), BLUE, "-"),
    ("log_cosh", jl.log_cosh(error), GREEN, "--"),
    ("quantile_loss, 0.2", jl.quantile_loss(error, quantile=0.2), PINK, "-."),
    ("robust_loss, alpha −2", jl.robust_loss(error, alpha=-2.0), ORANGE, (0, (6, 2))),
]:
    shapes.plot(error, loss, color=color, ls=dashes, lw=1.8, label=name)
shapes.set(
    title="Losses for every tail",
    xlabel="prediction − target",
    ylabel="loss",
    ylim=(0, 4.2),
)
shapes.legend(loc="upper center", fontsize=9)

margin = jnp.linspace(0, 30, 121)
logits = jnp.stack([margin, 0 * margin, 0 * margin], axis=-1)
labels = jnp.zeros(margin.shape, int)
ours = jl.softmax_cross_entropy_with_integer_labels(logits, labels)
theirs = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
gone = margin[theirs > 0][-1]
digits.semilogy(margin, ours, color=BLUE, lw=1.8, label="jaxloss")
digits.semilogy(
    margin, jnp.where(theirs > 0, theirs, jnp.nan), color=ORANGE, ls="--", label="optax"
)
digits.axvline(gone, color=ORANGE, lw=1, ls=":")
digits.text(gone + 0.5, 1e-3, "from here on\noptax gives 0", color=ORANGE)
digits.set(
    title="Cross entropy of a sure, right answer (float32)",
    xlabel="lead of the label's logit over two others",
    ylabel="loss (nats)",
)
digits.legend(loc="lower left", fontsize=9)

folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent
figure.savefig(folder / "overview.svg", metadata={"Date": None})
print(folder / "overview.svg")
