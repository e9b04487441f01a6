"""The notebooks as they are committed: no outputs, and words for each picture."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_are_told_in_words(notebook):
    for cell in json.loads(notebook.read_text())["cells"]:
        if "plt.show()" in "".join(cell["source"]):
            alt = cell["metadata"].get("alt", "")
            assert len(alt.split()) >= 10, cell["id"]
            assert "]" not in alt
