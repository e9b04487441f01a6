"""Second derivatives over all pairs of arguments, where the branches of a loss meet.

At a logit of exactly 0, where several classes share the maximum, or where one class has
all the mass, an implementation passes from one form to another. Each form has to have
the derivative of the loss there, not that of a constant. The Hessian over all real
arguments has to be symmetric, and to agree with differences of the first derivative.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import each_case, weighted

pytestmark = [pytest.mark.usefixtures("device", "x64"), pytest.mark.any_program]

STEP = 1e-6
JUMP = 1e4 * STEP


def points(case):
    """The case's arrays, and those whose first input lies where branches meet."""
    real, rest = weighted(case, jnp.float64)
    plain = {name: np.asarray(x) for name, x in real.items()}
    lead = plain[case.lead]
    low, high = case.domain.get(case.lead, (-np.inf, np.inf))
    moved = {"zero": np.zeros_like(lead), "ties": np.full_like(lead, 0.25)}
    if case.lead in case.class_inputs and low < -50:
        # One class has all the mass: the first one, and the label's own or another's.
        moved["one class"] = np.zeros_like(lead)
        moved["one class"][..., 0] = 40.0
    yield "plain", plain, rest
    for label, value in moved.items():
        if np.all((value >= low) & (value <= high)):
            yield label, {**plain, case.lead: value}, rest


@functools.cache
def program(case):
    """The gradient, and the products of the Hessian with some tangents."""

    @jax.jit
    def run(real, rest, lines):
        def gradient(real):
            return jax.grad(lambda real: jnp.sum(case({**real, **rest})))(real)

        def product(line):
            return jax.jvp(gradient, (real,), (line,))[1]

        return gradient(real), jax.vmap(product)(lines)

    return run


def dot(x, y):
    return sum(np.vdot(x[name], y[name]) for name in x)


def jump(x, y):
    """The largest change of an entry; inf where there is no number."""
    change = max(np.abs(x[name] - y[name]).max(initial=0) for name in x)
    return change if np.isfinite(change) else np.inf


def moves(real, names, seed):
    """A tangent of some arguments alone."""
    draw = np.random.default_rng(seed).normal
    return {n: draw(size=x.shape) * (n in names) for n, x in real.items()}


@each_case(lambda case: not case.options.get("reduce_fn"))
def test_second_derivatives_are_symmetric_and_those_of_the_first(case):
    run = program(case)
    for label, real, rest in points(case):
        each = [moves(real, {name}, i) for i, name in enumerate(real)]
        lines = {n: np.stack([line[n] for line in each]) for n in real}
        gradient, products = jax.tree.map(np.asarray, run(real, rest, lines))
        products = [{n: x[i] for n, x in products.items()} for i in range(len(each))]
        if not all(np.isfinite(x).all() for x in gradient.values()):
            continue  # the loss has no derivative there

        def gradient_at(step, line, real=real, rest=rest, lines=lines):
            there = {n: x + step * line[n] for n, x in real.items()}
            return jax.tree.map(np.asarray, run(there, rest, lines)[0])

        for line, product, name in zip(each, products, real, strict=True):
            ahead, back = gradient_at(STEP, line), gradient_at(-STEP, line)
            if jump(ahead, gradient) > JUMP or jump(back, gradient) > JUMP:
                continue  # a zero vector, say, where the gradient itself is not smooth
            for other, of_other, other_name in zip(each, products, real, strict=True):
                where = f"{label}: {name}, {other_name}"
                # At a kink of the first derivative there is no second one.
                sides = [dot(ahead, other), dot(gradient, other), dot(back, other)]
                right, left = sides[0] - sides[1], sides[1] - sides[2]
                size = max(abs(right), abs(left)) / STEP
                if abs(right - left) / STEP > 1e-3 * (1 + size):
                    continue
                found = dot(product, other)
                np.testing.assert_allclose(
                    found,
                    (right + left) / (2 * STEP),
                    rtol=2e-5,
                    atol=2e-5,
                    err_msg=where,
                )
                np.testing.assert_allclose(
                    found, dot(of_other, line), rtol=1e-9, atol=1e-9, err_msg=where
                )
