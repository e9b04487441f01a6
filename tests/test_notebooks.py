"""The notebooks as they are committed: no outputs, and words for each picture."""

import json
from pathlib import Path

import pytest

# Figures keep matplotlib's white ground, which the site inverts on dark pages; the same
# line in each notebook gives them the same look.
STYLE = 'plt.rcParams |= {"axes.spines.right": False, "axes.spines.top": False}'
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


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_have_one_style_and_a_title(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    pictures = [text for text in code if "plt.show()" in text]
    assert STYLE in "\n".join(code)
    for text in pictures:
        assert "title" in text
        assert "transparent" not in text
        assert "facecolor" not in text
