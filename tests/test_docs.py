"""The examples on the site's pages run, and show what they say."""

import doctest
import re
from pathlib import Path

import jax
import pytest

import jaxloss

PAGES = sorted((Path(__file__).parent.parent / "docs").rglob("*.md"))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "page", [page for page in PAGES if ">>> " in page.read_text()], ids=lambda p: p.stem
)
def test_sessions_give_what_they_show(page):
    # The strictness that the suite is run with is for the library alone.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failed, tried = doctest.testfile(str(page), module_relative=False)
    assert failed == 0
    assert tried


def test_start_page_begins_with_ten_lines_and_what_they_print():
    [index] = [page for page in PAGES if page.name == "index.md"]
    [code] = re.findall(r"```pycon\n(.*?)```", index.read_text(), flags=re.DOTALL)
    lines = code.strip().splitlines()
    assert len([line for line in lines if line.startswith((">>> ", "... "))]) == 10
    assert not lines[-1].startswith((">>> ", "... "))


def test_every_loss_is_where_one_looks_for_it():
    [page] = [page for page in PAGES if page.name == "which-loss.md"]
    named = set(re.findall(r"`(\w+)`", page.read_text()))
    assert not set(jaxloss.__all__) - named


def test_citation_is_of_this_version():
    citation = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    assert f"\nversion: {jaxloss.__version__}\n" in citation
