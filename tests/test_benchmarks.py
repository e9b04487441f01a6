"""The benchmark runs, and says what it measured."""

import json

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from benchmarks import cases, measure, report


@pytest.mark.parametrize("name", ["huber 16.8 M", "integer labels 65536 x 1000"])
def test_row_is_measured_and_written(name, tmp_path):
    row = next(row for row in cases.ROWS if row.name == name)
    result = measure.measure(row, rounds=1, shrink=4096)
    assert set(result["milliseconds"]) == {"jaxloss", *row.peers}
    assert set(result["ratio"]) == set(row.peers)
    assert all(value > 0 for value in result["milliseconds"].values())
    assert result["floor"] is None
    assert set(result["temporaries"]) == {"jaxloss", *row.peers} - {"torch"}
    table = {
        "platform": "cpu",
        "machine": "a machine",
        "versions": "some versions",
        "date": "today",
        "results": [result],
    }
    paths = report.write(table, tmp_path)
    assert json.loads(paths[0].read_text()) == table
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    line = report.markdown(table).splitlines()[-1]
    assert name in line
    assert f"{min(result['ratio'].values()):.2f}" in line


def test_floor_is_about_the_peer_it_names():
    result = {"ratio": {"optax": 1.5, "torch": 0.9}, "floor_peer": None}
    assert measure.reached(result) == 0.9
    assert measure.reached({**result, "floor_peer": "optax"}) == 1.5
    assert measure.reached({**result, "ratio": {}}) is None
