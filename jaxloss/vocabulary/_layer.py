"""The logits of a chunk of examples, and their cross entropy."""

from __future__ import annotations

import dataclasses
import math
import operator

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Tail, mean
from jaxloss._core.devices import class_count, sum_over_devices, vary_as
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.numerics.functions import accurate_tanh, power_series
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.rule.dropped import guard
from jaxloss._core.softmax import excess, is_class, maximum, once_read, pick, surprisal
from jaxloss._core.sweeps import rows as sweep


def losses(hidden, labels, shared, tail, mass, chunk_size, precision, axis_name=None):
    """The weighted cross entropies, or their sum where they are to be reduced."""
    tail = tail.spread(labels.shape)
    rows, fixed = {"hidden": hidden}, {"labels": labels}
    if tail.keep is not None:
        fixed["keep"] = tail.keep
    if tail.weights is not None:
        weights = jnp.broadcast_to(tail.weights, labels.shape)
        fixed["dropped"] = weights == 0
    if mass is not None:
        rows["mass"] = mass
    options = rows_per_chunk(chunk_size, hidden), precision, axis_name
    if tail.reduction == "none":
        loss = sweep.map_rows(_cross_entropy, rows, shared, fixed, *options)
        return tail.reduce(loss)
    if tail.weights is not None:
        rows["weights"] = weights
    return sweep.sum_rows(_weighted, rows, shared, fixed, *options)


def harmless_rows(hidden, tail):
    """Rows of features without those that are excluded, or of weight 0 and not finite.

    The gradient of the kernel is a sum of products with these rows.
    """
    (hidden,) = tail.select(hidden, axes=-1)
    if tail.weights is None:
        return hidden
    finite = jnp.all(jnp.isfinite(hidden), axis=-1)
    keep = finite | (tail.weights != 0)
    return dataclasses.replace(tail, keep=keep, weights=None).select(hidden, axes=-1)[0]


def mean_of(summed, tail, mass, batch, dtype):
    """The mean whose weighted sum is known."""
    counted = jnp.ones(batch, dtype) if mass is None else mass
    return mean(summed, dataclasses.replace(tail, reduction="sum").reduce(counted))


# With m the largest logit and e = log Σ_j e^{x_j - m}, the sum of w_j s_j over the
# classes, s_j their surprisals, is Σ_j w_j (m - x_j) + e Σ_j w_j, no term of which is
# negative, and the log-sum-exp of z_loss is m + e. So the logits' maximum and sums are
# read first; then exponentials are written over the logits, and the gradient over the
# exponentials. At 4,096 examples of 512 features and 50,304 classes in float32, value
# and gradients by XLA for CPU, that is 328 MB; with an array of all s_j it is 1,047 MB.
def _cross_entropy(x, given, fixed, axis_name):
    axis = {"axis": 1, "axis_name": axis_name}
    if "dropped" in fixed:
        x, given = _guarded(x, given, fixed["dropped"])
    x = logits(x, given)
    labels, valid = own_labels(x, fixed["labels"], axis_name)
    top = once_read(maximum(x, **axis), pick(x, labels, **axis))
    if "label_smoothing" in given:
        behind = sum_over_devices(_behind(x, top, given), axis_name)
        top = once_read(top, behind)
    loss = surprisal(x, labels, **axis, top=top)
    if "mass" in given:
        loss = zero_safe_product(given["mass"], loss)
    if "label_smoothing" in given or "z_loss" in given:
        above = excess(x, labels, top, **axis)
    if "label_smoothing" in given:
        alpha, classes = given["label_smoothing"], class_count(x, (1,), axis_name)
        if "class_weights" in given:
            mass = sum_over_devices(jnp.sum(given["class_weights"], axis=-1), axis_name)
        else:
            mass = jnp.asarray(classes, x.dtype)
        spread = (behind + mass * above) / classes
        loss = zero_safe_product(1 - alpha, loss) + zero_safe_product(alpha, spread)
    if "z_loss" in given:
        loss = loss + given["z_loss"] * jnp.square(top + above)
    return jnp.where(valid, loss, jnp.nan)


def _guarded(x, given, dropped):
    """Logits and parameters for each row, their derivatives finite where `dropped`."""
    shapes = {"bias": x.shape, "class_weights": x.shape, "logit_softcap": x.shape}
    shapes["temperature"] = x.shape

    def each(value, shape):
        by_row = jnp.expand_dims(dropped, tuple(range(1, len(shape))))
        return guard(jnp.broadcast_to(value, shape), by_row)

    given = {
        name: each(value, shapes.get(name, dropped.shape))
        for name, value in given.items()
        if name != "weights"
    } | {name: given[name] for name in ("weights",) if name in given}
    return each(x, x.shape), given


def _behind(x, top, given):
    """Σ_j w_j (m - x_j) over this device's classes."""
    behind = -(x + -top[:, None])  # of m itself XLA would write a broadcast
    if "bias" in given:  # an impossible class has no gradient
        behind = jnp.where(jnp.isneginf(x), jnp.inf, behind)
    if "class_weights" in given:
        behind = zero_safe_product(given["class_weights"], behind)
    return jnp.sum(behind, axis=1)


def _weighted(x, given, fixed, axis_name):
    loss = _cross_entropy(x, given, fixed, axis_name)
    return Tail(fixed.get("keep"), given.get("weights"), "none").reduce(loss)


def logits(x, given):
    """The logits of hidden · kernel; a bias of -inf leaves out a class for good."""
    if "bias" in given:
        x = x + given["bias"]
    if "logit_softcap" in given:
        cap = vary_as(given["logit_softcap"], x)
        x = _softcap(x, jnp.broadcast_to(cap, x.shape))
    if "temperature" in given:
        temperature = vary_as(given["temperature"], x)
        x = _divide(x, jnp.broadcast_to(temperature, x.shape))
    return x


# f = c tanh z with z = x / c, and with u = e^(-2|z|)
#     df/dx = sech² z = 4u / (1 + u)²,           where 1 - tanh² z is 0 from z = 9.1 on,
#     df/dc = tanh z - z sech² z = (sinh 2z - 2z) sech² z / 2,
# the second form by its power series for small z, where the terms of the first cancel.
@pointwise
def _softcap(x, cap):
    z = x / cap
    u = jnp.exp(-2 * jnp.abs(z))
    slope = 4 * u / jnp.square(1 + u)
    value = accurate_tanh(z)
    y = 2 * jnp.where(jnp.abs(z) < 1, z, 0)
    terms = [
        1 / math.factorial(2 * k + 3) for k in range(8 if z.dtype.itemsize < 8 else 14)
    ]
    near = (y * y * y) * power_series(terms, y * y) * (slope / 2)
    far = value - jnp.where(u == 0, 0, z) * slope
    return cap * value, (slope, jnp.where(jnp.abs(z) < 1, near, far))


@pointwise
def _divide(x, temperature):
    """x / temperature, whose slope in the temperature is 0 at -inf, not NaN."""
    finite = jnp.where(jnp.isneginf(x), 0, x)
    return x / temperature, (1 / temperature, -finite / jnp.square(temperature))


def own_labels(x, labels, axis_name):
    """Labels that are classes, and whether they were."""
    valid = is_class(x, labels, 1, axis_name)
    return jnp.clip(labels, 0, class_count(x, (1,), axis_name) - 1), valid


def real(name, value, hidden):
    """A floating array with a class axis; numbers of another kind are made floating."""
    array = checks.to_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(checks.compute_dtype(hidden))
    return checks.class_array(name, array, -1)[0]


def label_array(labels, hidden):
    labels = checks.integer_array("labels", labels)
    batch = hidden.shape[:-1]
    checks.check_broadcast(
        "labels", labels.shape, "hidden without its feature axis", batch
    )
    if labels.dtype.itemsize < 4:  # so that it can hold the number of classes
        labels = labels.astype(jnp.int32)
    return jnp.broadcast_to(labels, batch)


def rows_per_chunk(chunk_size, hidden, arrays=1):
    if chunk_size is None:
        return sweep.default_size(hidden.shape[-1]) // arrays
    checks.check_integer("chunk_size", chunk_size)
    checks.at_least(1).check("chunk_size", chunk_size)
    return operator.index(chunk_size)
