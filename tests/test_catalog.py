"""The catalogue is complete, and every loss equals its definition."""

from catalog import CASES

import jaxloss as jl


def test_every_public_name_has_an_entry():
    assert {case.name for case in CASES} == set(jl.__all__)
