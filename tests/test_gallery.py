"""Every public loss has a picture, and words for those who do not see it."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import jax
import pytest

import jaxloss

pytest.importorskip("matplotlib", reason="the pictures are drawn with matplotlib")

pytestmark = pytest.mark.any_program

SCRIPT = Path(__file__).parent.parent / "docs" / "assets" / "gallery.py"


@pytest.fixture(autouse=True)
def as_users_have_it():
    """The strictness that the suite is run with is for the library alone."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_loss_has_a_card(gallery):
    missing = set(jaxloss.__all__) - set(gallery.CARDS)
    assert not missing, "add cards to docs/assets/gallery.py"


def test_every_picture_is_told_in_words(gallery):
    for name, card in gallery.CARDS.items():
        assert len(card.alt.split()) >= 10, name
        assert card.alt.endswith("."), name
        assert "]" not in card.alt, f"{name}: it stands in brackets on the page"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", jaxloss.__all__)
def test_words_in_a_picture_are_whole_and_apart(gallery, name):
    with gallery.rc_context(gallery.LOOK):
        figure = gallery.Figure(layout="constrained")
        gallery.CARDS[name].draw(figure)
        figure.draw_without_rendering()
    labels = [
        text
        for axes in figure.axes
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label)
        if text.get_text()
    ]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    boxes = [x.get_window_extent() for x in (*labels, *legends, *figure.legends)]
    picture = figure.bbox.padded(2)
    for i, box in enumerate(boxes):
        assert picture.contains(box.x0, box.y0)
        assert picture.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name",
    [
        "huber_loss",
        "softmax_cross_entropy",
        "cosine_embedding_loss",  # of two panels
        "dice_loss",
        "adaptive_softmax_predict",
    ],
)
def test_pictures_are_small_and_come_in_two_schemes(gallery, name):
    light, dark = gallery.picture(name)
    for svg in (light, dark):
        assert ET.fromstring(svg).tag.endswith("svg")
        assert len(svg) < 40_000
        assert "nan" not in svg.lower()
    assert gallery.INK in light
    assert gallery.INK not in dark
    assert len(light) == len(dark)
