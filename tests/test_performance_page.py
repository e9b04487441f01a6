"""The page on performance shows every committed figure, and none of its own."""

import importlib
import json
import sys
from pathlib import Path

import pytest

# The documentation's scripts are in no package; MkDocs imports them from its folder.
sys.path.append(str(Path(__file__).parent.parent / "docs"))
performance = importlib.import_module("assets.performance")
planned = importlib.import_module("assets.planned")


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


def test_ways_of_a_library_share_a_column_and_the_cell_says_which(tmp_path):
    names = "plain", "plain in a checkpointed scan", "jax by hand", "optax in a scan"
    took = {"jaxloss": 10.0, **{name: 20.0 + i for i, name in enumerate(names)}}
    result = {
        "row": "some loss",
        "dtype": "float32",
        "milliseconds": took,
        "ratio": {name: took[name] / 10 for name in names},
        "temporaries": {name: i * 2**20 for i, name in enumerate(took)},
    }
    facts = {"platform": "cpu", "machine": "M", "versions": "V", "date": "D"}
    report = {**facts, "rounds": 1, "results": [result]}
    (tmp_path / "cpu.json").write_text(json.dumps(report))
    page = "\n".join(performance.page(tmp_path))
    assert "| Row | jaxloss | textbook form | optax |" in page
    formulas = "20.0 (2.00), 21.0 (2.10) in a checkpointed scan, 22.0 (2.20) by hand"
    assert f"| some loss | 10.0 | {formulas} | 23.0 (2.30) in a scan |" in page
    assert (
        "| some loss | 0 | 1, 2 in a checkpointed scan, 3 by hand | 4 in a scan |"
        in page
    )


@pytest.mark.parametrize(
    "file", sorted(planned.PLANNED.glob("*.json")), ids=lambda file: file.stem
)
def test_planned_figures_are_shown(file):
    report = json.loads(file.read_text())
    page = "\n".join(planned.page())
    assert f"## {planned.TITLES[report['target']]}, planned" in page
    assert planned.origin(report) in page
    for row in report["rows"]:
        ours, peer = row["programs"]["jaxloss"], planned.best(row, "moved")
        shown = [planned.mib(ours["moved"]), planned.mib(peer[0]) if peer else ""]
        assert any(
            line.startswith(f"| {planned.label(row)} | ")
            and f" {' | '.join(shown)} " in line
            for line in page.splitlines()
        ), row["row"]


def program(temporaries, moved, passes):
    return {"temporaries": temporaries, "moved": moved, "passes": passes}


def test_planned_page_follows_its_files(tmp_path):
    facts = {"versions": {"jax": "J"}, "date": "D"}
    row = {
        "row": "some loss",
        "dtype": "bfloat16",
        "programs": {
            "jaxloss": program(3 * 2**20, 500 * 2**20, 3),
            "one": program(0, 750 * 2**20, 4),
            "two": program(9 * 2**20, 400 * 2**20, 5),
            "three": {"failed": "ValueError"},
        },
    }
    report = {"target": "tpu-v5e", "rows": [row], **facts}
    (tmp_path / "tpu-v5e.json").write_text(json.dumps(report))
    inside = {"kind": "all-reduce", "array": "f32[8]", "times": 4, "in_loop": True}
    chips = {
        "program": "jaxloss",
        "mesh": "Auto",
        "temporaries": 2**20,
        "network": 2**21,
        "collectives": [inside, {**inside, "in_loop": False}],
    }
    layouts = [{"layout": "FSDP", "programs": [chips]}]
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / "v5e-4x4.json").write_text(
        json.dumps({"slice": "v5e:4x4", "layouts": layouts, **facts})
    )
    page = "\n".join(planned.page(tmp_path))
    assert "### TPU v5e, planned" in page
    assert "Planned by the compiler, not timed. jax J; compiled on D." in page
    assert "| some loss, bfloat16 | 3.0 | 0.0 | 500 | 400 | 3 | 4 |" in page
    assert "0.80 two" in page
    assert "### TPU v5e, 4 x 4 chips, planned" in page
    assert "| FSDP | Auto | jaxloss | 1.0 | 2.0 | 4 x all-reduce f32[8] |" in page


def test_planned_page_without_results_is_empty(tmp_path):
    assert list(planned.page(tmp_path)) == []
