"""docs/coming-from.md has every loss of the peers, and its calls are possible ones."""

import ast
import inspect
import os
import re
from pathlib import Path

import numpy as np
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


def test_descriptions_name_the_classes():
    """So that `help` and the search of the site find a loss by its name there."""
    for anchor, prefix in (("pytorch", "nn."), ("keras", "")):
        for row, call, _ in calls(table(anchor)):
            description = inspect.getdoc(getattr(jl, call.split("(")[0])) or ""
            for name in code(row[1]):
                assert re.search(rf"`{prefix}{name}\b", description), name


def log_softmax(logits):
    return logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))


def contrastive_formulas(x, y, w, labels):
    """What each contrastive library of the page computes, in NumPy float64.

    x and y are unit vectors [N, D], w the weights [D, C] of a layer of C classes.
    """
    n, d = x.shape
    eye = np.eye(n, dtype=bool)
    rows, columns = (np.diag(log_softmax(7 * s)) for s in (x @ y.T, y @ x.T))
    pairs = np.log1p(np.exp(np.where(eye, -1, 1) * (7 * x @ y.T - 3))).sum() / n

    def centred(z):
        return z - z.mean(0)

    a, b = (centred(z) / np.sqrt(z.var(0) + 1e-5) for z in (x, y))
    c = a.T @ b / n
    off = ~np.eye(d, dtype=bool)
    barlow = np.sum((np.diag(c) - 1) ** 2) + 0.02 * np.sum(c[off] ** 2)
    spread = [
        np.mean(np.maximum(1 - np.sqrt(z.var(0, ddof=1) + 1e-3), 0)) for z in (x, y)
    ]
    shared = [np.sum(np.cov(z.T)[off] ** 2) / d for z in (x, y)]
    vicreg = 2 * np.mean((x - y) ** 2) + 3 * np.mean(spread) + 4 * sum(shared)

    def of_classes(margined):
        cosines = x @ (w / np.linalg.norm(w, axis=0))
        label = np.arange(w.shape[1]) == labels[:, None]
        logits = 5 * np.where(label, margined(cosines), cosines)
        return -np.mean(log_softmax(logits)[label])

    same = (labels[:, None] == labels) & ~eye
    log_p = log_softmax(np.where(eye, -np.inf, x @ x.T / 0.3))
    supcon = -np.mean(np.where(same, log_p, 0).sum(1) / same.sum(1))
    return {
        "ClipLoss": -np.mean(rows + columns) / 2,
        "SigLipLoss": pairs,
        "sigmoid_loss": pairs,
        "BarlowTwinsLoss": barlow,
        "VICRegLoss": vicreg,
        "ArcFaceLoss": of_classes(lambda u: np.cos(np.arccos(u) + np.radians(20))),
        "CosFaceLoss": of_classes(lambda u: u - 0.3),
        "SupConLoss": supcon,
    }


def test_contrastive_libraries():
    """The calls as they stand on the page, beside the formulas of the libraries."""
    draw = np.random.default_rng(0)
    x, y, w = (
        draw.normal(size=(8, 4)),
        draw.normal(size=(8, 4)),
        draw.normal(size=(4, 3)),
    )
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, x + y))
    labels = np.arange(8) % 3
    single = np.float32(x), np.float32(y)
    given = dict.fromkeys(("image_features", "zimg", "z_a", "embeddings"), single[0])
    given |= dict.fromkeys(("text_features", "ztxt", "z_b"), single[1])
    given |= {"logit_scale": 7.0, "logit_bias": -3.0, "t": 7.0, "b": -3.0, "eps": 1e-3}
    given |= {"mu_param": 3.0, "nu_param": 4.0, "scale": 5.0}
    given |= {"labels": labels, "prototypes": np.float32(w.T), "temperature": 0.3}
    expected = contrastive_formulas(x, y, w, labels)
    rows = table("contrastive")
    assert names(rows, 1) == set(expected)
    for row, call, _ in calls(rows):
        [name] = code(row[1])
        own = {
            "lambda_param": 2.0 if name == "VICRegLoss" else 0.02,
            "margin": 20.0 if name == "ArcFaceLoss" else 0.3,
        }
        found = eval(call, vars(jl) | given | own | {"np": np})
        np.testing.assert_allclose(found, expected[name], rtol=2e-5, err_msg=name)


def test_what_is_ours_alone_is_named_and_nothing_else():
    page = PAGE.read_text()
    tables, alone = page.split("## In none of these libraries")
    elsewhere = {n for n in jl.__all__ if re.search(rf"`{n}\b|\b{n}[()]", tables)}
    assert set(code(alone)) == set(jl.__all__) - elsewhere
