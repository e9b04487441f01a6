"""A loss is one function in every program: traced, literal, closed over (rule 9).

XLA rewrites and evaluates constants by rules of its own. So every loss is compiled
with its arguments traced and with them as constants, and the results are compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close, cotangent, each_case
from tier import EXHAUSTIVE

# What XLA makes of constants it does before LLVM optimises.
pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

# What people write as hyperparameters and labels, and what overflows a square.
LITERALS = (0.0, 1.0, 3.0, 0.1, 1e30)


def value_and_gradient(case, arrays, ct):
    """The losses and the gradient of the first argument."""

    def loss(lead):
        return case({**arrays, case.lead: lead})

    value, pull_back = jax.vjp(loss, arrays[case.lead])
    return value, pull_back(ct.astype(value.dtype))[0]


def settings(case):
    """The case's arrays, and those with one real argument at one of the literals."""
    plain = {name: np.asarray(x) for name, x in case.arrays().items()}
    yield "plain", plain
    if not EXHAUSTIVE:
        yield "mixed", mixed(case, plain)
        return
    for name in case.real:
        # A matrix that all examples share is no hyperparameter.
        if name == case.lead or (name in case.parameters and plain[name].ndim > 1):
            continue
        for number in LITERALS:
            changed = plain[name].copy()
            # One example's number, or a hyperparameter as a whole.
            changed[(1,) if name in case.inputs else ...] = number
            yield f"{name}={number}", {**plain, name: changed}


def mixed(case, plain):
    """All literals at once: each in an example of its own, and in hyperparameters.

    One hyperparameter is huge and the others are 0, where they may be: two huge ones
    can make a formula that no rounding leaves a digit of, such as (1 - 1e-30)^1e30.
    """
    changed = {name: x.copy() for name, x in plain.items()}
    huge = True
    for name in case.real:
        if name == case.lead or (plain[name].ndim > 1 and name in case.parameters):
            continue
        if name in case.inputs:
            for example, number in enumerate(LITERALS, start=1):
                # The huge classes of one example can cancel too: only one is huge.
                one = number == 1e30 and name in case.class_inputs
                put(case, changed, name, (example, 0) if one else example, number)
        elif plain[name].ndim == 1:  # of the classes
            changed[name][::2] = 0.0
        elif huge and put(case, changed, name, ..., 1e30):
            huge = False
        else:
            put(case, changed, name, ..., 0.0)
    return changed


def put(case, arrays, name, index, number):
    """Puts a number into an array if the loss allows it; whether it does."""
    before = arrays[name].copy()
    arrays[name][index] = number
    if is_allowed(case, arrays):
        return True
    arrays[name] = before
    return False


def is_allowed(case, arrays):
    try:
        jax.eval_shape(
            lambda lead: case({**arrays, case.lead: lead}), arrays[case.lead]
        )
    except ValueError:  # a literal outside the hyperparameter's range
        return False
    return True


def literal(x):
    """A Python number for a scalar, as a user writes it."""
    return x.item() if np.ndim(x) == 0 else x


@each_case(once=True)
def test_constants_are_inputs_like_any_other(case):
    ct = cotangent(case)

    @jax.jit
    def traced(arrays, ct):
        return value_and_gradient(case, arrays, ct)

    for label, arrays in settings(case):
        shared = {n: literal(arrays[n]) for n in case.parameters}
        behind = {n: arrays[n] for n in case.inputs if n != case.lead}
        lead = jnp.asarray(arrays[case.lead])

        @jax.jit
        def programs(inputs, ct, lead=lead, shared=shared, behind=behind):
            traced_lead = inputs[case.lead]
            return {
                "literal": value_and_gradient(case, {**inputs, **shared}, ct),
                "closed over": value_and_gradient(
                    case, {**behind, case.lead: traced_lead, **shared}, ct
                ),
                "constant": value_and_gradient(
                    case, {**behind, case.lead: lead, **shared}, ct
                ),
            }

        arrays = {n: jnp.asarray(x) for n, x in arrays.items()}
        try:
            found = programs({n: arrays[n] for n in case.inputs}, ct)
        except ValueError:  # a literal outside the hyperparameter's range
            if label in ("plain", "mixed"):
                raise
            continue
        expected = traced(arrays, ct)
        for program, result in found.items():
            where = f"{label}, {program}"
            assert_close({where: result}, {where: expected})
