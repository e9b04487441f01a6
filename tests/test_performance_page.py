"""The page on performance shows every committed figure, and none of its own."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "assets" / "performance.py"
spec = importlib.util.spec_from_file_location("performance", SCRIPT)
assert spec is not None
assert spec.loader is not None
performance = importlib.util.module_from_spec(spec)
spec.loader.exec_module(performance)


@pytest.mark.parametrize(
    "file", sorted(performance.RESULTS.glob("*.json")), ids=lambda file: file.stem
)
def test_committed_results_are_shown(file):
    report = json.loads(file.read_text())
    page = "\n".join(performance.page())
    for fact in ("machine", "versions", "date"):
        assert report[fact] in page
    for result in report["results"]:
        [row] = [
            line
            for line in page.splitlines()
            if line.startswith(f"| {performance.label(result)} | ") and "(" in line
        ]
        for name, took in result["milliseconds"].items():
            assert f" {took:.1f} " in row, name


def test_page_follows_the_file(tmp_path):
    result = {
        "row": "some loss",
        "dtype": "bfloat16",
        "milliseconds": {"jaxloss": 10.0, "other": 25.0},
        "ratio": {"other": 2.5},
        "temporaries": {"jaxloss": 2**20, "other": None},
    }
    facts = {"platform": "tpu", "machine": "M", "versions": "V", "date": "D"}
    report = {**facts, "rounds": 7, "results": [result]}
    (tmp_path / "tpu.json").write_text(json.dumps(report))
    page = "\n".join(performance.page(tmp_path))
    assert "## TPU" in page
    assert "M; V; measured on D, 7 rounds each." in page
    assert "| some loss, bfloat16 | 10.0 | 25.0 (2.50) |" in page
    assert "| some loss, bfloat16 | 1 |" in page
