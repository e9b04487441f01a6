"""Accuracy of the multiclass losses over the whole range of float32.

The reference is the definition in real arithmetic at the exact float32 inputs, and so
are its derivatives, which have closed forms; differences of 1000 classes would take
minutes.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf
from namespace import families
from tier import choose
from ulp import FLUSHED, HUGE, POWER, is_rounding, near, spacing, spread, ulp

import jaxloss as jl

INF = math.inf
# Enough for what a class of probability 1 - 1e-38 lacks to 1.
DIGITS = 100

# What the label, or the largest class, is ahead of the rest: where the rest's share
# falls below one rounding of 1, below float32, and where an exponential overflows.
AHEAD = near(15.9, 16.6, 17.3, 87.3, 88.7, 103.9)


def logits_rows(rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Ordinary, peaked, tied, huge and impossible logits; one, two, four and many.

    Every number of classes is a program of its own to compile.
    """
    rows = [
        [0.7],
        [-HUGE],
        [0, -1e-8],
        [20, 0, -0.5, 0.25],
        [46.05, 0.1234567, -0.77, 0.25],
        [0, 0, 0, 0],
        [1e-30, 0, -1e-30, 2e-30],
        [HUGE] * 4,
        [-HUGE] * 4,
        [HUGE, -HUGE, 0, 1],
        [HUGE, HUGE, 1, -1],
        [-200, -300, -100, -150],
        [1e4 + 0.5, 1e4, 1e4 - 3, 1e4 - 100],
        [3e6, 3e6 + 0.25, 3e6 + 1.5, 3e6 - 9],
        [-INF, 0, 1, 2],
        [-INF, 3, -INF, 3.5],
        [5, -INF, -INF, -INF],
        [104.5, 0.3, 1e-9, -7],
        [300, 300, 300, 300],
    ]
    for ahead in AHEAD:
        rows += [[ahead, 0], [-1.5, ahead - 1.5, -1.5, -9]]
    for classes in (2, 4, 4):
        for size in (0.01, 1, 5, 30, 200):
            rows += list(rng.normal(size=(5, classes)) * size)
        for _ in range(12):
            # One class with nearly all of the mass, anywhere.
            row = rng.normal(size=classes) * 2 + rng.choice((0, 50, -300, 1e4))
            row[rng.integers(classes)] += rng.uniform(5, 95)
            rows.append(row)
        for _ in range(6):
            rows.append(spread(rng, classes))
            row = rng.normal(size=classes) * 20
            row[rng.permutation(classes)[:2]] = row.max()  # a tie at the top
            rows.append(row)
    many = [rng.normal(size=1000) * 3, rng.normal(size=1000) * 40]
    many.append(np.where(np.arange(1000) == 77, 60, many[0] / 3))
    return [tuple(np.float32(row).tolist()) for row in (*rows, *many)]


class Example(NamedTuple):
    logits: tuple[float, ...]
    labels: Any
    parameters: tuple[Any, ...] = ()


def every_label(rng, row):
    """All classes of a short row; the top and another of a long one."""
    if len(row) < 1000:
        return range(len(row))
    return int(np.argmax(row)), 3


def distributions(rng, row):
    """Hard, soft and unnormalised labels; nothing on a class that is impossible."""
    possible = np.isfinite(row)
    soft = rng.dirichlet(np.full(len(row), 0.5)) * possible
    sparse = soft * (rng.random(len(row)) < 0.5)
    hot = np.eye(len(row))[np.argmax(row)]
    other = np.eye(len(row))[np.argmin(np.where(possible, row, INF))]
    labels = (hot, other, soft, sparse, 3 * soft, 0.7 * hot + 0.3 * other)
    if len(row) == 1000:
        labels = hot, sparse
    return [tuple(np.float32(label).tolist()) for label in labels]


def examples(
    labels_of: Callable[..., Iterable[Any]],
    parameters_of: Callable[..., tuple] | None = None,
) -> list[Example]:
    """Examples that float32 holds exactly, each with parameters of its own.

    With parameters, none whose surprisal overflows times a class weight: a small label
    does not bring it back.
    """
    rng = np.random.default_rng(5)
    found = []
    for row in logits_rows(rng):
        if parameters_of and max(row) - min(filter(math.isfinite, row)) > HUGE / 10:
            continue
        for labels in labels_of(rng, row):
            drawn = parameters_of(rng, len(row)) if parameters_of else ()
            parameters = tuple(np.float32(p).tolist() for p in drawn)
            found.append(Example(row, labels, parameters))
    return found


def class_weights(rng, classes):
    return rng.choice((0, 0.3, 1, 2.7, 1e-10), classes)


def smoothing(rng):
    return rng.choice((0, 1e-6, 0.1, 0.9, 1))


class Softmax:
    """Softmax of a row in real arithmetic."""

    def __init__(self, logits: Sequence[float]):
        self.x = [mpf(x) for x in logits]
        self.classes = range(len(self.x))
        self.top = max(self.x)
        # Below e^-300 nothing adds to a float, nor to 1 within the digits at hand.
        e = [mp.exp(x - self.top) if x - self.top > -300 else mpf(0) for x in self.x]
        total = mp.fsum(e)
        self.p = [v / total for v in e]
        self.miss = [(total - v) / total for v in e]
        self.excess = mp.log(total)
        self.log_sum_exp = self.top + self.excess
        self.surprisal = [self.excess + (self.top - x) for x in self.x]

    def slope(self, j: int, y: int) -> Any:
        """d surprisal[y] / d x[j]."""
        return -self.miss[j] if j == y else self.p[j]


class Entry(NamedTuple):
    """A true value, and how its error is counted.

    Attributes:
        true: The value.
        size: Where the units are taken: the largest of the terms.
        gain: By how much an exponential that is flushed to zero is multiplied.
    """

    true: Any
    size: Any
    gain: Any


def total(*terms, beside=0, gain=1):
    """A sum, in the units of its largest term or of what goes in beside the terms."""
    return Entry(mp.fsum(terms), max(map(abs, (*terms, beside))), max(1, gain))


def cross_entropy(s, q, *, z=0):
    """Value and slopes of Σ q_j surprisal_j + z · log-sum-exp²."""
    mass = mp.fsum(q)
    log_sum = s.log_sum_exp
    # A log-sum-exp of opposite parts is off by the rounding of the larger.
    parts = max(abs(s.top), s.excess)
    value = mp.fsum(v * s.surprisal[j] for j, v in enumerate(q) if v)
    slopes = []
    for p, miss, v in zip(s.p, s.miss, q, strict=True):
        # Nothing cancels at the one class that has all labels.
        slope = (-mass * miss,) if v == mass else (mass * p, -v)
        pull = 2 * z * p
        slopes.append(
            total(
                *slope, pull * log_sum, beside=pull * parts, gain=mass + 2 * z * parts
            )
        )
    return {
        "value": [total(value, z * log_sum**2, beside=z * log_sum * parts)],
        "logits": slopes,
    }


def integer(s, y):
    return cross_entropy(s, hot(s, y))


def hot(s, y):
    return [mpf(int(j == y)) for j in s.classes]


def dense(s, q):
    return {**cross_entropy(s, q), "labels": [total(h) for h in s.surprisal]}


def all_of_integer(s, y, *parameters):
    return by_parameters(s, hot(s, y), *parameters)


def all_of_dense(s, q, weights, share, z):
    found = by_parameters(s, q, weights, share, z)
    by_labels = [
        total(product((1 - share) * w, h), gain=w)
        for w, h in zip(weights, s.surprisal, strict=True)
    ]
    # In the order of the arguments.
    return {
        "value": found.pop("value"),
        "logits": found.pop("logits"),
        "labels": by_labels,
        **found,
    }


def by_parameters(s, q, weights, share, z):
    parts = max(abs(s.top), s.excess)
    return {
        **cross_entropy(s, mixed(q, weights, share), z=z),
        **by_class(s.surprisal, q, weights, share),
        "z_loss": [total(s.log_sum_exp**2, beside=s.log_sum_exp * parts)],
    }


def mixed(q, weights, share):
    """Labels smoothed, and times their classes' weights."""
    return [
        w * ((1 - share) * v + share / len(q)) for w, v in zip(weights, q, strict=True)
    ]


def by_class(losses, q, weights, share):
    """Slopes of Σ w_j ((1 - share) q_j + share/C) loss_j by w and by share."""
    rows = list(
        zip(mixed(q, [mpf(1)] * len(q), share), q, weights, losses, strict=True)
    )
    every = mp.fsum(product(w, h) for _, _, w, h in rows)
    own = mp.fsum(product(w * v, h) for _, v, w, h in rows)
    return {
        "class_weights": [total(product(v, h)) for v, _, _, h in rows],
        "label_smoothing": [total(every / len(q), -own)],
    }


def product(c, x):
    return c * x if c else mpf(0)


def focal(s, q, gamma, mixture=True):
    """Value and slopes of Σ q_j surprisal_j miss_j^gamma.

    Of a mixture of classes a slope is p_j Σ pull - pull_j by nature.
    """
    losses = modulated(s, gamma)
    pulls, bends = [], []
    for v, h, miss, p, f in zip(q, s.surprisal, s.miss, s.p, losses, strict=True):
        # d f / d h = miss^gamma + h gamma miss^(gamma - 1) p, for miss = 1 - e^-h.
        steep = h * gamma * p * miss ** (gamma - 1) if p and miss else 0
        pulls.append(v * (miss**gamma + steep))
        bends.append(product(v, f * mp.log(miss) if miss else mpf(0)))
    pulled = mp.fsum(pulls)
    return {
        "value": [
            total(mp.fsum(product(v, f) for v, f in zip(q, losses, strict=True)))
        ],
        "logits": [
            total(
                -pull * miss,
                (pulled - pull) * p,
                beside=pull * p * mixture,
                gain=pulled,
            )
            for pull, miss, p in zip(pulls, s.miss, s.p, strict=True)
        ],
        # The logarithm or the surprisal that is beside a flushed exponential.
        "gamma": [total(mp.fsum(bends), gain=104)],
    }


def modulated(s, gamma):
    return [h * miss**gamma for h, miss in zip(s.surprisal, s.miss, strict=True)]


def all_of_focal(s, y, gamma, weights, share):
    q = hot(s, y)
    return {
        **focal(s, mixed(q, weights, share), gamma),
        **by_class(modulated(s, gamma), q, weights, share),
    }


def poly(s, q, epsilon):
    """Value and slopes of Σ q_j (surprisal_j + epsilon miss_j).

    Since d miss_j = -p_j d surprisal_j, it has the slopes of two cross entropies.
    """
    cost = mp.fsum(map(product, q, s.surprisal))
    missed = mp.fsum(map(operator.mul, q, s.miss))
    slopes = [
        cross_entropy(s, labels)["logits"]
        for labels in (q, [epsilon * v * p for v, p in zip(q, s.p, strict=True)])
    ]
    return {
        "value": [total(cost, epsilon * missed)],
        "logits": [
            total(one.true, other.true, beside=max(one.size, other.size))
            for one, other in zip(*slopes, strict=True)
        ],
        "labels": [
            total(h, epsilon * miss, gain=1 + abs(epsilon))
            for h, miss in zip(s.surprisal, s.miss, strict=True)
        ],
        "epsilon": [total(missed)],
    }


def generalized(s, y, power):
    """Value and slopes of (1 - p_y^power) / power."""
    h = s.surprisal[y]
    kept = mp.exp(-power * h)
    by_power = -1 / power**2
    if mp.isfinite(h):
        by_power = (power * h * kept - (1 - kept)) / power**2
    return {
        "value": [total((1 - kept) / power)],
        "logits": [total(kept * s.slope(j, y), gain=1 / power) for j in s.classes],
        "power": [total(by_power)],
    }


def likelihood(s, y, weights):
    return {
        "value": [total(-product(weights[y], s.x[y]))],
        "logits": [total(-weights[j] if j == y else mpf(0)) for j in s.classes],
        "class_weights": [total(-s.x[j] if j == y else mpf(0)) for j in s.classes],
    }


class Accuracy(NamedTuple):
    """A loss, its truth, and the examples at which the two are compared.

    Attributes:
        loss: The loss of logits, labels and parameters, with a batch axis each.
        truth: Entries by quantity: the value, and the slopes by their inputs' names.
        examples: The examples, with numbers that float32 holds.
        relative: Whether errors are relative to the true value, not in its ulp.
        bound: The largest error that is right, in those units.
    """

    loss: Callable[..., jax.Array]
    truth: Callable[..., dict[str, list[Entry]]]
    examples: list[Example]
    relative: bool = False
    bound: float = 8


def each(loss, *names):
    """A loss whose parameters differ from example to example."""

    def single(logits, labels, *parameters):
        return loss(logits, labels, **dict(zip(names, parameters, strict=True)))

    return jax.vmap(single)


def all_parameters(rng, classes):
    weights, share = class_weights(rng, classes), smoothing(rng)
    return weights, share, rng.choice((0, 1e-4, 0.5))


EVERY = "class_weights", "label_smoothing", "z_loss"

CASES = {
    "softmax_cross_entropy_with_integer_labels": lambda: Accuracy(
        jl.softmax_cross_entropy_with_integer_labels, integer, examples(every_label)
    ),
    "softmax_cross_entropy_with_integer_labels, all parameters": lambda: Accuracy(
        each(jl.softmax_cross_entropy_with_integer_labels, *EVERY),
        all_of_integer,
        examples(every_label, all_parameters),
    ),
    "softmax_cross_entropy": lambda: Accuracy(
        jl.softmax_cross_entropy, dense, examples(distributions)
    ),
    "softmax_cross_entropy, all parameters": lambda: Accuracy(
        each(jl.softmax_cross_entropy, *EVERY),
        all_of_dense,
        examples(distributions, all_parameters),
    ),
    "nll_loss": lambda: Accuracy(
        each(jl.nll_loss, "class_weights"),
        likelihood,
        examples(every_label, lambda rng, classes: (class_weights(rng, classes),)),
    ),
    "softmax_focal_loss": lambda: Accuracy(
        each(jl.softmax_focal_loss, "gamma"),
        lambda s, y, gamma: {**focal(s, hot(s, y), gamma), "gamma": []},
        examples(every_label, lambda rng, _: [rng.choice((0, 1, 2, 3))]),
    ),
    "softmax_focal_loss of real gamma": lambda: Accuracy(
        each(jl.softmax_focal_loss, "gamma"),
        lambda s, y, gamma: focal(s, hot(s, y), gamma, mixture=False),
        examples(every_label, lambda rng, _: [rng.choice((0, 0.25, 0.5, 1.7, 2, 5.5))]),
        relative=True,
        bound=POWER,
    ),
    "softmax_focal_loss, all parameters": lambda: Accuracy(
        each(jl.softmax_focal_loss, "gamma", "class_weights", "label_smoothing"),
        all_of_focal,
        examples(
            every_label,
            lambda rng, classes: (
                rng.choice((0, 0.5, 2)),
                class_weights(rng, classes),
                smoothing(rng),
            ),
        ),
        relative=True,
        bound=POWER,
    ),
    "poly_loss_cross_entropy": lambda: Accuracy(
        each(jl.poly_loss_cross_entropy, "epsilon"),
        poly,
        examples(distributions, lambda rng, _: [rng.choice((-1, 0, 1e-3, 0.5, 2))]),
    ),
    "generalized_cross_entropy": lambda: Accuracy(
        each(jl.generalized_cross_entropy, "q"),
        generalized,
        examples(every_label, lambda rng, _: [rng.choice((1e-3, 0.3, 0.7, 1))]),
        relative=True,
        bound=POWER,
    ),
}
HALVES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
EACH = pytest.mark.parametrize("name", CASES)


def test_every_multiclass_loss_is_measured():
    measured = {name.replace(",", "").split()[0] for name in CASES}
    margins = ("hinge", "multilabel", "fenchel_young")
    losses = {
        name
        for name in families()["multiclass"]
        if not getattr(jl, name).__module__.endswith(margins)
    }
    # `smooth_labels` is one line of arithmetic, which the catalogue covers, and
    # `log_softmax` no loss: `tests/test_probability.py` measures it.
    others = {"safe_softmax_cross_entropy", "smooth_labels", "log_softmax"}
    assert measured | others == losses


def batches(found: list[Example]):
    """The examples by their number of classes, and their inputs as NumPy arrays."""
    groups: dict[int, list[Example]] = {}
    for example in found:
        groups.setdefault(len(example.logits), []).append(example)
    for group in groups.values():
        logits, labels, parameters = zip(*group, strict=True)
        columns = (logits, labels, *zip(*parameters, strict=True))
        yield group, [np.asarray(column) for column in columns]


def arrays_of(columns, dtype=jnp.float32):
    kinds = [jnp.int32 if x.dtype.kind == "i" else dtype for x in columns]
    return [jnp.asarray(x, kind) for x, kind in zip(columns, kinds, strict=True)]


def of_real(loss, arrays):
    """The loss as a function of its real arguments, and these."""
    real = [i for i, x in enumerate(arrays) if x.dtype != jnp.int32]

    def moved(*inputs):
        given = dict(zip(real, inputs, strict=True))
        return loss(*(given.get(i, x) for i, x in enumerate(arrays)))

    return moved, [arrays[i] for i in real]


def value_and_slopes(loss, arrays):
    """The values, and the slopes by each real input: one row an example."""

    @jax.jit
    def run(*arrays):
        moved, inputs = of_real(loss, arrays)
        value, pull_back = jax.vjp(moved, *inputs)
        return value, *pull_back(jnp.ones_like(value))

    return [x.reshape(len(x), -1) for x in run(*arrays)]


def exact(x):
    if isinstance(x, tuple | list):
        return [exact(v) for v in x]
    return x if isinstance(x, int) else mpf(x)


@functools.cache
def softmax(logits):
    return Softmax(logits)


def truth_of(case, example):
    with mp.workdps(DIGITS):
        return case.truth(
            softmax(example.logits),
            exact(example.labels),
            *map(exact, example.parameters),
        )


def flushed(example, entry):
    """What is lost if the exponential of every class is flushed to zero."""
    return FLUSHED * entry.gain * len(example.logits)


def compare(case, group, columns, dtype=jnp.float32):
    """Quantity, example, the entry found and the true one; for those with a value."""
    found = map(np.asarray, value_and_slopes(case.loss, arrays_of(columns, dtype)))
    for example, row in zip(group, zip(*found, strict=True), strict=True):
        truth = truth_of(case, example)
        if mp.isinf(truth["value"][0].true):  # an impossible class that counts
            assert row[0] == INF, example
            slopes = zip([*truth][1:], row[1:], strict=True)
            # By the share it is inf - inf.
            kept = [x for name, x in slopes if name != "label_smoothing"]
            assert not any(np.isnan(x).any() for x in kept), example
            continue
        for (quantity, entries), got in zip(truth.items(), row, strict=True):
            # The slope by gamma has a bound of its own, in another case.
            for entry, x in zip(entries, got, strict=quantity != "gamma"):
                if mp.isfinite(entry.true):
                    yield quantity, example, x, entry
                else:  # by the label of an impossible class
                    assert not np.isnan(x), (quantity, example)


@EACH
def test_value_and_slopes_are_within_their_bound(name):
    case = CASES[name]()
    worst: dict[str, tuple[float, str]] = {}
    for group, columns in batches(case.examples[:: choose(3, 1)]):
        for quantity, example, got, entry in compare(case, group, columns):
            true = entry.true
            error = ulp(
                got, true, true, entry.size, flushed(example, entry), case.relative
            )
            if quantity not in worst or not error <= worst[quantity][0]:
                off = f"{error:.2f}, got {got!r}, true value {float(true)!r}"
                worst[quantity] = error, f"{quantity}: {off}, at {str(example)[:400]}"
    over = "\n".join(text for error, text in worst.values() if not error <= case.bound)
    assert not over, over


def of_four_classes(case):
    return next(
        batch for batch in batches(case.examples) if len(batch[0][0].logits) == 4
    )


@pytest.mark.exhaustive
@HALVES
@EACH
def test_half_precision_rounds_the_float32_result(name, dtype):
    case = CASES[name]()
    largest = float(jnp.finfo(dtype).max)

    def rounded(x):
        x = np.where(np.isfinite(x), np.clip(x, -largest, largest), x)
        return x.astype(dtype).astype(float).tolist()

    group = of_four_classes(case)[0]
    group = [
        Example(
            tuple(rounded(example.logits)),
            example.labels
            if isinstance(example.labels, int)
            else tuple(rounded(example.labels)),
            tuple(map(rounded, example.parameters)),
        )
        for example in group[::4]
    ]
    [(group, columns)] = batches(group)
    for quantity, example, got, entry in compare(case, group, columns, dtype):
        assert got.dtype == (np.float32 if quantity == "value" else dtype)
        units = case.bound * spacing(entry.size, case.relative)
        slack = max(units, flushed(example, entry))
        assert is_rounding(got, entry.true, entry.true, slack), (
            f"{quantity}: got {got!r}, true value {entry.true} at {example}"
        )


@pytest.mark.exhaustive
@pytest.mark.any_program
@EACH
def test_second_derivatives_are_finite_where_the_slopes_are(name):
    case = CASES[name]()
    group, columns = of_four_classes(case)

    @jax.jit
    @jax.vmap
    def bends(*arrays):
        def single(*arrays):
            return case.loss(*(jnp.expand_dims(x, 0) for x in arrays))[0]

        moved, inputs = of_real(single, arrays)
        every = tuple(range(len(inputs)))
        slope = jax.grad(moved, every)
        return [nest(slope, every)(*inputs) for nest in (jax.jacfwd, jax.jacrev)]

    finite = np.ones(len(group), bool)
    for bend in jax.tree.leaves(bends(*arrays_of(columns))):
        finite &= np.isfinite(bend).reshape(len(group), -1).all(axis=1)
    for n in np.flatnonzero(~finite):
        entries = [e for es in truth_of(case, group[n]).values() for e in es]
        assert any(abs(e.true) > HUGE for e in entries), group[n]
