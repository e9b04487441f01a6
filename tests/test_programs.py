"""A loss is one function in every program: traced, literal, closed over (rule 9).

XLA rewrites and evaluates constants by rules of its own. So every loss is compiled
with its arguments traced and with them as constants, and the results are compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close, cotangent, each_case

pytestmark = pytest.mark.usefixtures("device")

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
    for name in case.real:
        # A matrix that all examples share is no hyperparameter.
        if name == case.lead or (name in case.parameters and plain[name].ndim > 1):
            continue
        for number in LITERALS:
            changed = plain[name].copy()
            # One example's number, or a hyperparameter as a whole.
            changed[(1,) if name in case.inputs else ...] = number
            yield f"{name}={number}", {**plain, name: changed}


def literal(x):
    """A Python number for a scalar, as a user writes it."""
    return x.item() if np.ndim(x) == 0 else x


@each_case()
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
            if label == "plain":
                raise
            continue
        expected = traced(arrays, ct)
        for program, result in found.items():
            where = f"{label}, {program}"
            assert_close({where: result}, {where: expected})
