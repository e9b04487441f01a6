"""Functions of one number within a few units in the last place (ulp).

Accuracies are for float32 on XLA's CPU backend; the tests hold the losses to them over
the whole range. Every function is finite where its true value is, and so are its
derivatives of all orders, unless it says otherwise. Names begin with `accurate_` where
`jax.numpy` has a function of that name with fewer digits.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxloss._core.rule.analytic import analytic, pointwise

LOG_2 = 0.6931471805599453

LOG_2_PI = 1.8378770664093453

# Near-minimax polynomials (Chebyshev, 40 digits) in z = e² on |e| <= 0.75 of
# log(cosh e) / e² and tanh(e) / e; relative errors 2e-9 and 2e-9 in float32,
# 5e-20 and 7e-20 in float64.
_SWITCH = 0.75

_TAIL = (1 - math.tanh(_SWITCH)) / 2

_LOG_COSH = {
    jnp.dtype("float32"): (
        0.49999999772233501,
        -0.083333040991587045,
        0.022216072676763626,
        -0.0066980035274739175,
        0.0020127980614846451,
        -0.00042877658891171885,
    ),
    jnp.dtype("float64"): (
        0.5,
        -0.083333333333333331345,
        0.022222222222221957671,
        -0.0067460317460178266073,
        0.0021869488532312018692,
        -0.00073860295442009449324,
        0.00025658050417050670342,
        -0.000090989124657903165362,
        0.000032776506133443661493,
        -0.000011945677559294371605,
        4.3749686869823165888e-6,
        -1.5747230531198277235e-6,
        5.212713706034356629e-7,
        -1.3603469730331436257e-7,
        1.9771712920896515752e-8,
    ),
}

_TANH = {
    jnp.dtype("float32"): (
        0.99999999848501106,
        -0.33333306877459207,
        0.13332571835024207,
        -0.053885084942893486,
        0.021429011678764817,
        -0.0076241026031834627,
        0.0017186269850272643,
    ),
    jnp.dtype("float64"): (
        0.99999999999999999993,
        -0.3333333333333332752,
        0.1333333333333255976,
        -0.053968253967846829206,
        0.021869488524908946531,
        -0.0088632353423531651423,
        0.003592125988940491367,
        -0.0014558189975128614606,
        0.00058994527784660367883,
        -0.00023881174034580714379,
        0.00009602124689250730827,
        -0.000037443110771086991919,
        0.000013201854634860643036,
        -3.6018923862328081701e-6,
        5.3870939083112982018e-7,
    ),
}


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with derivative 0 at 0 as PyTorch's; a NaN stays a NaN."""
    return jnp.where(x <= 0, 0, x)


def log_of_cosh(e: jax.Array) -> jax.Array:
    """log(cosh e) within 3 ulp, in a rule's value: it has no derivative.

    With b = min(|e|, 0.75), d = |e| - b and k = (1 - tanh 0.75)/2, where d > 0,
    log cosh(b + d) = log cosh(b) + d + log1p(k (exp(-2d) - 1)): a polynomial keeps the
    digits of e² near 0, far from it no term cancels, and no comparison keeps a sum over
    the result from taking it in.
    """
    a = jnp.abs(e)
    b = jnp.minimum(a, _SWITCH)
    d, z = a - b, b * b
    near = z * power_series(_LOG_COSH[e.dtype], z)
    return near + (d + jnp.log1p(_TAIL * (jnp.exp(-2 * d) + (-1.0))))


def accurate_tanh(e: jax.Array) -> jax.Array:
    """tanh e within 3 ulp: a polynomial near 0, (1 - u)/(1 + u) with u = exp(-2|e|)."""
    a = jnp.abs(e)
    small = a < 0.7  # a number of its own: XLA writes those that two passes share
    near = jnp.where(small, e, 0)
    u = jnp.exp(-(a + a))
    far = jnp.sign(e) * ((1 - u) / (1 + u))
    return jnp.where(small, near * power_series(_TANH[e.dtype], near * near), far)


def power_series(coefficients: Sequence[float], z: jax.Array) -> jax.Array:
    """Σ_k coefficients[k] z^k by Horner's rule."""
    total = jnp.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * z + coefficient
    return total


def magnitude(x: jax.Array) -> jax.Array:
    """|x| with derivative 1 at 0, the one that agrees with a branch on x >= 0.

    The derivative 0 of `jnp.abs` would make second derivatives at 0 wrong, of
    sigmoid(x) = where(x >= 0, 1/(1+u), u/(1+u)) with u = exp(-|x|) for instance.
    """
    return jnp.where(x >= 0, x, -x)


@pointwise
def softplus(x: jax.Array):
    """log(1 + exp x), within 3 ulp; its derivative sigmoid(x), within 3 ulp."""
    u = jnp.exp(-magnitude(x))
    value = relu(x) + jnp.log1p(u)
    return value, (jnp.where(x >= 0, 1, u) / (1 + u),)


# log(2) in two parts: the first has so few digits that its product with an exponent is
# exact.
LOG_2_PARTS = {
    jnp.dtype("float32"): (0.693145751953125, 1.42860682030941723e-6),
    jnp.dtype("float64"): (0.693147180559662956511601805687, 2.82352905630315771e-13),
}

# e^-r = 1 - r + r² Q(r) for |r| <= log(2)/2, with Q by a near-minimax polynomial
# (Chebyshev, 50 digits): relative errors 2e-10 in float32, 2e-19 in float64.
_EXP = {
    jnp.dtype("float32"): (
        0.50000000134981779,
        -0.16666666681659179,
        0.041666464602026542,
        -0.0083333108895820772,
        0.0013933685862617174,
        -0.00019891030654370328,
    ),
    jnp.dtype("float64"): (
        0.5,
        -0.16666666666666671,
        0.04166666666666667,
        -0.0083333333333261121,
        0.0013888888888883732,
        -0.00019841269874901259,
        2.4801587325605323e-5,
        -2.7557255297969644e-6,
        2.755727357010214e-7,
        -2.5105259538448493e-8,
        2.0914717341716376e-9,
    ),
}


def _exp_minus(a):
    """e^-a as 2^-n e^-r, in two parts."""
    high, low = LOG_2_PARTS[a.dtype]
    info = jnp.finfo(a.dtype)
    a = jnp.minimum(a, (info.maxexp - 1) * LOG_2)
    n = jnp.round(a / LOG_2)
    rough = a - n * high
    r = rough - n * low
    r_lost = (rough - r) - n * low
    near = 1 - r
    rest = ((1 - near) - r) + (r * r * power_series(_EXP[a.dtype], r) - r_lost)
    u = near + rest
    exponent = (info.maxexp - 1) - n.astype(f"int{info.bits}")
    scale = jax.lax.bitcast_convert_type(exponent << info.nmant, a.dtype)
    return u * scale, (rest - (u - near)) * scale


_exp_of_minus = analytic(
    lambda a: (_exp_minus(a)[0], (a,)),
    lambda residuals, cotangent: (-cotangent * _exp_of_minus(*residuals),),
)


def exp_minus(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """e^-a for a >= 0 within 1 ulp, and what rounding took from it.

    The two add up to e^-a within 0.25 of 2^-24, relative to it, and to 1 - e^-a within
    0.4. XLA's own exp is off by an unknown part of an ulp, which a power multiplies.
    """
    return _exp_of_minus(a), jax.lax.stop_gradient(_exp_minus(a)[1])


# The polynomial P in u - 1/2 on [0, 1] for which log(1 + u) = u + u² P, near-minimax
# (Chebyshev, 60 digits): relative errors 1.2e-8 in float32, 4e-18 in float64.
_LOG1P = {
    jnp.dtype("float32"): (
        -0.378139549,
        0.179224896,
        -0.0932317609,
        0.0510871425,
        -0.0289038167,
        0.0166812685,
        -0.0102071665,
        0.00683829919,
        -0.00317605702,
    ),
    jnp.dtype("float64"): (
        -0.378139567567342466,
        0.179224936936036542,
        -0.0932303663636674486,
        0.0510834461055822907,
        -0.0289431831648274728,
        0.0167887424761530672,
        -0.00990990073406442663,
        0.00592901212463242154,
        -0.00358566597767887608,
        0.00218763632296446846,
        -0.00134450741464578227,
        0.000831473734309221046,
        -0.000516812885087594339,
        0.000322556174775627277,
        -0.000202984672484018778,
        0.000129184171388338701,
        -0.000078831275974049718,
        0.0000444149681398252759,
        -0.0000339157800571396712,
        0.0000331057782789295249,
        -0.0000160202167255381931,
    ),
}


def _log1p_unit(u, lost):
    # u (u P), since XLA would make an exponential of its own of the square of one.
    rest = u * (u * power_series(_LOG1P[u.dtype], u - 0.5)) + lost
    value = u + rest
    return value, rest - (-u + value)


_log1p_of_unit = analytic(
    lambda u, lost: (_log1p_unit(u, lost)[0], (u,)),
    lambda residuals, cotangent: (cotangent / (1 + residuals[0]), None),
)


def log1p_unit(u: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(1 + u + lost) for u in [0, 1] within 1 ulp, and what rounding took from it.

    XLA's own is 2.5 ulp off there and, in a loop on CPU, takes three times as long.
    """
    taken = jax.lax.stop_gradient(_log1p_unit(u, lost)[1])
    return _log1p_of_unit(u, lost), taken


@pointwise
def accurate_expm1(x: jax.Array):
    """exp(x) - 1 within 4 ulp (Kahan's form; XLA's own was off by 5 in JAX 0.10)."""
    u = jnp.exp(x)
    ordinary = (u != 1) & (u - 1 != -1) & jnp.isfinite(u)
    safe = jnp.where(ordinary, u, 2)
    value = jnp.where(ordinary, (safe - 1) * (x / jnp.log(safe)), u - 1)
    return jnp.where(u == 1, x, value), (jnp.exp(x),)


def expm1_ratio(y: jax.Array) -> jax.Array:
    """(e^y - 1)/y = Σ_k y^k / (k + 1)!, which is 1 at 0."""
    large = jnp.where(jnp.abs(y) < 1, 1, y)
    terms = [1 / math.factorial(k + 1) for k in range(18)]
    return _by_series(terms, y, accurate_expm1(large) / large)


def expm1_ratio_slope(y: jax.Array) -> jax.Array:
    """(y e^y - e^y + 1)/y² = Σ_k y^k / (k! (k + 2)), the slope of `expm1_ratio`."""
    large = jnp.where(jnp.abs(y) < 1, 1, y)
    terms = [1 / (math.factorial(k) * (k + 2)) for k in range(18)]
    otherwise = ((large - 1) * jnp.exp(large) + 1) / large / large
    return _by_series(terms, y, otherwise)


def _by_series(terms, y, otherwise):
    near = jnp.abs(y) < 1
    return jnp.where(near, power_series(terms, jnp.where(near, y, 0)), otherwise)
