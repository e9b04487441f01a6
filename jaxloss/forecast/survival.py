"""Times until an event, of which some are only known to be longer."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_to, whole
from jaxloss._core.numerics.functions import softplus

_TIES = ("efron", "breslow")


@public()
def cox_partial_likelihood_loss(
    log_hazards: ArrayLike,
    times: ArrayLike,
    events: ArrayLike,
    *,
    ties: Literal["efron", "breslow"] = "efron",
    strata: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cox's negative log partial likelihood of times until an event.

    Choose it for survival data: it learns who has the event first, uses the times only
    by their order, and takes censored subjects, whose event was not seen, into account.

    With $\eta$ the log-hazards, $R_i$ the subjects at risk at the time of event $i$,
    those whose time is not before it, and $w$ the weights:

    $$ \log \sum_{j \in R_i} w_j e^{\eta_j} - \eta_i $$

    With Efron's ties, the $l$-th of $d$ events at the same time, $l = 0, \dots, d - 1$,
    takes the share $l / d$ of the sum over these events, $D$, out of its sum:
    $\sum_{R} w_j e^{\eta_j} - \frac{l}{d} \sum_{D} w_j e^{\eta_j}$. Breslow's ties take
    nothing out.

    Also known as the loss of Cox regression and of DeepSurv.

    Args:
        log_hazards: Floating, `[N]`: one predicted log-hazard per subject, up to a
            common constant.
        times: Real or integer, `[N]`: the time of the event or of the censoring. A
            subject censored at the time of an event is at risk. Real times are compared
            in JAX's precision: without x64, those that agree in float32 are ties.
        events: Boolean or 0 and 1, `[N]`: whether the event was seen. Any other value
            gives NaN, and raises under `checkify`.
        ties: "efron" or "breslow": how events at the same time are counted.
        strata: Integer, `[N]`: only subjects of the same stratum are compared. None is
            one stratum.
        where: Boolean mask; False entries are excluded, from the sums as well.
        weights: Real weights per subject, at least 0, in the loss and in the sums: a
            weight of 2 is the subject twice, apart from ties. A weight of 0 excludes a
            subject from the sums as well.
        reduction: "none", "sum" or "mean" (weighted). "mean", the default, divides by
            the weights of the events.

    Returns:
        A scalar, at least 0 without weights. For the reduction "none" `[N]`: one term
        per event and 0 for the censored; events at the same time all have their mean
        with Efron's ties. Without events the loss is 0.

    Gradient:
        For a log-hazard, the sum of its shares $w_j e^{\eta_j} / \sum_R w e^\eta$ over
        the events at whose time it was at risk, less 1 for its own event. Also for
        `weights`. None for `times`, `events` and `strata`.

    Numerics:
        One sort and one running sum: $O(N \log N)$ operations and $O(N)$ memory. All
        sums carry their own maximum, so that no hazard over- or underflows, and the
        loss of a sure event keeps its digits.

    Raises:
        ValueError: If an argument is not `[N]`, or `ties` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> log_hazards, times = [0.5, 1.0, -0.2, 0.0], [3.0, 1.0, 3.0, 5.0]
        >>> loss = jl.cox_partial_likelihood_loss(log_hazards, times, [1, 1, 1, 0])
        >>> f"{loss:.4f}"
        '0.8564'

    References:
        David R. Cox, "Partial likelihood", 1975,
        https://doi.org/10.1093/biomet/62.2.269

        Bradley Efron, "The Efficiency of Cox's Likelihood Function for Censored Data",
        1977, https://doi.org/10.1080/01621459.1977.10480613
    """
    checks.check_option("ties", ties, _TIES)
    (x,) = checks.real_arrays(log_hazards=log_hazards)
    if x.ndim != 1:
        raise ValueError(f"`log_hazards` must have shape [N], got shape {x.shape}.")
    times = checks.to_array("times", _ranks(times))
    events = checks.to_array("events", events)
    named: dict[str, jax.Array] = {"times": times, "events": events}
    if strata is not None:
        strata = _ranks(strata)
        named["strata"] = checks.integer_array("strata", strata, kind="stratum")
    for name, value in named.items():
        checks.check_broadcast(name, value.shape, "log_hazards", x.shape)
    tail = checks.tail(where, weights, reduction, shape=x.shape, dtype=x.dtype)
    tail = tail.spread(x.shape)
    counted = jnp.ones(x.shape, bool) if tail.keep is None else tail.keep
    w = jnp.ones_like(x)
    if tail.weights is not None:
        w = broadcast_to(tail.weights, x)
    counted = counted & (w != 0)
    event = jnp.broadcast_to(events.astype(x.dtype), x.shape)
    known = (event == 0) | (event == 1)
    x = checks.check_values("events", x, tail.counts(known), "0 or 1")
    keys = [jnp.broadcast_to(v, x.shape) for n, v in named.items() if n != "events"]
    (x,) = tail.select(x)
    x = jnp.where(counted, x, 0)
    loss = _terms(x, keys, event == 1, counted, jnp.where(counted, w, 0), ties)
    loss = jnp.where(counted & ~known, jnp.nan, loss)
    # An event that is neither 0 nor 1 counts, so that the mean is NaN as well.
    return tail.reduce(loss, (event != 0).astype(x.dtype))


def _ranks(values):
    """The ranks of NumPy integers that do not fit JAX's, else the values themselves.

    Times and strata are only compared.
    """
    if isinstance(values, list | tuple):
        values = np.asarray(values)
    if not isinstance(values, np.ndarray) or checks.fits_integer(values):
        return values
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


# In the order of strata and times, with events before the censored of the same time,
# the events of one time are D, and what follows them in their stratum is the rest of
# those at risk. With m the largest log-hazard in D, T = Σ_D w e^(η - m), Q the rest's
# sum, and f = (d - l)/d, or f = 1 with Breslow's ties, a term is
#     log(T f e^m + Q) - η = (m - η) + log(T f) + softplus(log Q - m - log(T f)),
# in which nothing cancels: a sure event has Q = 0 or a tiny one. Maxima are held
# constant, since the result does not depend on them. So is the order; JAX's own
# derivative of the sums, each below its maximum, over- and underflows nowhere.
def _terms(x, keys, event, counted, w, ties):
    """The term of each event that counts; 0 for all other subjects."""
    n = x.shape[0]
    if isinstance(n, int) and n == 0:
        return x
    keys = [whole(jnp.where(counted, key, jnp.zeros_like(key)), 0) for key in keys]
    x, event, counted, w = (whole(v, 0) for v in (x, event & counted, counted, w))
    position = jnp.arange(n, dtype=jnp.int32)
    sort_keys = (~counted, *keys[1:], keys[0], ~event)
    *ordered, place = jax.lax.sort(
        (*sort_keys, position), num_keys=len(sort_keys), is_stable=True
    )
    excluded, *strata, time, censored = ordered
    # A NaN among the times makes all risk sets of its stratum unknown.
    x, w, event = x[place], w[place], ~censored
    if jnp.issubdtype(time.dtype, jnp.floating):
        x = jnp.where(jnp.isnan(time), jnp.nan, x)
    new_stratum = _changes(excluded, *strata)
    group = _Groups.of(new_stratum | _changes(time), event)
    top = stop_gradient(group.largest(jnp.where(event, x, -jnp.inf)))
    impossible = jnp.isneginf(stop_gradient(group.least(jnp.where(event, x, jnp.inf))))
    shift = jnp.where(jnp.isfinite(top), top, 0)
    sure = event & ~jnp.isneginf(x)
    mass = jnp.where(sure, w * jnp.exp(jnp.where(sure, x, shift) - shift), 0)
    tied = group.total(mass)
    scale, rest = _rest(x, w, new_stratum, group)
    weight = group.total(jnp.where(event, w, 0))
    lag = group.total(jnp.where(sure, w * (shift - jnp.where(sure, x, shift)), 0))
    some = jnp.where(event, weight, 1)
    if ties == "efron":
        share = (group.count - group.rank) / jnp.where(event, group.count, 1)
        lag = lag / jnp.where(some == 0, 1, some)
    else:
        share, lag = jnp.ones_like(x), shift - jnp.where(sure, x, shift)
    possible = event & ~impossible
    own = jnp.where(possible, tied * share.astype(x.dtype), 1)
    at_top = jnp.where(event & (x == top), group.rank, x.shape[0])
    lead = group.rank == group.least(at_top)
    log_own = _log_of_tied(own, mass, share, possible, lead, group)
    empty = rest == 0
    gap = jnp.log(jnp.where(empty, 1, rest)) + (scale - shift)
    term = log_own + softplus(jnp.where(empty, -jnp.inf, gap - log_own))
    if ties == "efron":
        term = group.total(jnp.where(event, term, 0))
        term = term / jnp.where(event, group.count, 1).astype(x.dtype)
    lost = impossible if ties == "efron" else jnp.isneginf(x)
    term = jnp.where(lost, jnp.inf, term + lag)
    term = jnp.where(event, term, 0)
    return jnp.zeros_like(term).at[place].set(term, unique_indices=True)


def _log_of_tied(own, mass, share, possible, lead, group):
    """The logarithm of the tied sum, near 0 where one event has nearly all of it.

    The sum leaves out `lead`, one event with the largest hazard, whose mass is its
    weight, and log1p of the rest keeps its digits.
    """
    first = group.total(jnp.where(lead, mass, 0))
    others = group.total(jnp.where(lead, 0, mass))
    apart = possible & (own > 0) & (others < first / 2)
    factor = jnp.where(apart, first * share.astype(mass.dtype), own)
    return jnp.log(factor) + jnp.log1p(
        jnp.where(apart, others / jnp.where(apart, first, 1), 0)
    )


def _changes(*keys):
    """Where a subject differs from the one before it in a key."""
    first = jnp.arange(keys[0].shape[0]) == 0
    for key in keys:
        first = first | (key != jnp.roll(key, 1))
    return first


class _Groups:
    """The events of one time, in order; totals go to each member of a group."""

    def __init__(self, ids: Any, first: Any, event: Any):
        self.ids, self.first = ids, first
        self.count = self.total(event.astype(jnp.int32))
        self.rank = jnp.arange(first.shape[0], dtype=jnp.int32) - first
        # What follows the events of the group.
        self.next = first + self.count

    @classmethod
    def of(cls, new, event):
        ids = jnp.cumsum(new, dtype=jnp.int32) - 1
        position = jnp.arange(new.shape[0], dtype=jnp.int32)
        return cls(ids, jax.lax.cummax(jnp.where(new, position, 0)), event)

    def total(self, x):
        return self._each(jax.ops.segment_sum, x)

    def largest(self, x):
        return self._each(jax.ops.segment_max, x)

    def least(self, x):
        return self._each(jax.ops.segment_min, x)

    def _each(self, reduce, x):
        n = self.ids.shape[0]
        return reduce(x, self.ids, n, indices_are_sorted=True)[self.ids]


def _rest(x, w, new_stratum, group):
    """Q of each group as a maximum and a sum of exponentials below it."""
    last = jnp.roll(new_stratum, -1)
    hazard = (w != 0) & ~jnp.isneginf(x)
    top = stop_gradient(jnp.where(hazard, x, -jnp.inf))
    mass = jnp.where(hazard, w * jnp.exp(jnp.where(hazard, x - top, 0)), 0)

    def join(later, earlier):
        stop, m, s = later
        own_stop, own_m, own_s = earlier
        most = jnp.maximum(m, own_m)
        s = s * jnp.exp(jnp.where(m == most, 0, m - most))
        joined = s + own_s * jnp.exp(jnp.where(own_m == most, 0, own_m - most))
        return (
            stop | own_stop,
            jnp.where(own_stop, own_m, most),
            jnp.where(own_stop, own_s, joined),
        )

    n = x.shape[0]
    if isinstance(n, int):
        _, tops, sums = jax.lax.associative_scan(join, (last, top, mass), reverse=True)
    else:  # a symbolic size, whose logarithm is not known

        def step(later, own):
            joined = join(later, own)
            return joined, joined

        end = tuple(jnp.ones_like(v[0]) for v in (last, top, mass))
        _, (_, tops, sums) = jax.lax.scan(step, end, (last, top, mass), reverse=True)
    index = jnp.minimum(group.next, n - 1)
    inside = (group.next < n) & ~new_stratum[index]
    scale = jnp.where(inside, tops[index], -jnp.inf)
    finite = jnp.isfinite(scale) | jnp.isnan(scale)
    return jnp.where(finite, scale, 0), jnp.where(inside & finite, sums[index], 0)
