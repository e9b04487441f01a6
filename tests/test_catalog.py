"""The catalogue is complete, and every loss has its signature and its value."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from catalog import CASES
from common import RTOL, each_case

import jaxloss as jl

pytestmark = pytest.mark.any_program


def test_every_public_name_has_an_entry():
    assert {case.name for case in CASES} == set(jl.__all__)


def test_no_two_entries_share_an_id():
    assert len({case.id for case in CASES}) == len(CASES)


@each_case()
def test_entry_can_tell_right_from_wrong(case):
    assert {len(value) for value in case.inputs.values()} == {6}
    expected = case.expected(case.values)
    assert np.isfinite(expected).all()
    # Examples that differ, so that no mix-up of two of them goes unseen.
    assert len(np.unique(expected.round(12))) >= 3


@each_case(lambda case: case.tail and not case.name.startswith("make_"))
def test_signature_has_the_inputs_in_front_and_the_tail(case):
    parameters = inspect.signature(getattr(jl, case.name)).parameters
    # A matrix that all examples share, `kernel`, may stand among the inputs.
    shared = {name for name, value in case.parameters.items() if np.ndim(value) == 2}
    positional = [
        p.name
        for p in parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in shared
    ]
    known = [name for name in positional if name in case.inputs]
    assert known == [name for name in case.inputs if name in positional]
    assert positional[: len(known)] == known
    # optax has `where` among the positional arguments of a few losses.
    tail = {"where": None, "weights": None, "reduction": case.default_reduction}
    for name, default in tail.items():
        assert parameters[name].default == default
        assert (
            name == "where" or parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        )


@pytest.mark.usefixtures("device")
@each_case()
def test_value_is_that_of_the_definition(case):
    arrays = case.arrays()
    value = case({name: jnp.asarray(x) for name, x in arrays.items()})
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, case.expected(arrays), rtol=RTOL["float32"])


@pytest.mark.usefixtures("device", "x64")
@each_case(once=True)
def test_value_is_that_of_the_definition_in_float64(case):
    arrays = case.arrays(jnp.float64)
    value = case({name: jnp.asarray(x) for name, x in arrays.items()})
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, case.expected(arrays), rtol=RTOL["float64"])
