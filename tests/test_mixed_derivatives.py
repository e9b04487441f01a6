"""Second derivatives over all pairs of arguments, where the branches of a loss meet.

At a logit of exactly 0, where several classes share the maximum, or where one class has
all the mass, an implementation passes from one form to another. Each form has to have
the derivative of the loss there, not that of a constant. The Hessian over all real
arguments has to be symmetric, and to agree with differences of the first derivative.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from common import cotangent, each_case, weighted
from programs import derivatives

pytestmark = [pytest.mark.usefixtures("device", "x64"), pytest.mark.any_program]

STEP = 1e-6
JUMP = 1e4 * STEP


def points(case):
    """The case's arrays, and those whose first input lies where branches meet."""
    plain, rest = weighted(case, jnp.float64)
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


def moves(real, names, seed):
    """A tangent of some arguments alone."""
    draw = np.random.default_rng(seed).normal
    return {n: draw(size=x.shape) * (n in names) for n, x in real.items()}


def changes(ahead, here, back):
    """Right and left differences of the gradient by entry; None where it jumps."""
    sides = []
    for side in (ahead, back):
        change = {n: side[n] - here[n] for n in here}
        largest = max(np.abs(x).max(initial=0) for x in change.values())
        if not largest <= JUMP:  # a zero vector, or the end of a domain
            return None
        sides.append(change)
    right, left = sides
    return {n: (right[n] / STEP, -left[n] / STEP) for n in here}


@each_case(once=True)
def test_second_derivatives_are_symmetric_and_those_of_the_first(case):
    ct = cotangent(case, jnp.float64)
    for label, real, rest in points(case):
        for seed, name in enumerate(real):
            line = moves(real, {name}, seed)

            def at(step, real=real, rest=rest, line=line):
                there = {n: x + step * line[n] for n, x in real.items()}
                return derivatives(case, there, rest, ct, line)

            here = at(0.0)
            if not all(np.isfinite(x).all() for x in here["gradient"].values()):
                continue  # the loss has no derivative there
            sides = changes(
                at(STEP)["gradient"], here["gradient"], at(-STEP)["gradient"]
            )
            if sides is None:
                continue
            for other, (right, left) in sides.items():
                # At a kink of the first derivative there is no second one.
                size = np.maximum(np.abs(right), np.abs(left))
                smooth = np.abs(right - left) <= 1e-3 * (1 + size)
                where = f"{label}: {name}, {other}"
                for nesting in ("forward over reverse", "reverse over reverse"):
                    np.testing.assert_allclose(
                        here[nesting][other][smooth],
                        ((right + left) / 2)[smooth],
                        rtol=2e-5,
                        atol=2e-5,
                        err_msg=f"{where}, {nesting}",
                    )
                # H v and the transpose's: the Hessian is symmetric.
                np.testing.assert_allclose(
                    here["forward over reverse"][other][smooth],
                    here["reverse over reverse"][other][smooth],
                    rtol=1e-9,
                    atol=1e-9,
                    err_msg=where,
                )
