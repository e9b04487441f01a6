"""The notebooks as pages of the site, with what they printed and drew.

The committed notebooks hold no outputs. Those shown are taken from a run of papermill,
from `notebooks/output` or the folder that `NOTEBOOKS` names, if it was of the notebook
as it is now; without one a page has the code alone, and says so.
"""

import base64
import json
import os
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "notebooks"
FIRST = "quickstart"
NOT_RUN = """
!!! note

    This copy of the site was built without running the notebook: it has no outputs.
"""


def names() -> list[str]:
    """All notebooks, the introduction first."""
    every = (path.stem for path in FOLDER.glob("*.ipynb"))
    return sorted(every, key=lambda name: (name != FIRST, name))


def files(name: str) -> dict[str, str | bytes]:
    """The page of a notebook, its pictures, and the notebook itself, by their paths."""
    source = FOLDER / f"{name}.ipynb"
    cells = json.loads(source.read_text())["cells"]
    folder = Path(os.environ.get("NOTEBOOKS", FOLDER / "output"))
    run = executed(folder / f"{name}.ipynb", cells)
    made: dict[str, str | bytes] = {f"notebooks/{name}.ipynb": source.read_bytes()}
    text = []
    for cell in run or cells:
        code = "".join(cell["source"])
        text.append(code if cell["cell_type"] == "markdown" else fenced(code, "python"))
        printed = ""
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                file = f"{name}-{len(made)}.png"
                made[f"notebooks/{file}"] = base64.b64decode(data["image/png"])
                alt = cell["metadata"].get("alt", "Drawn by the code above.")
                text.append(f"![{alt}]({file}){{ .drawn }}")
            elif output.get("name") == "stdout":  # progress goes to stderr
                printed += "".join(output["text"])
            else:
                printed += "".join(data.get("text/plain", ""))
        if printed.strip():
            # Where the files lay on the machine of the run is nobody's business.
            printed = printed.replace(str(folder.resolve()), "output")
            text.append(fenced(printed.rstrip(), "{ .text .printed }"))
    text.insert(1, f"[The notebook itself]({name}.ipynb){{ download }}")
    if run is None:
        text.insert(1, NOT_RUN)
    made[f"notebooks/{name}.md"] = "\n\n".join(text) + "\n"
    return made


def executed(path: Path, cells):
    """The cells with their outputs, if that run was of these very cells."""
    if not path.exists():
        return None
    run = json.loads(path.read_text())["cells"]
    same = [cell["source"] for cell in run] == [cell["source"] for cell in cells]
    return run if same else None


def fenced(text: str, language: str) -> str:
    return f"````{language}\n{text}\n````"
