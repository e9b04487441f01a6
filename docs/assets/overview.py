"""Draws the picture of the README and of the start page, light and dark.

python docs/assets/overview.py [FOLDER]
"""

import io
import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from gallery import BLUE, GREEN, GREY, LOOK, ORANGE, PINK, dark

import jaxloss as jl

plt.rcParams |= LOOK
plt.rcParams |= {"axes.titlesize": 12, "font.size": 10}
plt.rcParams["svg.fonttype"] = "path"  # the same letters wherever the README is read
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
    title="A confident, correct prediction (float32)",
    xlabel="lead of the label's logit over two others",
    ylabel="cross entropy (nats)",
)
digits.legend(loc="lower left", fontsize=9)

folder = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent
file = io.StringIO()
figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
light = file.getvalue()
for name, svg in (("overview", light), ("overview-dark", dark(light))):
    path = folder / f"{name}.svg"
    path.write_text(svg)
    print(path)
