"""The benchmark runs, and says what it measured."""

import json

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

from benchmarks import cases, measure, report


@pytest.fixture(autouse=True)
def promotion():
    """The peers' own, which the suite forbids to jaxloss."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name",
    [
        "huber 16.8 M",
        "integer labels 65536 x 1000",
        "linear 4096 x 512 x 50304",
        "adaptive softmax 4096 x 512 x 50304",
    ],
)
def test_row_is_measured_and_written(name, tmp_path):
    row = next(row for row in cases.ROWS if row.name == name)
    result = measure.measure(row, rounds=1, shrink=4096)
    bare = {measure.BARE} if row.bare else set()
    assert set(result["milliseconds"]) == {"jaxloss", *row.peers, *bare}
    assert set(result["ratio"]) == set(row.peers)
    assert all(value > 0 for value in result["milliseconds"].values())
    assert result["floor"] is None
    of_jax = {peer for peer in row.peers if not peer.startswith("torch")}
    assert set(result["temporaries"]) == {"jaxloss", *of_jax}
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


@pytest.mark.parametrize(("longest", "rounds"), [(0.0, 3), (60.0, 5)])
def test_a_long_row_has_at_least_three_rounds(monkeypatch, longest, rounds):
    monkeypatch.setattr(measure, "LONGEST", longest)
    row = next(row for row in cases.ROWS if row.name == "huber 16.8 M")
    assert measure.measure(row, rounds=5, shrink=4096)["rounds"] == rounds


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "peers"),
    [
        ("linear 4096 x 512 x 50304", {"optax", "torch", "torch in chunks"}),
        (
            "linear 4096 x 512 x 50304, half ignored",
            {"optax", "torch", "torch in chunks"},
        ),
        (
            "linear 4096 x 512 x 50304, embedding table",
            {"optax", "optax in a checkpointed scan", "torch", "torch in chunks"},
        ),
        ("adaptive softmax 4096 x 512 x 50304", {"torch"}),
    ],
)
def test_peers_compute_the_same_with_the_same_weights(name, peers):
    """Rows whose inputs are laid out anew for a peer."""
    row = next(row for row in cases.ROWS if row.name == name)
    inputs = row.make(np.random.default_rng(0), 1024)
    expected = row.jaxloss(*inputs)
    assert expected > 1
    for peer in peers & row.peers.keys():
        given = inputs
        if peer.startswith("torch"):
            given = jax.tree.map(measure.torch_tensor, inputs)
        np.testing.assert_allclose(float(row.peers[peer](*given)), expected, rtol=1e-5)


FORMULAS = [row for row in cases.ROWS if "plain" in row.peers]


@pytest.mark.exhaustive
@pytest.mark.parametrize("row", FORMULAS, ids=lambda row: row.name)
def test_formulas_compute_what_jaxloss_does(row):
    inputs = row.make(np.random.default_rng(0), 1024)
    expected = row.jaxloss(*inputs)
    for name, peer in row.peers.items():
        given = inputs
        if name.startswith("torch"):
            given = jax.tree.map(measure.torch_tensor, inputs)
        # The losses of policies are near 1 and of both signs, and their mean is small.
        np.testing.assert_allclose(float(peer(*given)), expected, 1e-5, atol=1e-6)


def test_formula_in_a_scan_is_a_peer():
    row = next(row for row in FORMULAS if row.name.startswith("linear log probs"))
    assert list(row.peers) == ["plain", "plain in a checkpointed scan"]


def test_every_peer_has_a_color():
    named = {"optax", "keras", "torch", *(n for row in cases.ROWS for n in row.more)}
    assert named <= report.COLORS.keys()
    assert len(set(report.COLORS.values())) == len(report.COLORS)


def test_floor_is_about_the_peer_it_names():
    result = {"ratio": {"optax": 1.5, "torch": 0.9}, "floor_peer": None}
    assert measure.reached(result) == 0.9
    assert measure.reached({**result, "floor_peer": "optax"}) == 1.5
    assert measure.reached({**result, "ratio": {}}) is None
