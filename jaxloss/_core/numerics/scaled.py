"""Numbers that carry an exponent of their own, for long recursions of probabilities.

A recursion over thousands of frames leaves the range of floating point, which is why
it is usually done in log space. There it loses digits: a logarithm of -5000 in float32
is known to 5e-4, and so is every ratio of two such numbers. Here a number keeps plain
arithmetic's digits, has the range of log space, and takes neither exp nor log a step.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.numerics.exact import difference_from_own

_BASE = 2.0**64
# log(_BASE) in two parts, the first with few bits: times an exponent it is exact.
_LOG_BASE = (44.359375, 64 * math.log(2) - 44.359375)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled:
    """Non-negative numbers mantissa · B^exponent with B = 2^64, elementwise.

    The exponent is integral and 0 is 0 · B^-inf. Products bring the mantissa back to
    [1/√B, √B); sums of a few numbers or a reciprocal go little beyond, and float32 has
    room for B on either side. Exponents are locally constant, so that plain
    differentiation of the mantissas is right, and finite as relative derivatives are.
    """

    mantissa: jax.Array
    exponent: jax.Array

    def __add__(self, other: "Scaled") -> "Scaled":
        # Of two numbers more than one B apart, rounding leaves the larger alone.
        gap = self.exponent - other.exponent
        other_leads = gap < 0
        lead = jnp.where(other_leads, other.mantissa, self.mantissa)
        rest = jnp.where(other_leads, self.mantissa, other.mantissa)
        share = jnp.where(gap == 0, 1, jnp.where(jnp.abs(gap) == 1, 1 / _BASE, 0))
        exponent = jnp.where(other_leads, other.exponent, self.exponent)
        return Scaled(lead + rest * share.astype(rest.dtype), exponent)

    def __mul__(self, other: "Scaled") -> "Scaled":
        m, e = self.mantissa * other.mantissa, self.exponent + other.exponent
        up = jnp.where(m >= _BASE**0.5, 1, jnp.where(m < _BASE**-0.5, -1, 0))
        # One factor, since subnormal numbers beside the branch taken cost much time.
        factor = jnp.where(up == 1, 1 / _BASE, jnp.where(up == -1, _BASE, 1))
        return Scaled(m * factor.astype(m.dtype), e + up.astype(e.dtype))

    def reciprocal(self) -> "Scaled":
        """1 / self, and 0 for 0."""
        positive = ~self.is_zero()
        inverse = Scaled(1 / jnp.where(positive, self.mantissa, 1), -self.exponent)
        return inverse.where(positive)

    def is_zero(self) -> jax.Array:
        return jnp.isneginf(self.exponent)

    def where(self, mask: jax.Array) -> "Scaled":
        """The number where `mask`, else 0."""
        mantissa = jnp.where(mask, self.mantissa, 0)
        return Scaled(mantissa, jnp.where(mask, self.exponent, -jnp.inf))

    def shift(self, by: int) -> "Scaled":
        """Moves the entries of the last axis by `by`; zeros come in."""

        def pad(x, nothing):
            keep = [(0, 0, 0)] * (x.ndim - 1)
            return jax.lax.pad(x, jnp.asarray(nothing, x.dtype), [*keep, (by, -by, 0)])

        return Scaled(pad(self.mantissa, 0), pad(self.exponent, -jnp.inf))

    def value(self) -> jax.Array:
        """A product of at most 1 in floating point; less than B^-2 is 0."""
        # In two factors, since 1/B² alone would be flushed to 0.
        near = jnp.where(self.exponent >= -2, 1 / _BASE, 0)
        first = jnp.where(self.exponent == 0, 1, near).astype(self.mantissa.dtype)
        second = jnp.where(self.exponent == -2, 1 / _BASE, 1)
        return (self.mantissa * first) * second.astype(self.mantissa.dtype)


def exp(x: jax.Array, lost: jax.Array | float = 0.0) -> Scaled:
    """exp(x + lost) as a scaled number, for every x up to infinity.

    `lost` is what rounding took from x, and carries no derivative.
    """
    exponent = stop_gradient(jnp.round(x / sum(_LOG_BASE)))
    never = jnp.isneginf(exponent)
    x, e = jnp.where(never, 0, x), jnp.where(never, 0, exponent)
    rest = ((x - e * _LOG_BASE[0]) - e * _LOG_BASE[1]) + lost
    # A huge x is not known to one B: what is left of it is rounding.
    rest = rest + stop_gradient(jnp.clip(rest, -23, 23) - rest)
    return Scaled(jnp.where(never, 0, jnp.exp(rest)), exponent)


def probability(x: jax.Array, top: jax.Array, total: jax.Array) -> Scaled:
    """exp(x - top) / total: of a class with the logit x, where `top` is the largest."""
    power = exp(*difference_from_own(x, top))
    return Scaled(power.mantissa / total, power.exponent)


def one_like(x: Scaled) -> Scaled:
    return Scaled(jnp.ones_like(x.mantissa), jnp.zeros_like(x.exponent))


def choose(mask: jax.Array, x: Scaled, y: Scaled) -> Scaled:
    """x where the mask is True, y elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), x, y)


def log(x: Scaled, at_zero: jax.Array | float = -jnp.inf) -> jax.Array:
    """log(x) in floating point, `at_zero` where x is 0."""
    never = x.is_zero()
    high, low = (jnp.where(never, 0, x.exponent) * part for part in _LOG_BASE)
    value = (jnp.log(jnp.where(never, 1, x.mantissa)) + low) + high
    return jnp.where(never, at_zero, value)
