"""Where a loss is hard to compute: jaxloss's answers beside its peers', run here.

    python docs/assets/numerics.py

prints what docs/numerics.md shows. Every answer is computed when the page is built, by
the versions that are installed, and judged against the true value; what a peer mends
is shown as mended.
"""

import importlib
import importlib.util
import math
import os
import re
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp

import jaxloss as jl

os.environ.setdefault("KERAS_BACKEND", "jax")
LIBRARIES = {"jaxloss": "jl", "optax": "optax", "torch": "torch", "keras": "keras"}


class Case(NamedTuple):
    title: str
    why: str
    wanted: str
    jaxloss: str
    optax: str = ""
    torch: str = ""
    keras: str = ""
    digits: float = (
        1e-4  # an answer within this of the wanted one, relatively, is right
    )


CASES = [
    Case(
        "A confident and correct prediction",
        "The usual form subtracts the label's logit from a log-sum-exp that rounds to "
        "the same number, so the loss and the gradient vanish. jaxloss leaves the "
        "label out of the sum.",
        "math.log1p(math.exp(-20) + math.exp(-20.5) + math.exp(-19.75))",
        "jl.softmax_cross_entropy_with_integer_labels([20, 0, -0.5, 0.25], 0)",
        "optax.softmax_cross_entropy_with_integer_labels("
        "jnp.array([20, 0, -0.5, 0.25]), 0)",
        "F.cross_entropy(torch.tensor([20, 0, -0.5, 0.25]), torch.tensor(0))",
        "keras.losses.sparse_categorical_crossentropy("
        "jnp.array(0), jnp.array([20, 0, -0.5, 0.25]), from_logits=True)",
    ),
    Case(
        "Large logits in bfloat16",
        "A log-sum-exp in bfloat16 is rounded at the size of the logits. jaxloss "
        "computes in float32.",
        "math.log(4)",
        "jl.softmax_cross_entropy_with_integer_labels(jnp.full(4, 300, jnp.bfloat16), "
        "0)",
        "optax.softmax_cross_entropy_with_integer_labels("
        "jnp.full(4, 300, jnp.bfloat16), 0)",
        "F.cross_entropy(torch.full((4,), 300., dtype=torch.bfloat16), "
        "torch.tensor(0))",
        "keras.losses.sparse_categorical_crossentropy("
        "jnp.array(0), jnp.full(4, 300, jnp.bfloat16), from_logits=True)",
        digits=2**-8,  # of bfloat16, in which the peers return it
    ),
    Case(
        "An impossible class under a label of 0",
        "A logit of -inf masks a class. The product 0 · ∞ is 0 here.",
        "math.log(2)",
        "jl.softmax_cross_entropy([0, 0, -jnp.inf], [1, 0, 0])",
        "optax.softmax_cross_entropy(jnp.array([0, 0, -jnp.inf]), jnp.array([1, 0, "
        "0]))",
        "F.cross_entropy(torch.tensor([0, 0, -torch.inf]), torch.tensor([1., 0, 0]))",
        "keras.losses.categorical_crossentropy("
        "jnp.array([1., 0, 0]), jnp.array([0, 0, -jnp.inf]), from_logits=True)",
    ),
    Case(
        "The same in forward mode",
        "optax's safe variant is right for the value and in reverse mode only.",
        "0.5",
        "jax.jvp(lambda x: jl.safe_softmax_cross_entropy(x, [0., 1, 0]), "
        "(jnp.array([0, 0, -jnp.inf]),), (jnp.array([1., 0, 0]),))[1]",
        "jax.jvp(lambda x: optax.safe_softmax_cross_entropy(x, jnp.array([0., 1, 0])), "
        "(jnp.array([0, 0, -jnp.inf]),), (jnp.array([1., 0, 0]),))[1]",
    ),
    Case(
        "A certain negative",
        "With a logit of -inf and the label 0 the prediction is right: the loss is 0.",
        "0.0",
        "jl.sigmoid_binary_cross_entropy(-jnp.inf, 0)",
        "optax.sigmoid_binary_cross_entropy(jnp.array(-jnp.inf), 0)",
        "F.binary_cross_entropy_with_logits(torch.tensor(-torch.inf), "
        "torch.tensor(0.))",
        "keras.losses.binary_crossentropy("
        "jnp.zeros(1), jnp.array([-jnp.inf]), from_logits=True)",
    ),
    Case(
        "A certain positive in the focal loss",
        "With gamma 0 the focal loss is the cross entropy, which is 0 for a logit of "
        "inf and the label 1.",
        "0.0",
        "jl.sigmoid_focal_loss(jnp.inf, 1, gamma=0)",
        "optax.sigmoid_focal_loss(jnp.array(jnp.inf), 1, gamma=0)",
    ),
    Case(
        "A small error under log-cosh",
        "Near 0, log(cosh(e)) is e²/2, and a difference of terms near log 2 has no "
        "correct digit of it.",
        "math.log1p(2 * math.sinh(5e-5) ** 2)",
        "jl.log_cosh(1e-4)",
        "optax.log_cosh(jnp.array(1e-4))",
        "",
        "keras.losses.log_cosh(jnp.zeros(1), jnp.array([1e-4]))",
    ),
    Case(
        "A small probability",
        "Keras clips probabilities at 1e-7.",
        "-math.log(1e-10)",
        "jl.binary_cross_entropy(1e-10, 1)",
        "",
        "F.binary_cross_entropy(torch.tensor(1e-10), torch.tensor(1.))",
        "keras.losses.binary_crossentropy(jnp.ones(1), jnp.array([1e-10]))",
    ),
    Case(
        "The derivative with respect to a target of 0",
        "t log t has an infinite slope at 0; jaxloss takes 0, so that a computed "
        "target can be trained.",
        "0.0",
        "jax.grad(jl.kl_divergence, 1)(jnp.log(jnp.full(2, 0.5)), jnp.array([1., "
        "0]))[1]",
        "jax.grad(optax.kl_divergence, 1)("
        "jnp.log(jnp.full(2, 0.5)), jnp.array([1., 0]))[1]",
    ),
    Case(
        "Nearly parallel vectors",
        "The usual form is one minus a cosine that rounds to 1.",
        "1e-8 / (1 + 1e-8 + math.sqrt(1 + 1e-8))",
        "jl.cosine_distance(jnp.array([1, 1e-4]), jnp.array([1., 0]))",
        "optax.cosine_distance(jnp.array([1, 1e-4]), jnp.array([1., 0]))",
        "1 - F.cosine_similarity(torch.tensor([1, 1e-4]), torch.tensor([1., 0]), "
        "dim=0)",
        "1 + keras.losses.cosine_similarity(jnp.array([1., 0]), jnp.array([1, 1e-4]))",
    ),
    Case(
        "Very short vectors",
        "Squares of 1e-30 are 0 in float32. The cosine does not depend on the length.",
        "math.sqrt(0.5)",
        "jl.cosine_similarity(jnp.array([1e-30, 1e-30]), jnp.array([1., 0]))",
        "optax.cosine_similarity(jnp.array([1e-30, 1e-30]), jnp.array([1., 0]))",
        "F.cosine_similarity(torch.tensor([1e-30, 1e-30]), torch.tensor([1., 0]), "
        "dim=0)",
        "-keras.losses.cosine_similarity(jnp.array([1., 0]), jnp.array([1e-30, "
        "1e-30]))",
    ),
    Case(
        "The gradient at a zero vector",
        "A zero vector has no direction; a gradient of 0 leaves it in place, and NaN "
        "destroys the whole model.",
        "0.0",
        "jax.grad(jl.cosine_distance)(jnp.zeros(2), jnp.array([1., 0]))[0]",
        "jax.grad(optax.cosine_distance)(jnp.zeros(2), jnp.array([1., 0]))[0]",
    ),
    Case(
        "A triplet in another norm",
        "The power of 3 applies to the absolute values of the differences.",
        "1 + 2.0 - 1.0",
        "jl.triplet_margin_loss("
        "jnp.zeros(2), jnp.array([2., 0]), jnp.array([1., 0]), norm_degree=3)",
        "optax.losses.triplet_margin_loss("
        "jnp.zeros(2), jnp.array([2., 0]), jnp.array([1., 0]), norm_degree=3)",
        "F.triplet_margin_loss("
        "torch.zeros(2), torch.tensor([2., 0]), torch.tensor([1., 0]), p=3)",
    ),
    Case(
        "A batch without a positive pair",
        "Four examples of four classes have no pair to bring together.",
        "0.0",
        "jl.ntxent(jnp.eye(4), jnp.arange(4))",
        "optax.ntxent(jnp.eye(4), jnp.arange(4))",
    ),
    Case(
        "A label out of range",
        "A label out of range has no loss: NaN or an error is right.",
        "math.nan",
        "jl.softmax_cross_entropy_with_integer_labels([1, 2, 3], -1)",
        "optax.softmax_cross_entropy_with_integer_labels(jnp.array([1., 2, 3]), -1)",
        "F.cross_entropy(torch.tensor([1., 2, 3]), torch.tensor(-1))",
        "keras.losses.sparse_categorical_crossentropy("
        "jnp.array(-1), jnp.array([1., 2, 3]), from_logits=True)",
    ),
    Case(
        "The same with a hinge loss",
        "A plausible number hides the mistake.",
        "math.nan",
        "jl.multiclass_hinge_loss([1, 2, 3], 7)",
        "optax.losses.multiclass_hinge_loss(jnp.array([1., 2, 3]), 7)",
        "F.multi_margin_loss(torch.tensor([1., 2, 3]), torch.tensor(7))",
    ),
    Case(
        "Dice of probabilities under jit",
        "A check of values in Python cannot be traced by `jit`.",
        "0.0",
        "jax.jit(lambda p: jl.dice_loss(p, p, apply_softmax=False))(jnp.ones((1, 4, "
        "1)))[0]",
        "jax.jit(lambda p: optax.losses.dice_loss(p, p, apply_softmax=False))("
        "jnp.ones((1, 4, 1)))[0]",
    ),
]


class Answer(NamedTuple):
    shown: str
    right: bool


def namespace() -> dict[str, object]:
    """What the one-line reproductions refer to, without libraries that are not here."""
    names = {"jax": jax, "jnp": jnp, "jl": jl, "math": math}
    with warnings.catch_warnings():  # peers import what is deprecated
        warnings.simplefilter("ignore")
        for library in ("optax", "torch", "keras"):
            if importlib.util.find_spec(library):
                names[library] = importlib.import_module(library)
    if "torch" in names:
        names["F"] = importlib.import_module("torch.nn.functional")
    return names


def want(case: Case) -> float:
    return eval(case.wanted, {"math": math})


def answer(case: Case, library: str, names: dict[str, object]) -> Answer:
    """What a reproduction gives here; an error is right where there is no answer."""
    wanted = want(case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = float(eval(getattr(case, library), dict(names)))
    except Exception as error:  # whatever a peer raises is its answer
        return Answer(type(error).__name__, math.isnan(wanted))
    right = math.isclose(value, wanted, rel_tol=case.digits) or (
        math.isnan(value) and math.isnan(wanted)
    )
    return Answer(f"{value:.7g}", right)


def page():
    """The cases, each with its table."""
    names = namespace()
    here = [library for library, short in LIBRARIES.items() if short in names]
    modules = {"jax": jax} | {library: names[LIBRARIES[library]] for library in here}
    versions = [f"{name} {module.__version__}" for name, module in modules.items()]
    yield f"Run with {', '.join(versions)} when this page was built."
    for library in LIBRARIES:
        if library not in here:
            yield f"{library} was not installed, so its answers are missing."
    given = {
        case.title: {
            library: (code, *answer(case, library, names))
            for library in here
            if (code := getattr(case, library))
        }
        for case in CASES
    }
    yield from ("", "## Summary", "", "✓ right, ✗ wrong; empty: not tried.")
    yield from ("", f"| Case | {' | '.join(here)} |")
    yield f"| --- |{' :-: |' * len(here)}"
    for title, answers in given.items():
        marks = ("✗✓"[answers[x][2]] if x in answers else "" for x in here)
        yield f"| [{title}](#{anchor(title)}) | {' | '.join(marks)} |"
    for case in CASES:
        wanted = "none" if math.isnan(want(case)) else f"{want(case):.7g}"
        yield from ("", f"## {case.title} {{ #{anchor(case.title)} }}", "")
        yield f"{case.why} Wanted: **{wanted}**."
        yield from (
            "",
            "| Library | Answer | Verdict | By |",
            "| --- | --- | --- | --- |",
        )
        for library, (code, shown, right) in given[case.title].items():
            judged = "✓ right" if right else "**✗ wrong**"
            yield f"| {library} | {shown} | {judged} | `{code}` |"
    yield ""


def anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


if __name__ == "__main__":
    print("\n".join(page()))
