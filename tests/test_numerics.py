"""The page on numerics: its lines run, and jaxloss's give what is wanted."""

import importlib.util
import math
from pathlib import Path

import jax
import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "assets" / "numerics.py"
spec = importlib.util.spec_from_file_location("numerics", SCRIPT)
assert spec is not None
assert spec.loader is not None
numerics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(numerics)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """The strictness that the suite is run with is for the library alone."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("case", numerics.CASES, ids=lambda case: case.title)
def test_answer_is_the_wanted_one(case):
    given = numerics.answer(case, "jaxloss", numerics.namespace())
    assert given.right, f"{given.shown} instead of {numerics.want(case)}"


@pytest.mark.any_program
@pytest.mark.parametrize(
    ("case", "library"),
    [
        pytest.param(case, library, id=f"{case.title}-{library}")
        for case in numerics.CASES
        for library in ("optax", "torch", "keras")
        if getattr(case, library)
    ],
)
def test_line_of_the_peer_runs(case, library):
    # A line that is wrong in itself would be shown as the library's fault.
    names = numerics.namespace()
    if library not in names:
        pytest.skip(f"{library} is not installed")
    shown = numerics.answer(case, library, names).shown
    assert shown not in ("AttributeError", "NameError", "SyntaxError", "TypeError")


def test_wrong_answers_are_called_wrong():
    case = numerics.CASES[0]._replace(jaxloss="0.0")
    assert not numerics.answer(case, "jaxloss", {}).right
    case = case._replace(wanted="math.nan", jaxloss="1 / 0")
    assert numerics.answer(case, "jaxloss", {}) == ("ZeroDivisionError", True)
    assert math.isnan(numerics.want(case))
