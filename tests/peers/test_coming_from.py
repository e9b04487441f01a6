"""docs/coming-from.md has every loss of the peers, and its calls are possible ones."""

import ast
import inspect
import os
import re
from pathlib import Path

import optax
import pytest

import jaxloss as jl

PAGE = Path(__file__).parent.parent.parent / "docs" / "coming-from.md"


def table(anchor):
    """The rows of the table under a heading, as lists of cells."""
    section = PAGE.read_text().split(f"{{ #{anchor} }}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def code(cell):
    return re.findall(r"`(\w+)`", cell)


def names(rows, column):
    return {name for row in rows for name in code(row[column])}


def assert_possible(call, remarks, parameters):
    """The call binds to the loss, and each of `parameters` is in it or in the remarks.

    `parameters` are the peer's; what a call takes beyond them, the remarks explain.
    """
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    keywords = {k.arg: k.value for k in node.keywords}
    inspect.signature(getattr(jl, node.func.id)).bind(*node.args, **keywords)
    used = {
        n.id
        for x in (*node.args, *keywords.values())
        for n in ast.walk(x)
        if isinstance(n, ast.Name)
    }
    assert used - set(parameters) <= explained(remarks, used)
    missing = set(parameters) - used
    assert missing <= explained(remarks, missing), missing


def explained(remarks, candidates):
    return {name for name in candidates if re.search(rf"\b{name}\b", remarks)}


def calls(rows):
    for row in rows:
        [call] = re.findall(r"`(\w+\(.*\))`", row[-2])
        yield row, call, row[-1]


def test_optax():
    rows = table("optax")
    theirs = {name for name in vars(optax.losses) if not name.startswith("_")}
    theirs = {n for n in theirs if inspect.isfunction(getattr(optax.losses, n))}
    assert names(rows, 0) == theirs
    for row, call, remarks in calls(rows):
        [name] = code(row[0])
        assert call.startswith(f"{name}(")
        parameters = inspect.signature(getattr(optax.losses, name)).parameters
        assert_possible(call, remarks, parameters)


def test_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rows = table("pytorch")
    ends = ("_loss", "cross_entropy", "cross_entropy_with_logits", "kl_div")
    theirs = {name for name in dir(functional) if name.endswith(ends)}
    assert names(rows, 0) == theirs | {"cosine_similarity"}
    modules = {name for name in dir(torch.nn) if re.search(r"Loss(2d)?$", name)}
    assert names(rows, 1) == modules | {"CosineSimilarity"}
    known = {"cosine_similarity": ("x1", "x2", "dim", "eps")}  # a builtin
    for row, call, remarks in calls(rows):
        for name in code(row[0]):
            parameters = known.get(name) or inspect.signature(
                getattr(functional, name)
            ).parameters.keys() - {"size_average", "reduce"}
            assert_possible(call, remarks, parameters)
        if not row[0]:  # a module that has weights, and no function
            module = getattr(torch.nn, *code(row[1]))
            parameters = inspect.signature(module).parameters.keys()
            forward = inspect.signature(module.forward).parameters.keys()
            elsewhere = {"self", "device", "dtype"}
            assert_possible(call, remarks, (parameters | forward) - elsewhere)


def test_keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    rows = table("keras")
    public = {n: x for n, x in vars(keras.losses).items() if not n.startswith("_")}
    tools = {"deserialize", "get", "serialize"}
    functions = {n for n, x in public.items() if inspect.isfunction(x)} - tools
    assert names(rows, 0) == functions
    assert names(rows, 1) == {n for n, x in public.items() if inspect.isclass(x)} - {
        "Loss"
    }
    for row, call, remarks in calls(rows):
        [name] = code(row[0])
        parameters = inspect.signature(getattr(keras.losses, name)).parameters
        assert_possible(call, remarks, parameters)


def test_what_is_ours_alone_is_named_and_nothing_else():
    page = PAGE.read_text()
    tables, alone = page.split("## What jaxloss has beyond the three")
    elsewhere = {n for n in jl.__all__ if re.search(rf"`{n}\b", tables)}
    assert set(code(alone)) == set(jl.__all__) - elsewhere
