"""What `mutants.py` breaks is still there to be broken."""

import mutants
import pytest


@pytest.mark.parametrize(
    ("file", "line", "broken"), mutants.MUTANTS, ids=[m[0] for m in mutants.MUTANTS]
)
def test_line_stands_in_its_file_once(file, line, broken):
    text = (mutants.ROOT / "jaxloss" / "_core" / file).read_text()
    assert text.count(line) == 1
    assert line != broken
