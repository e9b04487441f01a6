"""Draws the gallery: one picture for every public loss, made with jaxloss itself.

    python docs/assets/gallery.py FOLDER [NAME ...]

writes them, light and dark, as `FOLDER/NAME.svg` and `FOLDER/NAME-dark.svg`. The site
draws them while it is built. A new loss gets an entry in `CARDS`: how to draw it, and
in words what there is to see, for those who do not see it.
"""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import jaxloss as jl

# Colours apart for every kind of sight, after Okabe and Ito; dashes tell them apart
# too. Each stands for itself on white, and for the lighter one beside it on black.
DARK = {
    "#23272e": "#e3e5ec",
    "#0072b2": "#6cb8ec",
    "#d55e00": "#f59a52",
    "#00805c": "#4cc9a0",
    "#b0508c": "#e59ac8",
    "#7a7f8a": "#9ba1ae",
}
INK, BLUE, ORANGE, GREEN, PINK, GREY = DARK
LINES = [
    {"color": BLUE, "ls": "-"},
    {"color": ORANGE, "ls": "--"},
    {"color": GREEN, "ls": "-."},
    {"color": PINK, "ls": ":"},
    {"color": INK, "ls": (0, (6, 2))},
]
LOOK = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.labelpad": 2,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.figsize": (3.4, 2.2),
    "font.size": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.7,
    "svg.fonttype": "none",  # the reader's own fonts, and half the bytes
    "svg.hashsalt": "jaxloss",  # the same picture gives the same file
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


class Card(NamedTuple):
    draw: Callable[[Figure], None]
    alt: str


def picture(name: str) -> tuple[str, str]:
    """The picture of a loss as SVG: for a light page, and for a dark one."""
    with rc_context(LOOK):
        figure = Figure(layout="constrained")
        CARDS[name].draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    light = re.sub(r' d="[^"]*"', shorter, file.getvalue())
    return light, dark(light)


def dark(svg: str) -> str:
    """The same picture for a dark page."""
    return re.sub("|".join(DARK), lambda color: DARK[color[0]], svg)


def shorter(path: re.Match[str]) -> str:
    """The same path in fewer bytes: a tenth of a point is enough."""
    numbers = re.sub(r"(\.\d)\d+", r"\1", path[0])
    return re.sub(r"\.0\b|\s*([CLMQz])\s*", r"\1", numbers)


# How to draw. Each function below takes what is to be seen and returns the drawing.


def curves(
    x, loss, xlabel, parameter="", values=(0.0,), ylim=None, slopes=None, title="loss"
):
    """One number in: the loss and its first derivative, for values of a parameter."""

    def draw(figure):
        left, right = figure.subplots(1, 2)
        value_and_slope = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, None)))
        for line, value in zip(LINES, values, strict=False):
            height, slope = value_and_slope(x, value)
            label = f"{value:g}".replace("-", "−").replace("inf", "∞")
            left.plot(
                x, height, **line, label=label if left.lines else f"{parameter} {label}"
            )
            right.plot(x, slope, **line)
        left.set(title=title, xlabel=xlabel, ylim=ylim)
        right.set(title="derivative", xlabel=xlabel, ylim=slopes)
        for axes in (left, right):
            axes.axhline(0, color=GREY, lw=0.6, zorder=0)
        if parameter:
            figure.legend(loc="outside lower center", ncols=5, columnspacing=0.8)

    return draw


def errors(loss, parameter="", values=(0.0,), **limits):
    """The same for a regression loss of the difference to the target."""

    def of(x, value):
        return loss(x, **{parameter: value}) if parameter else loss(x)

    x = jnp.linspace(-3, 3, 121)
    return curves(x, of, "prediction − target", parameter, values, **limits)


def scores(loss, reach=4.0, **limits):
    """The same for a loss of scores and targets of plus and minus one."""
    x = jnp.linspace(-reach, reach, 121)
    return curves(x, loss, "score", "target", (1.0, -1.0), **limits)


def landscape(axes, loss, reach, size=41, middle=0.0):
    """A loss of points in the plane: the darker the higher; arrows point down."""
    ticks = middle + jnp.linspace(-reach, reach, size)
    points = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)

    def summed(points):
        return jnp.sum(loss(points)), loss(points)

    slope, values = jax.jit(jax.grad(summed, has_aux=True))(points)
    for level in np.linspace(values.min(), values.max(), 8)[:-1]:
        axes.contourf(ticks, ticks, values, [level, np.inf], colors=[BLUE], alpha=0.13)
    some = slice(size // 2 % 6, None, 6)  # every sixth, the middle among them
    feet, way = points[some, some].reshape(-1, 2), -slope[some, some].reshape(-1, 2)
    length = jnp.linalg.norm(way, axis=-1, keepdims=True)
    most = 2 * jnp.median(length[length > 0])  # else a singular point dwarfs the rest
    way = np.asarray(way * jnp.minimum(1, most / jnp.maximum(length, 1e-9)))
    axes.quiver(*feet.T, *way.T, color=INK, width=0.009, pivot="mid", zorder=2)
    axes.set_aspect("equal")
    return ticks, values, slope


def surface(loss, beside=None):
    """Three logits in, the last one 0: the loss over the others, and a cut.

    Args:
        loss: The loss of the logits.
        beside: Another, whose cut is dotted, to see what differs.
    """

    def of_two(logits):
        return loss(jnp.pad(logits, [(0, 0), (0, 0), (0, 1)]))

    def draw(figure):
        left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
        ticks, values, slope = landscape(left, of_two, 4)
        cut = len(ticks) // 2  # where the logit of class 1 is 0
        left.axhline(0, color=ORANGE, lw=0.8)
        left.set(xlabel="logit of class 0", ylabel="logit of class 1")
        right.plot(ticks, values[cut], **LINES[0], label="loss")
        right.plot(ticks, slope[cut, :, 0], **LINES[1], label="derivative")
        if beside is not None:
            logits = jnp.pad(ticks[:, None], [(0, 0), (0, 2)])
            dotted = {"color": GREY, "ls": ":", "lw": 1.4, "zorder": 1}
            right.plot(ticks, beside(logits), **dotted, label="cross entropy")
        right.axhline(0, color=GREY, lw=0.6, zorder=0)
        right.set(title="along the line", xlabel="logit of class 0")
        right.set_box_aspect(1)
        figure.legend(loc="outside lower right", ncols=3, columnspacing=0.8)

    return draw


def planes(reach=2.0, marks=(), **losses):
    """A point in the plane in: where the loss pulls it, wherever it stands."""

    def draw(figure):
        panels = np.atleast_1d(figure.subplots(1, len(losses)))
        for axes, (name, loss) in zip(panels, losses.items(), strict=True):
            landscape(axes, loss, reach, 41 if len(losses) == 1 else 31)
            axes.set(title=name.replace("_", " "), xticks=[], yticks=[])
            for style, (label, point) in zip("os*", marks, strict=False):
                axes.plot(*point, style, color=ORANGE, ms=6)
                axes.annotate(label, point, (4, 4), textcoords="offset points")

    return draw


ANGLES = jnp.array([0.3, 0.9, 1.8, 2.5, 3.4, 4.0, 4.9, 5.6])
LABELS = jnp.array([0, 0, 0, 1, 1, 2, 2, 1])


def on_circle(angles):
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def descended(loss, start, steps, rate):
    """A gradient descent: where it starts and where each step takes it."""

    def step(x, _):
        return jax.tree.map(lambda x, g: x - rate * g, x, jax.grad(loss)(x)), x

    return jax.jit(lambda x: jax.lax.scan(step, x, length=steps)[1])(start)


def bundles(loss):
    """Embeddings of three classes in: how a descent moves them along the circle."""

    def draw(figure):
        def total(angles):
            return jnp.sum(loss(on_circle(angles), LABELS))

        axes = figure.subplots()
        for label, line in zip(
            LABELS, descended(total, ANGLES, 61, 0.1).T, strict=True
        ):
            axes.plot(np.rad2deg(line), **LINES[label])
        axes.set(xlabel="step of a descent", ylabel="angle", yticks=range(0, 361, 90))

    return draw


def pulls(loss):
    """A batch of embeddings of three classes in: where the loss pulls each."""
    labels = LABELS

    def draw(figure):
        points = on_circle(ANGLES)
        way = -jax.jit(jax.grad(lambda x: jnp.sum(loss(x, labels))))(points)
        axes = figure.subplots()
        circle = jnp.linspace(0, 2 * jnp.pi, 90)
        axes.plot(jnp.cos(circle), jnp.sin(circle), color=GREY, lw=0.6)
        axes.quiver(*points.T, *way.T, color=INK, width=0.008)
        for label, marker in enumerate("os^"):
            axes.plot(*points[labels == label].T, marker, color=LINES[label]["color"])
        axes.set(xlim=(-1.7, 1.7), ylim=(-1.4, 1.4), aspect="equal")
        axes.axis("off")

    return draw


def towers(loss):
    """Two embeddings per example on a circle: where the loss pulls each of the pair."""
    angles = jnp.array([[0.2, 0.8], [1.6, 2.1], [2.9, 4.0], [5.2, 4.6]])

    def draw(figure):
        points = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        slope = jax.jit(jax.grad(lambda x: jnp.sum(loss(x[:, 0], x[:, 1]))))(points)
        axes = figure.subplots()
        circle = jnp.linspace(0, 2 * jnp.pi, 90)
        axes.plot(jnp.cos(circle), jnp.sin(circle), color=GREY, lw=0.6)
        axes.plot(*points.transpose(2, 1, 0), color=GREY, lw=0.9, ls=":")
        arrows = points.reshape(-1, 2), -slope.reshape(-1, 2)
        axes.quiver(*arrows[0].T, *arrows[1].T, color=INK, width=0.008)
        for side, marker in enumerate("os"):
            axes.plot(*points[:, side].T, marker, color=LINES[side]["color"])
        axes.set(xlim=(-1.7, 1.7), ylim=(-1.4, 1.4), aspect="equal")
        axes.axis("off")

    return draw


def by_margin(*margins):
    """Points of three classes and their prototypes: where ArcFace pulls each point."""
    directions = jnp.array([0.3, 2.3, 4.4])
    angles = (directions[:, None] + jnp.array([-0.6, 0.3, 0.8])).ravel()
    labels = jnp.repeat(jnp.arange(3), 3)

    def draw(figure):
        points, prototypes = (
            jnp.stack([jnp.cos(x), jnp.sin(x)], axis=-1) for x in (angles, directions)
        )

        @jax.jit
        @jax.grad
        def slope(x, margin):
            return jl.arcface_loss(
                x, prototypes, labels, angular_margin=margin, scale=3.0, reduction="sum"
            )

        circle = jnp.linspace(0, 2 * jnp.pi, 90)
        panels = figure.subplots(1, len(margins))
        for axes, margin in zip(panels, margins, strict=True):
            axes.plot(jnp.cos(circle), jnp.sin(circle), color=GREY, lw=0.6)
            way = -slope(points, margin)
            axes.quiver(*points.T, *way.T, color=INK, width=0.012, scale=8)
            for label, marker in enumerate("os^"):
                color = LINES[label]["color"]
                axes.plot(*(jnp.array([0, 0.9])[:, None] * prototypes[label]).T, color)
                axes.plot(*points[labels == label].T, marker, color=color, ms=4)
            axes.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
            axes.set_title(f"margin {margin}")
            axes.axis("off")

    return draw


def mask(loss):
    """A region in: the loss of discs of every size, and the pull on a shifted one."""
    row, column = jnp.mgrid[:24, :24]
    distance = jnp.hypot(row - 12, column - 9)
    true = (distance < 6).astype(float)
    logits = 6 - 1.2 * jnp.hypot(row - 12.5, column - 14.0)
    radius = jnp.linspace(1, 12, 45)

    def of_radius(loss):
        return jax.jit(jax.vmap(lambda r: loss(3 * (r - distance), true)))(radius)

    def dice(x, true):
        return jl.binary_dice_loss(x[None], true[None]).sum()

    def draw(figure):
        left, right = figure.subplots(1, 2)
        way = -np.asarray(jax.jit(jax.grad(loss))(logits, true))
        left.plot(radius, of_radius(loss), **LINES[0], label="loss")
        left.plot(radius, of_radius(dice), color=GREY, ls=":", label="binary Dice")
        left.axvline(6, color=ORANGE, lw=0.8)
        left.set(title="discs in its place", xlabel="radius", ylim=(0, None))
        shade(right, way / abs(way).max())
        right.set_title("pull on the logits")
        right.contour(distance, [6], colors=[INK], linewidths=1.2)
        right.set(xticks=[], yticks=[])
        right.spines[:].set_visible(True)
        figure.legend(loc="outside lower left", ncols=2, columnspacing=1)

    return draw


def shade(axes, values, **options):
    """Values in [-1, 1] as an image: orange below 0, blue above, clear at 0."""
    values = np.asarray(values)
    image = np.where(values[..., None] > 0, [0.1, 0.5, 0.8, 1], [0.9, 0.45, 0.1, 1])
    image[..., 3] = abs(values)
    axes.imshow(image, interpolation="none", **options)


def spelling(rows, names, of):
    """Frames that say c, a, t, in time: how probable a frame is to stand in a row."""
    time = jnp.arange(24.0)[:, None]
    spoken = 6 - ((time - jnp.array([4.0, 11.0, 19.0])) / 1.4) ** 2
    logits = jnp.concatenate([jnp.ones_like(time), spoken], axis=1)
    batch = logits[None], jnp.zeros((1, 24)), jnp.array([[1, 2, 3]]), jnp.zeros((1, 3))

    def draw(figure):
        axes = figure.subplots()
        shade(axes, jax.jit(of)(*batch).T, aspect="auto")
        axes.set_yticks(range(rows), names)
        axes.set(xlabel="frame")

    return draw


def posterior(logits, *rest):
    """What the gradient of CTC holds: softmax less the probability of the alignment."""
    gradient = jax.grad(lambda logits: jl.ctc_loss(logits, *rest).sum())(logits)
    return (jax.nn.softmax(logits) - gradient)[0]


def forward_probability(*batch):
    _, blanks, emitted = jl.ctc_loss_with_forward_probs(*batch)
    emitted = jnp.pad(emitted, [(0, 0), (0, 0), (0, 1)], constant_values=-jnp.inf)
    states = jnp.stack([blanks[:, 0], emitted[:, 0]], axis=-1).reshape(24, -1)[:, :-1]
    return jax.nn.softmax(states)


def lattice(figure):
    """Frames that say c, a, t, in time: how probable a path is to pass each node."""
    time = jnp.arange(24.0)[:, None]
    spoken = 5 - ((time - jnp.array([4.0, 11.0, 19.0])) / 1.6) ** 2
    following = jnp.pad(spoken, [(0, 0), (0, 1)], constant_values=-9.0)
    blank, other = jnp.full_like(following, 2.0), jnp.zeros_like(following)
    logits = jnp.stack([blank, following, other], axis=-1)
    rest = jnp.zeros(24), jnp.array([1, 1, 1]), jnp.zeros(3)
    gradient = jax.jit(jax.grad(lambda x: jl.transducer_loss(x, *rest)))(logits)
    # The slope of a class that is never emitted is its share of the visits.
    visits = gradient[..., 2] / jax.nn.softmax(logits)[..., 2]
    axes = figure.subplots()
    shade(axes, visits.T, aspect="auto", origin="lower")
    axes.set_yticks(range(4), ["–", "c", "ca", "cat"])
    axes.set(xlabel="frame", ylabel="emitted so far")


def descent(loss, box, rate=0.2):
    """A box in: where a descent takes it, and the loss on its way."""
    target = jnp.array([4.2, 1.6, 7.0, 3.4])

    @jax.jit
    def steps(box):
        def step(box, rate):
            value, slope = jax.value_and_grad(loss)(box, target)
            return box - rate * slope / jnp.linalg.norm(slope), (box, value)

        return jax.lax.scan(step, box, jnp.linspace(rate, 0, 401))[1]

    def draw(figure):
        left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
        places, values = map(np.asarray, steps(jnp.array(box)))
        for i in range(0, 401, 50):
            outline(left, places[i], color=BLUE, lw=1.2, alpha=0.3 + 0.7 * i / 400)
        outline(left, target, color=ORANGE, lw=1.7, ls="--")
        left.set(xticks=[], yticks=[], aspect="equal", xlabel="boxes")
        right.plot(values, **LINES[0])
        right.set(title="loss", xlabel="step", ylim=(0, None))

    return draw


def outline(axes, box, **options):
    x1, y1, x2, y2 = np.asarray(box)
    axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], **options)


def memory(of, in_full, inputs, labels):
    """What value and gradient need beside their inputs and outputs.

    Args:
        of: The loss of the real inputs and the labels.
        in_full: The same from logits in memory.
        inputs: The shapes of the real inputs, from the number of classes.
        labels: The shape of the labels.
    """
    sizes = 2 ** jnp.arange(13, 19, 2)

    def gibibytes(loss, classes):
        real = [jax.ShapeDtypeStruct(x, jnp.float32) for x in inputs(int(classes))]
        integer = jax.ShapeDtypeStruct(labels, jnp.int32)
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        memory = step.lower(*real, integer).compile().memory_analysis()
        return memory.temp_size_in_bytes / 2**30

    def draw(figure):
        axes = figure.subplots()
        for line, name, loss in zip(
            LINES, ["here", "logits in full"], [of, in_full], strict=False
        ):
            heights = [gibibytes(loss, classes) for classes in sizes]
            axes.semilogx(sizes, heights, "o", ms=4, label=name, **line)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes.tolist()])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="classes", ylabel="temporaries, GiB")
        figure.legend(loc="outside lower center", ncols=2)

    return draw


def of_kinds(loss):
    """The three divergences of a student with one free logit from its teacher."""

    def draw(figure):
        axes = figure.subplots()
        x = jnp.linspace(-6, 8, 121)
        for line, kind in zip(
            LINES, ["forward_kl", "reverse_kl", "jensen_shannon"], strict=False
        ):
            logits = jnp.stack([x, 0 * x], -1)
            height = loss(logits, jnp.array([1.0, 0.0]), divergence=kind)
            axes.plot(x, height, label=kind, **line)
        axes.axhline(0, color=GREY, lw=0.6, zorder=0)
        axes.set(xlabel="logit of the student", ylabel="loss")
        axes.legend(loc="upper center")

    return draw


def last_layer(classes):
    """The shapes of 8192 hidden states and of a kernel."""
    return (8192, 256), (256, classes)


def mean_of_linear(hidden, kernel, labels):
    return jl.linear_cross_entropy(hidden, kernel, labels, reduction="mean")


def mean_in_full(hidden, kernel, labels):
    return jl.softmax_cross_entropy_with_integer_labels(
        hidden @ kernel, labels, reduction="mean"
    )


def of_clusters(draw):
    """A drawing of an adaptive softmax of 12 classes: 4 at the head, 3 and 5 behind."""

    def drawn(figure):
        cutoffs = [4, 7]
        parameters = jl.init_adaptive_softmax(
            jax.random.key(1), 2, 12, cutoffs, div_value=1.0
        )
        parameters = jax.tree.map(lambda p: 2 * p, parameters)  # surer than at birth
        axes = figure.subplots()
        draw(axes, parameters, cutoffs)

    return drawn


def pull_to_class(axes, parameters, cutoffs):
    def loss(hidden):
        labels = jnp.full(hidden.shape[:-1], 5)
        return jl.adaptive_softmax_cross_entropy(hidden, labels, parameters, cutoffs)

    landscape(axes, loss, 3)
    axes.set(xlabel="feature 0", ylabel="feature 1")


def probability_by_class(axes, parameters, cutoffs):
    hidden = jnp.array([2.0, 1.0])
    log_probs = jl.adaptive_softmax_log_probs(hidden, parameters, cutoffs)
    colors = [BLUE] * 4 + [ORANGE] * 3 + [GREEN] * 5
    axes.bar(np.arange(12), np.exp(log_probs), color=colors)
    axes.set(xlabel="class", ylabel="probability")


def region_of_class(axes, parameters, cutoffs):
    ticks = jnp.linspace(-3, 3, 61)
    hidden = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)
    best = np.asarray(jl.adaptive_softmax_predict(hidden, parameters, cutoffs))
    for label in np.unique(best):
        color = [BLUE, ORANGE, GREEN][np.searchsorted(cutoffs, label, side="right")]
        inside = best == label
        axes.contourf(ticks, ticks, inside, [0.5, 2], colors=[color], alpha=0.4)
        axes.contour(ticks, ticks, inside, [0.5], colors=[GREY], linewidths=0.6)
        y, x = np.argwhere(inside).mean(axis=0).astype(int)
        if inside.sum() > 50:  # else there is no room for its number
            axes.text(ticks[x], ticks[y], f"{label}", ha="center", va="center")
    axes.set(xlabel="feature 0", ylabel="feature 1", aspect="equal")


def parameter_counts(figure):
    features, classes = 512, 50_000
    shapes = jax.eval_shape(
        lambda key: jl.init_adaptive_softmax(key, features, classes, [2_000, 10_000]),
        jax.random.key(0),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    axes = figure.subplots()
    heights = [features * classes / 1e6, count / 1e6]
    axes.bar(["one matrix", "adaptive"], heights, color=[GREY, BLUE], width=0.5)
    axes.set(ylabel="million parameters")


def sum_of_differences(a, b):
    return jnp.sum(jnp.abs(a - b), axis=-1)


# Single pictures.


def lines(**losses):
    """Losses to compare in one drawing, each with its style of line and its name."""
    return [
        (line, name.replace("_", " "), loss)
        for line, (name, loss) in zip(LINES, losses.items(), strict=False)
    ]


def separated(figure):
    """Points of two targets, and the line that a descent draws between them."""
    x = jnp.array([-2, -1.6, -1.1, -0.8, -1.9, 0.5, 1.2, 1.1, 1.9, 2.1])
    y = jnp.array([0.9, -0.4, 1.3, 0.3, 1.9, -0.6, 0.6, -1.4, -0.3, 1.2])
    targets, ends = jnp.repeat(jnp.array([1, -1]), 5), np.array([-3, 3])
    axes = figure.subplots()
    for line, name, loss in lines(perceptron=jl.perceptron_loss, hinge=jl.hinge_loss):

        def mean(w, loss=loss):
            return loss(w[0] * x + w[1] * y + w[2], targets, reduction="mean")

        a, b, c = descended(mean, jnp.array([0.3, 1.0, 0.2]), 2001, 0.05)[-1]
        axes.plot(ends, -(a * ends + c) / b, **line, label=name)
    for target, marker in ((1, "o"), (-1, "s")):
        own = targets == target
        axes.plot(x[own], y[own], marker, color=INK, ms=4)
    axes.set(xlabel="feature 0", ylabel="feature 1", xlim=(-3, 3), ylim=(-2, 2.4))
    figure.legend(loc="outside lower center", ncols=2)


def best_scores(figure):
    """The score of the least expected loss, over the probability of target 1."""
    share, score = jnp.linspace(0, 1, 201), jnp.linspace(-1, 1, 201)
    axes = figure.subplots()
    for line, name, loss in lines(
        squared_hinge=jl.squared_hinge_loss, hinge=jl.hinge_loss
    ):
        up, down = loss(score, 1), loss(score, -1)
        expected = share[:, None] * up + (1 - share[:, None]) * down
        axes.plot(share, score[jnp.argmin(expected, axis=1)], **line, label=name)
    axes.set(xlabel="probability of target 1", ylabel="best score")
    axes.legend()


def envelope(figure):
    """Three scores over an input, and the loss between the label's and the highest."""
    x, label = jnp.linspace(-3, 3, 121), 1
    scores = jnp.stack([-x, 0.2 * x + 0.8, 0.9 * x - 0.6], axis=-1)
    loss, axes = jl.multiclass_perceptron_loss(scores, label), figure.subplots()
    names = "class 0", "class 1, the label", "class 2"
    for line, name, score in zip(LINES, names, scores.T, strict=False):
        axes.plot(x, score, **line, label=name)
    of_label = scores[:, label]
    axes.fill_between(x, of_label, of_label + loss, color=GREY, alpha=0.35, lw=0)
    axes.set(xlabel="input", ylabel="score", title="shaded: the loss")
    figure.legend(loc="outside lower center", ncols=3, columnspacing=0.8)


def too_close(figure):
    """Five scores, of which three are too close to the label's, and their pulls."""
    scores, label, place = jnp.array([1.7, 2.0, 2.5, 0.3, 1.3]), 1, np.arange(5)
    loss, slope = jax.value_and_grad(jl.multi_margin_loss)(scores, label)
    way, axes = -np.asarray(slope), figure.subplots()
    colors = [BLUE if i == label else ORANGE if slope[i] else GREY for i in place]
    axes.barh(place, scores, 0.6, color=colors)
    for edge in (scores[label] - 1, scores[label]):
        axes.axvline(edge, color=INK, ls="--", lw=0.9)
    axes.text(scores[label] - 0.5, 3, "margin", ha="center", va="center")
    scale = {"angles": "xy", "scale_units": "xy", "scale": 0.8}
    axes.quiver(scores, place, way, 0 * way, color=INK, width=0.01, zorder=3, **scale)
    axes.set(xlabel="score", ylabel="class", xlim=(0, 3), title=f"loss {loss:.2f}")
    axes.invert_yaxis()


def against_zero(figure):
    """The hinge loss of two classes, with and without a 0 among the wrong scores."""
    x, axes = jnp.linspace(-4, 4, 121), figure.subplots()
    scores = jnp.stack([jnp.full_like(x, 0.5), x], axis=-1)
    for line, name, loss in lines(
        categorical=lambda x: jl.categorical_hinge_loss(x, jnp.array([1, 0])),
        multiclass=lambda x: jl.multiclass_hinge_loss(x, 0),
    ):
        axes.plot(x, loss(scores), **line, label=name)
    axes.axvline(0.5, color=GREY, lw=0.8)
    axes.set(xlabel="score of the wrong class", ylabel="hinge loss")
    axes.text(0.6, 0, "the label's score")
    axes.legend()


def sparse(figure):
    """The probabilities of three classes under sparsemax, over the first score."""
    x = jnp.linspace(-2, 2, 121)
    scores = jnp.stack([x, jnp.full_like(x, 0.4), jnp.zeros_like(x)], axis=-1)
    slope = jax.vmap(jax.grad(jl.multiclass_sparsemax_loss), (0, None))(scores, 0)
    sparsemax, softmax = slope + jnp.eye(3)[0], jax.nn.softmax(scores)
    axes = figure.subplots()
    for i, line in enumerate(LINES[:3]):
        axes.plot(x, softmax[:, i], color=line["color"], lw=0.7)
        axes.plot(x, sparsemax[:, i], **line, label=f"class {i}")
    axes.set(xlabel="score of class 0", ylabel="probability", title="thin: softmax")
    figure.legend(loc="outside lower center", ncols=3)


def disc(radius, x=0.0, size=32):
    """The pixels of a disc whose center is `x` pixels to the right of the middle."""
    row, column = jnp.mgrid[:size, :size] - (size - 1) / 2
    return (jnp.hypot(row, column - x) < radius).astype(float)


def of_region(loss, predicted, true, **options):
    """A loss of the probabilities of one region per example, without smoothing."""
    predicted, true = (x[..., None] for x in jnp.broadcast_arrays(predicted, true))
    return loss(predicted, true, smooth=0.0, apply_softmax=False, **options)


def shifted_discs(figure):
    """The Dice loss of discs of three sizes, over how far they are out of place."""
    axes, shifts = figure.subplots(), np.arange(17)
    for line, radius in zip(LINES, (2, 4, 8), strict=False):
        moved = jnp.stack([disc(radius, x, 64) for x in shifts])
        loss = of_region(jl.dice_loss, moved, moved[0])
        axes.plot(shifts, loss, "o", ms=3, **line, label=f"radius {radius}")
    axes.set(xlabel="shift of a disc, pixels", ylabel="loss")
    axes.legend()


def intersection(figure):
    """Two discs that share some pixels, and the losses at every overlap."""
    left, right = figure.subplots(1, 2)
    one, other = disc(9, -5), disc(9, 5)
    shade(left, 0.3 * (one + other) + 0.3 * one * other)
    left.set(xticks=[], yticks=[], title="two regions")
    left.spines[:].set_visible(True)
    met = jnp.linspace(0, 1, 51)
    predicted, true = jnp.stack([met, 1 - met], axis=-1), jnp.array([1.0, 0.0])
    for line, name, loss in lines(Jaccard=jl.jaccard_loss, Dice=jl.dice_loss):
        right.plot(met, of_region(loss, predicted, true), **line, label=name)
    right.set(title="loss", xlabel="share in both")
    figure.legend(loc="outside lower center", ncols=2)


def uncertain(figure):
    """Equally likely discs, and the prediction of least loss under three costs."""
    radii, axes = np.arange(3, 15), figure.subplots()
    discs, angles = jnp.stack([*map(disc, radii)]), jnp.linspace(0, 2 * jnp.pi, 90)
    shade(axes, 0.7 * discs.mean(0))
    for line, alpha in zip(LINES, (0.1, 0.5, 0.9), strict=False):
        costs = {"alpha": alpha, "beta": 1 - alpha}
        losses = [of_region(jl.tversky_loss, x, discs, **costs).sum() for x in discs]
        best = 15.5 + radii[np.argmin(losses)] * on_circle(angles)
        axes.plot(*best.T, **line, label=f"alpha {alpha}, beta {1 - alpha:.1f}")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    figure.legend(loc="outside right center", title="best disc for")


def focus(figure):
    """How strongly ever worse regions are pulled, against the Tversky loss."""
    shares, place = jnp.array([0.9, 0.6, 0.3]), np.arange(3)

    def slopes(gamma):
        def loss(shares):
            certain = jnp.ones((3, 1))
            focal = jl.focal_tversky_loss
            return of_region(focal, shares[:, None], certain, gamma=gamma).sum()

        return jax.grad(loss)(shares)

    axes = figure.subplots()
    for shift, gamma, color in ((-0.2, 0.75, BLUE), (0.2, 2.0, ORANGE)):
        heights = slopes(gamma) / slopes(1.0)
        axes.bar(place + shift, heights, 0.36, color=color, label=f"gamma {gamma:g}")
    axes.axhline(1, color=INK, lw=0.8)
    axes.set_xticks(place, [f"{share:.0%}" for share in shares.tolist()])
    axes.set(xlabel="probability in the region", ylabel="pull, Tversky = 1")
    axes.legend()


def errors_of_two(figure):
    """The Lovász-softmax loss of three pixels, over the errors of two of them."""

    def loss(errors):
        inside, outside = errors[..., 0], errors[..., 1]
        region = jnp.stack([1 - inside, outside, jnp.ones_like(inside)], axis=-1)
        logits = jnp.log(jnp.stack([1 - region, region], axis=-1))
        labels, one_class = jnp.array([1, 0, 1]), {"classes": (1,)}
        each = jl.lovasz_softmax_loss(logits.reshape(-1, 3, 2), labels, **one_class)
        return each.reshape(inside.shape)

    axes = figure.subplots()
    landscape(axes, loss, 0.4999, middle=0.5)
    axes.plot([0, 1], [0, 1], color=ORANGE, lw=0.8)
    axes.set(xlabel="error inside the region", ylabel="error outside it")
    axes.set(xlim=(0, 1), ylim=(0, 1))


def rare_classes(figure):
    """How strongly two losses pull each pixel of an undecided image to its class."""
    labels = jnp.zeros((24, 24), int).at[3:13, 3:13].set(1).at[16:19, 16:19].set(2)
    targets = jax.nn.one_hot(labels, 3)[None]
    panels = figure.subplots(1, 2)
    losses = jl.dice_loss, jl.multiclass_generalized_dice_loss
    titles = "Dice", "generalized Dice"
    for axes, title, loss in zip(panels, titles, losses, strict=True):
        way = -jax.grad(lambda x, loss=loss: loss(x, targets).sum())(0 * targets)
        pull = (way * targets).sum(-1)[0]
        shade(axes, pull / pull.max())
        axes.contour(labels, [0.5], colors=[INK], linewidths=1)
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[:].set_visible(True)


def taught(figure):
    """A teacher's distribution over 16 classes, and its student's in a descent."""
    keys = jax.random.split(jax.random.key(4), 4)
    teacher = jax.random.normal(keys[0], (6,)), jax.random.normal(keys[1], (6, 16))
    student = jax.random.normal(keys[2], (3,)), jax.random.normal(keys[3], (3, 16)) / 4

    def loss(student):
        return jl.linear_distillation_loss(*student, *teacher)

    way = descended(loss, student, 401, 1.0)
    probabilities, axes = jax.nn.softmax(teacher[0] @ teacher[1]), figure.subplots()
    order = jnp.argsort(-probabilities)
    grey = {"color": GREY, "alpha": 0.5}
    axes.bar(np.arange(16), probabilities[order], **grey, label="teacher")
    for line, step in zip(LINES, (0, 5, 400), strict=False):
        hidden, kernel = (part[step] for part in way)
        heights = jax.nn.softmax(hidden @ kernel)[order]
        axes.plot(heights, **line, label=step or "step 0")
    axes.set(xlabel="class", ylabel="probability", xticks=[])
    axes.set_title("student and teacher")
    figure.legend(loc="outside lower center", ncols=4, columnspacing=0.8)


def transcripts(figure):
    """The losses of five words for the same frames, which say c, a and t in time."""
    words, letters = ("cat", "at", "cap", "act", "tac"), " acpt"
    labels = jnp.array([[letters.index(x) for x in word.ljust(3)] for word in words])
    time = jnp.arange(24.0)[:, None]
    spoken = 3 - ((time - jnp.array([11, 4, jnp.inf, 19])) / 0.6) ** 2
    encodings = jnp.pad(spoken, [(0, 0), (1, 0)], constant_values=1.0)
    losses = [
        jl.linear_transducer_loss(
            encodings,
            jnp.pad(-9 * jax.nn.one_hot(row, 5), [(1, 0), (0, 0)]),  # no repetitions
            4 * jnp.eye(5),
            row,
            jnp.zeros(24),
            row == 0,
        )
        for row in labels
    ]
    axes = figure.subplots()
    axes.barh(words, losses, color=[BLUE] + [GREY] * 4)
    axes.set(xlabel="loss, nats", title="24 frames that say cat")
    axes.invert_yaxis()


def weighted_scores(figure):
    """The circle loss of an example, over its scores with one of each other kind."""

    def of_scores(scores):
        def of_two(other, own):
            embeddings = jnp.stack([jnp.ones_like(own), own, other])[:, None]
            return jl.circle_loss(embeddings, [0, 0, 1], gamma=8.0)[0]

        return jnp.vectorize(of_two)(scores[..., 0], scores[..., 1])

    axes = figure.subplots()
    landscape(axes, of_scores, 1)
    axes.plot(0, 1, "*", color=ORANGE, ms=9, clip_on=False)
    axes.set(xlabel="score with another class", ylabel="score with its own")


def residuals(figure):
    """Predictions on a line, and one step of a descent for each, at a rate of 1."""
    x = jnp.arange(8.0)
    predicted = 0.4 * x + 1
    targets = predicted + jnp.array([0.9, -0.7, 0.5, -1.2, 0.3, 1.1, -0.6, -0.9])
    step = -jax.jit(jax.vmap(jax.grad(jl.l2_loss)))(predicted, targets)
    axes = figure.subplots()
    axes.plot(x, predicted, **LINES[0], marker="o", ms=4, label="predictions")
    axes.plot(x, targets, "o", color=ORANGE, ms=6, mfc="none", label="targets")
    axes.quiver(
        x, predicted, 0 * x, step, color=INK, width=0.006,
        angles="xy", scale_units="xy", scale=1, zorder=3,
    )  # fmt: skip
    axes.set(xticks=[], yticks=[], ylim=(-0.4, 5.4))
    figure.legend(loc="outside lower center", ncols=2)


def rewards(figure):
    """The loss over the rewards of both answers, and where it pulls them."""
    axes = figure.subplots()
    landscape(axes, lambda r: jl.bradley_terry_loss(r[..., 0], r[..., 1]), 3)
    axes.plot([-3, 3], [-3, 3], color=ORANGE, lw=0.8)
    axes.set(xlabel="reward of the chosen", ylabel="of the rejected")


def pulled_scores(figure):
    """The scores of eight images and texts, and where SigLIP pulls each."""
    scores = 0.25 * jax.random.normal(jax.random.key(3), (8, 8)) + 0.5 * jnp.eye(8)

    def loss(scores):  # texts along the axes: the embeddings of images are the scores
        options = {"logit_scale": 5.0, "logit_bias": -1.5}
        return jl.siglip_loss(scores, jnp.eye(8), **options).sum()

    way = -jax.jit(jax.grad(loss))(scores)
    panels = figure.subplots(1, 2)
    for axes, values, title in zip(
        panels, (scores, way), ("scores", "pull on them"), strict=True
    ):
        shade(axes, values / jnp.abs(values).max())
        axes.set(title=title, xlabel="text", xticks=[], yticks=[])
    panels[0].set_ylabel("image")


def decorrelated(figure):
    """The correlations of two views' features, before and after a descent."""
    keys = jax.random.split(jax.random.key(0), 4)
    shared = jax.random.normal(keys[0], (32, 3)) @ jax.random.normal(keys[1], (3, 6))
    views = [shared + 1.5 * jax.random.normal(key, (32, 6)) for key in keys[2:]]

    def loss(views):
        return jl.barlow_twins_loss(*views, off_diagonal_weight=0.5)

    way = descended(loss, views, 2001, 1.0)
    for axes, title, i in zip(
        figure.subplots(1, 2), ("before", "after"), (0, -1), strict=True
    ):
        x, y = ((v[i] - v[i].mean(0)) / v[i].std(0) for v in way)
        shade(axes, jnp.clip(x.T @ y / len(x), -1, 1))
        axes.set(title=title, xlabel="feature of y", xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    figure.axes[0].set_ylabel("feature of x")


def spread_out(figure):
    """Two views of ten examples, before and after a descent under VICReg."""
    keys = jax.random.split(jax.random.key(1), 3)
    along = jax.random.normal(keys[0], (10, 1)) * jnp.array([0.6, 0.5])
    views = [along + 0.2 * jax.random.normal(key, (10, 2)) for key in keys[1:]]
    way = descended(lambda views: jl.vicreg_loss(*views), views, 401, 0.01)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, title, i in zip(panels, ("before", "after"), (0, -1), strict=True):
        pair = np.stack([view[i] for view in way])
        axes.plot(*pair.transpose(2, 0, 1), color=GREY, lw=1)
        for side, marker in enumerate("os"):
            axes.plot(
                *pair[side].T, marker, color=LINES[side]["color"], ms=6 - 3 * side
            )
        axes.set(title=title, xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")


def two_masses(figure):
    """The divergence of two predicted masses from masses of 1 and 2."""
    target = jnp.array([1.0, 2.0])
    axes = figure.subplots()
    landscape(
        axes,
        lambda x: jl.generalized_kl_divergence(jnp.log(x), target),
        1.45,
        middle=1.55,
    )
    axes.plot(*target, "*", color=ORANGE, ms=9)
    axes.set(xlabel="mass of bin 0", ylabel="mass of bin 1", xticks=[1, 2, 3])


def known_classes(figure):
    """A student, and the three classes of the teacher that are known."""
    logits = jnp.array([1.8, 0.2, 1.2, 0.4, -0.2, 0.9, -0.6, 0.1])
    ids, known = jnp.array([0, 1, 2]), jnp.array([0.5, 0.2, 0.15])
    loss = jl.sparse_distillation_loss(logits, ids, jnp.log(known))
    student, axes, place = jax.nn.softmax(logits), figure.subplots(), np.arange(4)
    for shift, p, name, color in (
        (-0.2, known, "teacher", ORANGE),
        (0.2, student[:3], "student", BLUE),
    ):
        heights = [*p, 1 - p.sum()]
        axes.bar(place + shift, heights, 0.36, color=color, label=name)
    axes.set_xticks(place, ["class 0", "class 1", "class 2", "all others"])
    axes.set(ylabel="probability", title=f"loss {loss:.3f}")
    axes.legend()


def tails(figure):
    """The divergence from ever more of a teacher's classes, and from all."""
    keys = jax.random.split(jax.random.key(2), 3)
    hidden, kernel = jax.random.normal(keys[0], (4,)), jnp.eye(4, 16)
    kernel = kernel + 0.5 * jax.random.normal(keys[1], (4, 16))
    teacher = 1.5 * jax.random.normal(keys[2], (16,))
    log_probs = jax.nn.log_softmax(teacher)
    order = jnp.argsort(-log_probs)
    axes, number = figure.subplots(), range(2, 17, 2)
    for line, tail in zip(LINES, ("bucket", "renormalize"), strict=False):
        losses = [
            jl.linear_sparse_distillation_loss(
                hidden, kernel, order[:k], log_probs[order[:k]], tail=tail
            )
            for k in number
        ]
        axes.plot(number, losses, "o", ms=4, **line, label=tail)
    axes.axhline(jl.distillation_loss(hidden @ kernel, teacher), color=GREY, lw=0.8)
    axes.set(xlabel="classes known, of 16", ylabel="loss", ylim=(0, None))
    axes.legend()


def tokens(figure):
    """The log-probability of each token, and the entropy where it was predicted."""
    keys = jax.random.split(jax.random.key(5), 3)
    hidden = jax.random.normal(keys[0], (9, 8))
    kernel = jax.random.normal(keys[1], (8, 40)) / 2
    labels = jax.random.categorical(keys[2], 2 * hidden @ kernel)
    log_probs, entropies = jl.linear_log_probs(hidden, kernel, labels)
    axes, place = figure.subplots(), np.arange(9)
    axes.bar(place, entropies, color=GREEN, label="entropy")
    axes.bar(place, log_probs, color=BLUE, label="log-probability")
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(xlabel="token", xticks=[])
    figure.legend(loc="outside lower center", ncols=2)


def statistics(figure):
    """One distribution, and what the statistics of two labels say about it."""
    hidden, labels = jnp.array([1.0, 0.5]), jnp.array([2, 6])
    kernel = jnp.stack([jnp.cos(jnp.arange(10.0)), jnp.sin(2 * jnp.arange(10.0))])
    found = jl.linear_statistics(hidden, 1.5 * kernel, labels)
    axes, place = figure.subplots(), np.arange(10)
    axes.bar(place, jax.nn.softmax(hidden @ kernel * 1.5), color=GREY, alpha=0.5)
    axes.bar(labels, np.exp(found.log_probs), color=BLUE, label="the labels")
    axes.plot(found.predictions, 0.01, "*", color=ORANGE, ms=9, label="prediction")
    axes.set(xlabel="class", ylabel="probability", xticks=place)
    tail = np.exp(found.log_tail)
    axes.set_title(f"entropy {found.entropies:.2f}, outside the labels {tail:.0%}")
    axes.legend()


def smoothing(figure):
    axes = figure.subplots()
    labels, place = jnp.eye(4)[1], np.arange(4)
    for i, alpha in enumerate([0.0, 0.1, 0.4]):
        heights = jl.smooth_labels(labels, alpha)
        color = LINES[i]["color"]
        axes.bar(place + 0.25 * (i - 1), heights, 0.22, color=color, label=f"{alpha=}")
    axes.set(xticks=place, xlabel="class", ylabel="label")
    axes.legend()


def fenchel_young(figure):
    """A soft maximum gives a soft loss; the cooler, the nearer to the perceptron's."""

    def of_lead(lead, temperature):
        def soft_maximum(x):
            return temperature * jax.nn.logsumexp(x / temperature, axis=-1)

        loss = jl.make_fenchel_young_loss(soft_maximum)
        return loss(jnp.stack([lead, 0 * lead]), jnp.array([1.0, 0.0]))

    x, values = jnp.linspace(-4, 4, 121), (1.0, 0.5, 0.1)
    curves(x, of_lead, "lead of the label", "temperature", values)(figure)


def made(figure):
    """Zheng's smooth pinball loss: the quantile loss with its corner rounded."""

    def rule(prediction, target, quantile, width):
        u = target - prediction
        miss = jax.nn.sigmoid(-u / width)
        softplus = jax.nn.softplus(-u / width)
        of_width = softplus + u / width * miss
        gradients = (miss - quantile, quantile - miss, u, of_width)
        return quantile * u + width * softplus, gradients

    loss = jl.make_loss(rule)
    x, values = jnp.linspace(-3, 3, 121), (0.1, 0.5, 1.0)
    name = "prediction − target"
    curves(x, lambda x, w: loss(x, 0.0, 0.8, w), name, "width", values)(figure)


def transport(figure):
    grid = jnp.arange(12.0)
    predicted = jax.nn.softmax(-(((grid - 3.0) / 1.6) ** 2))
    target = jax.nn.softmax(-(((grid - 7.0) / 2.4) ** 2))
    left, right = figure.subplots(1, 2)
    edges = np.arange(13) - 0.5
    sums = jnp.cumsum(predicted), jnp.cumsum(target)
    for i, name in enumerate(["predicted", "target"]):
        line = LINES[i] | {"baseline": None}
        left.stairs((predicted, target)[i], edges, **line, label=name)
        right.stairs(sums[i], edges, **line)
    right.stairs(sums[0], edges, baseline=sums[1], fill=True, color=GREY, alpha=0.35)
    loss = jl.wasserstein_distance(predicted, target)
    left.set(title=f"loss {loss:.2f}", xlabel="bin")
    right.set(title="running sums", xlabel="bin")
    figure.legend(loc="outside lower center", ncols=2)


def ranked(figure):
    relevance = jnp.array([0.0, 2.0, 0.0, 1.0, 0.0])
    logits = jnp.array([2.0, 1.6, 1.0, 0.3, -0.4])
    way = -np.asarray(jax.jit(jax.grad(jl.ranking_softmax_loss))(logits, relevance))
    place, colors = np.arange(5), [GREY, GREEN, BLUE]
    axes = figure.subplots()
    axes.bar(place, logits + 1, bottom=-1, color=[colors[int(r)] for r in relevance])
    feet = place, np.asarray(logits), 0 * way, way
    true_to_axes = {"angles": "xy", "scale_units": "xy", "scale": abs(way).max()}
    axes.quiver(*feet, color=ORANGE, width=0.015, zorder=3, **true_to_axes)
    axes.set_xticks(place, [int(r) for r in relevance])
    axes.set(xlabel="relevance", ylabel="score", ylim=(-1, 3.2))


def two_scores(figure):
    axes = figure.subplots()
    landscape(axes, lambda x: jl.margin_ranking_loss(x[..., 0], x[..., 1], 1), 3)
    axes.set(xlabel="score of the better", ylabel="score of the worse")


def ensemble(figure):
    """The distribution function of six members, and the score at each target."""
    members, target = jnp.array([-1.6, -0.7, -0.3, 0.2, 0.9, 1.9]), 1.2
    left, right = figure.subplots(1, 2)
    x = np.linspace(-3, 3, 241)
    share = np.mean(np.asarray(members) <= x[:, None], axis=1)
    happened = (x >= target).astype(float)
    left.fill_between(x, share, happened, step="post", color=BLUE, alpha=0.2, lw=0)
    left.step(x, share, where="post", color=BLUE)
    left.step(x, happened, where="post", color=ORANGE, ls="--")
    left.set(title="share below", xlabel="value", yticks=[0, 0.5, 1])
    score = jax.jit(jax.vmap(jl.crps_ensemble_loss, (None, 0)))(members, jnp.array(x))
    right.plot(x, score, color=BLUE)
    right.plot(members, 0 * members, "o", color=GREEN, ms=4)
    right.axvline(target, color=ORANGE, ls="--")
    right.set(title="loss", xlabel="target")


def survival(figure):
    """How long each subject was seen, and where the loss pulls its hazard."""
    times, events = jnp.array([1, 2, 3.5, 4, 5.5, 7]), jnp.array([1, 1, 0, 1, 0, 1])
    slope = jax.grad(jl.cox_partial_likelihood_loss)(jnp.zeros(6), times, events)
    axes = figure.subplots()
    row, way = np.arange(6)[::-1], -np.asarray(slope)
    axes.hlines(row, 0, times, color=BLUE)
    face = [BLUE if seen else "none" for seen in events]
    axes.scatter(times, row, facecolors=face, edgecolors=BLUE, zorder=3)
    feet = np.asarray(times) + 0.6, row - np.sign(way) * 0.4
    scale = {"angles": "xy", "scale_units": "xy", "scale": abs(way).max() / 0.9}
    axes.quiver(*feet, 0 * way, way, color=ORANGE, width=0.01, **scale)
    axes.set(xlabel="time", ylabel="subject", yticks=[], xlim=(0, 8), ylim=(-0.8, 5.8))


def cloud(figure):
    """Members in the plane, and the score of a target anywhere."""
    members = jnp.array(
        [[-1.1, -0.9], [-0.6, -0.2], [0.1, 0.3], [0.7, 0.4], [1.2, 1.3]]
    )
    axes = figure.subplots()

    def score(points):
        each = jax.vmap(jax.vmap(jl.energy_score_loss, (None, 0)), (None, 0))
        return each(members, points)

    landscape(axes, score, 2.2)
    axes.plot(*members.T, "o", color=GREEN, ms=4)
    axes.set(xlabel="first component", ylabel="second")


def estimates(figure):
    axes = figure.subplots()
    x = jnp.linspace(-2, 2, 121)
    for line, name in zip(LINES, ("k1", "k2", "k3"), strict=False):
        axes.plot(x, jl.kl_estimate(x, 0 * x, estimator=name), **line, label=name)
    axes.axhline(0, color=GREY, lw=0.6, zorder=0)
    axes.set(xlabel="log-probability: policy − reference", ylabel="estimate")
    axes.legend()


def balance_of_many(logits):
    """The loss of many alike tokens, for each point of the plane."""
    ids = jnp.array([0, 0, 0, 1, 2])

    def of_one(row):
        return jl.router_balance_loss(jnp.broadcast_to(row, (5, 3)), ids)

    for _ in logits.shape[:-1]:
        of_one = jax.vmap(of_one)
    return of_one(logits)


def answers(figure):
    x = -jnp.array([0.4, 1.3, 0.7, 2.1, 0.2, 0.5, 1.6, 1.1, 0.3])
    ids = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    means = jl.sequence_log_probs(x, segment_ids=ids, num_segments=3, average=True)
    axes, colors = figure.subplots(), np.array([BLUE, ORANGE, GREEN])
    axes.bar(np.arange(9), x, color=colors[ids], alpha=0.6)
    for answer, mean in enumerate(means.tolist()):
        [places] = np.nonzero(ids == answer)
        ends = places[0] - 0.5, places[-1] + 0.5
        axes.plot(ends, (mean, mean), color=INK, lw=1.5)
    axes.set(xlabel="token", ylabel="log-probability")


ANCHOR, NEGATIVE, TARGET = jnp.array([[-0.9, 0.4], [0.8, -0.5], [1.2, 0.7]])
FROM_TARGET = (("target", TARGET),)
TRIPLET = (("anchor", ANCHOR), ("negative", NEGATIVE))
MOSTLY_FIRST = jnp.array([0.7, 0.3, 0.0])
COINS = jnp.array([0.2, 0.5, 1.0])
PROBABILITY = jnp.linspace(0.01, 0.99, 99)


def label(loss, **options):
    plain = jl.softmax_cross_entropy_with_integer_labels
    return surface(
        lambda logits: loss(logits, jnp.array(0), **options),
        None if loss is plain else lambda logits: plain(logits, jnp.array(0)),
    )


def dense(loss, labels=MOSTLY_FIRST, **options):
    plain = jl.softmax_cross_entropy
    compare = "softmax_cross" not in loss.__name__ and jnp.sum(labels) == 1
    return surface(
        lambda logits: loss(logits, labels, **options),
        (lambda x: plain(x, labels)) if compare else None,
    )


def of_coin(p, q):
    """The divergence of a predicted probability of heads from the true one."""
    return jl.kl_divergence(jnp.log(jnp.stack([p, 1 - p])), jnp.stack([q, 1 - q]))


def of_log_target(log_q, p):
    """The same from the logarithm of the true one."""
    log_targets = jnp.stack([log_q, jnp.log(-jnp.expm1(log_q))])
    return jl.kl_divergence_with_log_targets(
        jnp.log(jnp.stack([p, 1 - p])), log_targets
    )


def of_mass(predicted, target):
    """The divergence of one mass, which need not be a probability."""
    return jl.convex_kl_divergence(jnp.log(predicted)[None], target[None])


def with_mask(x, third):
    """The cross entropy of three logits, the third of which may be -inf."""
    return jl.safe_softmax_cross_entropy(jnp.stack([x, 0 * x, third]), MOSTLY_FIRST)


REGRESSION = {
    "absolute_error": Card(
        errors(jl.absolute_error),
        "A V with its tip at 0, where the derivative jumps from −1 to 1.",
    ),
    "absolute_percentage_error": Card(
        curves(
            jnp.linspace(0, 6, 121),
            jl.absolute_percentage_error,
            "prediction",
            "target",
            (1.0, 2.0, 4.0),
            ylim=(0, 300),
        ),
        "Three Vs with their tips at targets of 1, 2 and 4: the larger the target, the "
        "flatter the V.",
    ),
    "charbonnier_loss": Card(
        errors(jl.charbonnier_loss, "epsilon", (0.1, 0.5, 1.0)),
        "A V with a rounded tip, which is rounder for larger epsilon; the derivative "
        "rises smoothly from −1 to 1.",
    ),
    "epsilon_insensitive_loss": Card(
        errors(jl.epsilon_insensitive_loss, "epsilon", (0.1, 1.0)),
        "A V with a flat bottom around 0, twice epsilon wide; the derivative is −1, "
        "then 0 over the bottom, then 1.",
    ),
    "gaussian_nll_loss": Card(
        errors(
            lambda mean, variance: jl.gaussian_nll_loss(mean, 0.0, variance),
            "variance",
            (0.25, 1.0, 4.0),
            ylim=(-1, 6),
            slopes=(-6, 6),
        ),
        "Three parabolas: a small variance makes a deep and steep one, a large "
        "variance a shallow and flat one.",
    ),
    "huber_loss": Card(
        errors(jl.huber_loss, "delta", (0.5, 1.0, 2.0)),
        "Parabolas that continue as straight lines beyond an error of delta; the "
        "derivative grows up to delta and stays there.",
    ),
    "l2_loss": Card(
        residuals,
        "Eight predictions on a line, and from each an arrow against the derivative: "
        "it ends at the target, since the derivative is the error.",
    ),
    "log_cosh": Card(
        errors(jl.log_cosh),
        "A parabola near 0 that turns into straight lines; the derivative is a smooth "
        "step from −1 to 1.",
    ),
    "poisson_nll_loss": Card(
        curves(
            jnp.linspace(-2, 3, 121),
            jl.poisson_nll_loss,
            "log of the rate",
            "count",
            (0.0, 1.0, 5.0),
            (-4, 12),
            (-6, 12),
        ),
        "For a count of 0 the loss grows with the rate; for 1 and 5 it has its minimum "
        "where the rate is the count.",
    ),
    "quantile_loss": Card(
        errors(jl.quantile_loss, "quantile", (0.1, 0.5, 0.9)),
        "Leaning Vs: with quantile 0.9 a prediction that is too low costs nine times "
        "as much as one that is too high; with quantile 0.1 it is the reverse.",
    ),
    "robust_loss": Card(
        errors(
            jl.robust_loss,
            "alpha",
            (2.0, 1.0, 0.0, -2.0, -jnp.inf),
            ylim=(0, 3),
            slopes=(-2, 2),
        ),
        "Five curves that agree near 0: alpha 2 is a parabola, 1 becomes straight, 0 "
        "grows like a logarithm, −2 and minus infinity level off, and their "
        "derivatives return to 0.",
    ),
    "smooth_l1_loss": Card(
        errors(jl.smooth_l1_loss, "beta", (0.5, 1.0, 2.0)),
        "Vs with a rounded tip, twice beta wide; all derivatives end at −1 and 1.",
    ),
    "squared_error": Card(
        errors(jl.squared_error),
        "A parabola that reaches 9 at an error of 3; its derivative is twice the "
        "error.",
    ),
    "squared_log_error": Card(
        curves(
            jnp.linspace(0, 8, 121),
            jl.squared_log_error,
            "prediction",
            "target",
            (1.0, 3.0, 6.0),
            ylim=(0, 3),
        ),
        "Three curves with minima at targets of 1, 3 and 6: steep below the target, "
        "flat above it.",
    ),
}

BINARY = {
    "binary_cross_entropy": Card(
        curves(
            PROBABILITY,
            jl.binary_cross_entropy,
            "probability",
            "label",
            (1.0, 0.0),
            (0, 4),
            (-9, 9),
        ),
        "For label 1 the loss falls from large values at probability 0 to 0 at "
        "probability 1; label 0 gives the mirror image. The derivatives grow without "
        "bound where the prediction is wrong.",
    ),
    "hinge_embedding_loss": Card(
        curves(
            jnp.linspace(0, 2, 121),
            jl.hinge_embedding_loss,
            "distance",
            "target",
            (1.0, -1.0),
        ),
        "For target +1 the loss is the distance; for target −1 it falls from the "
        "margin of 1 to 0 at a distance of 1, and stays 0.",
    ),
    "hinge_loss": Card(
        scores(jl.hinge_loss),
        "For target +1 a straight line falls to 0 at a score of 1 and stays there; "
        "target −1 gives the mirror image.",
    ),
    "perceptron_loss": Card(
        separated,
        "Dots and squares in the plane, and two lines between them. The line of the "
        "perceptron loss touches the nearest square, as the right side is enough; "
        "the line of the hinge loss keeps a distance from both kinds.",
    ),
    "sigmoid_binary_cross_entropy": Card(
        curves(
            jnp.linspace(-5, 5, 121),
            jl.sigmoid_binary_cross_entropy,
            "logit",
            "label",
            (1.0, 0.0, 0.8),
        ),
        "For label 1 the loss falls smoothly from a straight line to 0, and label 0 "
        "gives the mirror image; for label 0.8 it has a minimum where the probability "
        "is 0.8.",
    ),
    "sigmoid_focal_loss": Card(
        curves(
            jnp.linspace(-4, 4, 121),
            lambda logit, gamma: jl.sigmoid_focal_loss(logit, 1.0, gamma=gamma),
            "logit",
            "gamma",
            (0.0, 2.0, 5.0),
            ylim=(0, 4),
        ),
        "For label 1: gamma 0 is the cross entropy; with a larger gamma the loss and "
        "the derivative vanish sooner as the logit grows.",
    ),
    "soft_margin_loss": Card(
        scores(jl.soft_margin_loss),
        "For target +1 the loss falls smoothly from a straight line to 0, and target "
        "−1 gives the mirror image; the derivatives lie between −1 and 1.",
    ),
    "sparsemax_loss": Card(
        curves(
            jnp.linspace(-3, 3, 121), jl.sparsemax_loss, "logit", "label", (1.0, 0.0)
        ),
        "For label 1 the loss is a straight line, then a piece of a parabola between "
        "−1 and 1, then 0; the derivative is a ramp from −1 to 0.",
    ),
    "squared_hinge_loss": Card(
        best_scores,
        "The score of the least expected loss over the probability of target 1: a "
        "straight line from −1 to 1 for the squared hinge, and a step from −1 to 1 at "
        "a probability of 0.5 for the hinge.",
    ),
}

MULTICLASS = {
    "categorical_hinge_loss": Card(
        against_zero,
        "The loss over the score of the wrong class of two, beside a score of 0.5 for "
        "the label. The multiclass hinge loss is 0 up to −0.5; the categorical one "
        "stays at 0.5 up to 0, as if a wrong class had a score of 0. From 0 on the "
        "two agree.",
    ),
    "generalized_cross_entropy": Card(
        label(jl.generalized_cross_entropy),
        "The loss falls towards a larger logit of class 0, the label, and is level "
        "where the label is far behind: there the slope returns to 0.",
    ),
    "log_softmax": Card(
        curves(
            jnp.linspace(-4, 6, 121),
            lambda x, n: jl.log_softmax(
                jnp.zeros(8).at[0].set(x), where=jnp.arange(8) < n
            )[0],
            "logit of one class",
            "classes",
            (2.0, 4.0, 8.0),
            title="log-probability",
        ),
        "The log-probability of one class over its logit: it rises with a slope of 1 "
        "and bends to 0 where the logit is far above those of the other classes.",
    ),
    "make_fenchel_young_loss": Card(
        fenchel_young,
        "The loss that logsumexp makes at three temperatures: at 1 it is the smooth "
        "cross entropy, and lower temperatures come closer to the kinked line of the "
        "perceptron loss.",
    ),
    "multi_margin_loss": Card(
        too_close,
        "Five scores as bars. Three wrong classes, which lead the label or lie less "
        "than the margin of 1 below it, are pulled down with equal arrows; an arrow "
        "three times as long pulls the label up; the class far below is left alone.",
    ),
    "multiclass_hinge_loss": Card(
        label(jl.multiclass_hinge_loss),
        "Straight level lines with a corner: the loss falls towards a larger score of "
        "class 0, the label, and is 0 once that score leads by 1.",
    ),
    "multiclass_perceptron_loss": Card(
        envelope,
        "The scores of three classes over an input, as straight lines. The shaded "
        "loss lies between the line of the label, class 1, and the highest line; "
        "where the label's line is the highest, there is no loss.",
    ),
    "multiclass_sparsemax_loss": Card(
        sparse,
        "The probabilities of three classes over the score of class 0. Those of "
        "sparsemax are straight pieces: class 0 has exactly 0 on the left and 1 on "
        "the right, where both other classes have 0. Thin curves of softmax come near "
        "0 but never reach it.",
    ),
    "multilabel_margin_loss": Card(
        surface(
            lambda x: jl.multilabel_margin_loss(
                x, jnp.broadcast_to(jnp.array([0, 1, -1]), x.shape)
            )
        ),
        "Labels 0 and 1: the loss falls towards the corner where both their scores are "
        "large, and is 0 where both lead class 2 by 1.",
    ),
    "multilabel_soft_margin_loss": Card(
        dense(jl.multilabel_soft_margin_loss, jnp.array([1.0, 1.0, 0.0])),
        "Labels 0 and 1: the loss falls smoothly towards the corner where both their "
        "logits are large.",
    ),
    "nll_loss": Card(
        curves(
            jnp.linspace(-5, 0, 60),
            lambda x, weight: jl.nll_loss(x[None], 0, class_weights=weight[None]),
            "log-probability",
            "class weight",
            jnp.array([1.0, 2.0]),
            slopes=(-2.5, 0.5),
        ),
        "Straight lines that fall to 0 at a log-probability of 0, with a slope of "
        "minus the weight of the class.",
    ),
    "poly_loss_cross_entropy": Card(
        dense(jl.poly_loss_cross_entropy, jnp.array([1.0, 0.0, 0.0])),
        "Like the cross entropy, but steeper where the prediction is undecided; the "
        "loss falls towards a larger logit of class 0, the label.",
    ),
    "safe_softmax_cross_entropy": Card(
        curves(
            jnp.linspace(-4, 5, 121),
            with_mask,
            "logit of class 0",
            "third logit",
            (0.0, -jnp.inf),
        ),
        "With labels of 0.7, 0.3 and 0, the loss over the logit of class 0 for a third "
        "logit of 0 and of minus infinity: without the third class the loss is a "
        "little lower, and both curves and their derivatives are finite.",
    ),
    "smooth_labels": Card(
        smoothing,
        "Bars of the label of class 1 among 4 classes: with alpha 0 it has all the "
        "mass; with alpha 0.1 and 0.4 the other classes receive equal shares.",
    ),
    "softmax_cross_entropy": Card(
        dense(jl.softmax_cross_entropy),
        "With labels of 0.7 for class 0 and 0.3 for class 1, the loss has a valley "
        "where the first logit is a little above the second and both are above the "
        "third.",
    ),
    "softmax_cross_entropy_with_integer_labels": Card(
        label(jl.softmax_cross_entropy_with_integer_labels),
        "The loss falls towards a larger logit of class 0, the label; the slope is −1 "
        "where the label is far behind and 0 where it leads.",
    ),
    "softmax_focal_loss": Card(
        label(jl.softmax_focal_loss),
        "Like the cross entropy where the logit of class 0, the label, is low, but "
        "flat sooner where it leads.",
    ),
}

DIVERGENCE = {
    "convex_kl_divergence": Card(
        curves(
            jnp.linspace(0.05, 4, 121),
            of_mass,
            "predicted mass",
            "target",
            jnp.array([0.5, 1.0, 2.0]),
            (0, 2.5),
            (-4, 1.2),
        ),
        "Three curves that touch 0 where the predicted mass is the target, 0.5, 1 and "
        "2, and rise on both sides.",
    ),
    "generalized_kl_divergence": Card(
        two_masses,
        "The plane of two predicted masses: level lines are ovals around the target, "
        "of masses 1 and 2, where the loss is 0; it is steepest near masses of 0, and "
        "arrows lead to the target.",
    ),
    "jensen_shannon_divergence": Card(
        curves(
            jnp.linspace(-6, 6, 121),
            lambda x, beta: jl.jensen_shannon_divergence(
                jnp.stack([x, 0 * x]), jnp.zeros(2), beta=beta
            ),
            "logit",
            "beta",
            (0.1, 0.5, 0.9),
        ),
        "The divergence of a coin with the given logit from a fair coin: 0 at a logit "
        "of 0, with a bounded rise on both sides, which is highest for beta 0.5.",
    ),
    "kl_divergence": Card(
        curves(PROBABILITY, of_coin, "predicted", "target", COINS, (0, 2.5), (-6, 6)),
        "Three curves that touch 0 where the predicted probability is the target, 0.2, "
        "0.5 and 1, and grow without bound towards a certain and wrong prediction.",
    ),
    "kl_divergence_with_log_targets": Card(
        curves(
            jnp.linspace(-6, -0.02, 121),
            of_log_target,
            "log of the target",
            "predicted",
            jnp.array([0.1, 0.5, 0.9]),
        ),
        "The divergence over the logarithm of the target probability, for predictions "
        "of 0.1, 0.5 and 0.9: each curve touches 0 where both agree, and levels off "
        "towards a log-target of minus infinity.",
    ),
    "wasserstein_distance": Card(
        transport,
        "A narrow predicted histogram to the left of a wide target histogram; beside "
        "them their running sums. The shaded area between the sums is the loss.",
    ),
}

DISTILLATION = {
    "distillation_loss": Card(
        of_kinds(jl.distillation_loss),
        "The divergence of a student's coin from its teacher's, 0 where both logits "
        "are 1: forward and reverse divergence rise without bound on one side each, "
        "and Jensen-Shannon stays low on both.",
    ),
    "linear_distillation_loss": Card(
        taught,
        "A teacher's probabilities of 16 classes as falling bars, and its student's "
        "as lines: uneven before the descent, closer to the bars after 5 steps, and "
        "on them after 400.",
    ),
    "linear_sparse_distillation_loss": Card(
        tails,
        "The loss over the number of the teacher's classes that are known, of 16: with "
        "the others as one bucket it rises to the divergence over all classes, a line; "
        "renormalised over the known classes it reaches the same value at 16.",
    ),
    "sparse_distillation_loss": Card(
        known_classes,
        "Pairs of bars, teacher and student, for the three classes that are known and "
        "for all others together; the loss compares these four probabilities.",
    ),
}

EMBEDDING = {
    "circle_loss": Card(
        weighted_scores,
        "The plane of two scores of an example, with one of another class and with one "
        "of its own: level lines are quarter circles around the goal, scores of 0 and "
        "1, to which the arrows lead, longer ones from farther away.",
    ),
    "arcface_loss": Card(
        by_margin(0.0, 0.5),
        "Points of three classes on a circle, and a line to the prototype of each "
        "class. Arrows pull the points along the circle towards their prototypes. "
        "Without a margin they are short for points that are already nearest to their "
        "own; with a margin of 0.5 these are pulled as well.",
    ),
    "barlow_twins_loss": Card(
        decorrelated,
        "The matrix of correlations between the six features of two views: before "
        "training every feature is correlated with several others; after a descent "
        "only the diagonal is left, where each feature agrees with itself.",
    ),
    "vicreg_loss": Card(
        spread_out,
        "Two views of ten examples in the plane, each pair joined by a line: before "
        "training they lie along a line, pairs apart; after a descent the pairs have "
        "met, and the points are spread in both coordinates.",
    ),
    "siglip_loss": Card(
        pulled_scores,
        "Two matrices of eight images and eight texts. Left, their scores, blue above "
        "0 and orange below. Right, the pull on each score: up on the diagonal, where "
        "image and text belong together, and down elsewhere, most where a score is "
        "high.",
    ),
    "info_nce_loss": Card(
        towers(lambda x, y: jl.info_nce_loss(x, y, temperature=0.3, symmetric=True)),
        "Images and texts on a circle, each pair joined by a line: arrows are long for "
        "pairs that are farther apart than others, and short where the pair is already "
        "the nearest.",
    ),
    "supervised_contrastive_loss": Card(
        bundles(
            lambda x, labels: jl.supervised_contrastive_loss(x, labels, temperature=0.5)
        ),
        "The angles of eight points of three classes over the steps of a descent on a "
        "circle: the lines of each class run together into one bundle, away from the "
        "bundles of the other classes.",
    ),
    "cosine_distance": Card(
        planes(
            marks=FROM_TARGET,
            distance=lambda x: jl.cosine_distance(x, TARGET),
        ),
        "Level lines are rays from the origin; arrows turn each point towards the "
        "direction of the target, and are longer for points near the origin.",
    ),
    "cosine_embedding_loss": Card(
        planes(
            marks=FROM_TARGET,
            alike=lambda x: jl.cosine_embedding_loss(x, TARGET, 1),
            different=lambda x: jl.cosine_embedding_loss(x, TARGET, -1),
        ),
        "For a pair that is alike, arrows turn each point towards the direction of "
        "the target. For a different pair, arrows turn away the points within a right "
        "angle of the target; the others stay.",
    ),
    "cosine_similarity": Card(
        planes(
            marks=FROM_TARGET,
            similarity=lambda x: jl.cosine_similarity(x, TARGET),
        ),
        "Level lines are rays from the origin; arrows show the way down, away from the "
        "target's direction.",
    ),
    "margin_ranking_loss": Card(
        two_scores,
        "Parallel level lines: the loss is 0 where the better item has the higher "
        "score, and pushes the two scores apart elsewhere.",
    ),
    "ntxent": Card(
        pulls(lambda x, labels: jl.ntxent(x, labels, temperature=0.5)),
        "Eight points of three classes on a circle: arrows pull points of one class "
        "together and push neighbours of another class away.",
    ),
    "triplet_margin_loss": Card(
        planes(
            marks=TRIPLET,
            euclidean=lambda x: jl.triplet_margin_loss(
                jnp.broadcast_to(ANCHOR, x.shape), x, NEGATIVE
            ),
        ),
        "Arrows pull the positive towards the anchor from wherever it is; level lines "
        "are circles, and the loss is 0 within the innermost, where the positive is "
        "near enough to the anchor.",
    ),
    "triplet_margin_with_distance_loss": Card(
        planes(
            marks=TRIPLET,
            sum_of_differences=lambda x: jl.triplet_margin_with_distance_loss(
                jnp.broadcast_to(ANCHOR, x.shape),
                x,
                NEGATIVE,
                distance_fn=sum_of_differences,
            ),
        ),
        "The triplet loss under the sum of absolute differences: level lines are "
        "squares that stand on a corner around the anchor, and arrows are diagonal.",
    ),
}

RANKING = {
    "ranking_softmax_loss": Card(
        ranked,
        "Five items ordered by score: arrows push up the two relevant items, most of "
        "all the one of relevance 2, and push down the others, most of all the "
        "highest.",
    ),
}

FORECAST = {
    "crps_ensemble_loss": Card(
        ensemble,
        "Left, the share of six members below each value, a staircase, with the area "
        "between it and the step at the target shaded. Right, the loss over the "
        "target: a bowl, lowest among the members, with straight arms beyond them.",
    ),
    "negative_binomial_nll_loss": Card(
        curves(
            jnp.linspace(0.3, 15, 121),
            lambda m, a: jl.negative_binomial_nll_loss(m, 5, a),
            "predicted mean",
            "dispersion",
            (0.0, 0.2, 1.0),
            (1, 8),
            (-4, 1),
        ),
        "The loss of a count of 5 over the predicted mean, lowest at 5 for all three "
        "dispersions: the larger the dispersion, the flatter the valley.",
    ),
}

FORECAST["cox_partial_likelihood_loss"] = Card(
    survival,
    "Six subjects as horizontal lines, ordered by the time at which they end, with a "
    "dot for an event and a ring for a censoring: arrows push the hazards of early "
    "events up and those of subjects who outlive them down.",
)
FORECAST["energy_score_loss"] = Card(
    cloud,
    "The plane with five members: shades show the score of a target at each place, "
    "lowest in the middle of the members and higher the farther it is from them.",
)
FORECAST["student_t_nll_loss"] = Card(
    curves(
        jnp.linspace(-8, 8, 161),
        lambda x, v: jl.student_t_nll_loss(x, 0.0, 1.0, v),
        "prediction − target",
        "degrees",
        (jnp.inf, 5.0, 1.0),
        (0, 10),
        (-3, 3),
    ),
    "A bowl around 0 for infinite degrees of freedom, the Gaussian; with five and with "
    "one degree its arms bend outward, and the derivative of large errors goes to 0.",
)

SEQUENCE = {
    "ctc_loss": Card(
        spelling(4, ["blank", "c", "a", "t"], posterior),
        "The alignment of 24 frames to the word cat: c, a and t are probable one after "
        "the other, with blanks between them.",
    ),
    "ctc_loss_with_forward_probs": Card(
        spelling(7, ["–", "c", "–", "a", "–", "t", "–"], forward_probability),
        "The probability of each state of the alignment, frame by frame: a path "
        "descends from the first blank through c, a and t to the last blank.",
    ),
    "linear_transducer_loss": Card(
        transcripts,
        "The losses of five words for frames that say cat, as bars: least for cat, "
        "more for at, which lacks a letter, still more for cap and act, and most for "
        "tac, the reverse.",
    ),
    "transducer_loss": Card(
        lattice,
        "The lattice of 24 frames and the letters emitted so far, darker where paths "
        "are likely to pass: three steps lead up from no letter through c and ca to "
        "cat, each within a few frames.",
    ),
}

SEGMENTATION = {
    "binary_dice_loss": Card(
        mask(lambda x, true: jl.binary_dice_loss(x[None], true[None]).sum()),
        "The loss of discs in the right place is least at the true radius. A disc "
        "that is too far right is pulled up inside the true outline and down outside "
        "it, most where the prediction is undecided.",
    ),
    "dice_loss": Card(
        shifted_discs,
        "The loss of three discs over how many pixels they are out of place: it rises "
        "to 1, at a shift of the diameter, and therefore the faster the smaller the "
        "disc. A shift of 2 pixels costs a disc of radius 2 several times as much as "
        "one of radius 8.",
    ),
    "focal_tversky_loss": Card(
        focus,
        "How strongly three regions are pulled, as bars, with the Tversky loss as 1. "
        "With a gamma of 0.75 the region that is right to 90% is pulled more and the "
        "one right to 30% less; a gamma of 2 nearly stops the pull on the first.",
    ),
    "jaccard_loss": Card(
        intersection,
        "Left, two discs of equal size, of a stronger blue where they overlap. Right, "
        "two losses over the share of each that lies in both: Dice is a straight line "
        "from 1 to 0, and Jaccard a curve above it with the same ends.",
    ),
    "lovasz_hinge_loss": Card(
        mask(lambda x, true: jl.lovasz_hinge_loss(x[None], true[None]).sum()),
        "The loss of discs in the right place is least at the true radius. A disc "
        "that is too far right is pulled up inside the true outline and down outside "
        "it, where it is wrong, more strongly the larger the error is among all "
        "errors.",
    ),
    "lovasz_softmax_loss": Card(
        errors_of_two,
        "The loss over the errors of two pixels, one inside the region and one "
        "outside: straight level lines with a corner on the diagonal, where the two "
        "errors change ranks. Below it, where the error inside is larger, the arrows "
        "point more to the left.",
    ),
    "multiclass_generalized_dice_loss": Card(
        rare_classes,
        "An image of three classes, background, a large square and a small one: the "
        "stronger the blue, the more a pixel is pulled to its class. The Dice loss "
        "pulls the small square most, and the others too; the generalized one pulls "
        "almost nothing but the small square.",
    ),
    "tversky_loss": Card(
        uncertain,
        "A region with an uncertain outline, of a stronger blue where a pixel is more "
        "likely to belong to it, and three circles around its middle, the predictions "
        "of least loss: the largest if false negatives cost most, with a beta of 0.9, "
        "and the smallest if false positives cost most, with an alpha of 0.9.",
    ),
}

FAR = [0.3, 0.2, 2.0, 2.6]
UPRIGHT = [4.7, 0.3, 6.5, 4.7]  # the target's center
BOXES = {
    "complete_box_iou_loss": Card(
        descent(jl.complete_box_iou_loss, UPRIGHT, rate=0.02),
        "An upright box around the center of a wide target becomes lower and wider, "
        "until it has the target's shape, and the loss falls to 0.",
    ),
    "distance_box_iou_loss": Card(
        descent(jl.distance_box_iou_loss, FAR),
        "A small tall box at the lower left grows towards a wide target at the upper "
        "right while its center moves there; it covers the target, shrinks onto it, "
        "and the loss falls to 0.",
    ),
    "generalized_box_iou_loss": Card(
        descent(jl.generalized_box_iou_loss, FAR),
        "A small tall box at the lower left stretches to a wide target at the upper "
        "right, while its left edge stays; once it covers the target it shrinks onto "
        "it, and the loss falls to 0.",
    ),
}

VOCABULARY = {
    "adaptive_softmax_cross_entropy": Card(
        of_clusters(pull_to_class),
        "The plane of two features, with a label in the second cluster: shades show "
        "the loss, and arrows the direction in which the label becomes more probable.",
    ),
    "adaptive_softmax_log_probs": Card(
        of_clusters(probability_by_class),
        "Bars of the probabilities of twelve classes, in three colours: four classes "
        "in the head, and clusters of three and of five classes in the tail.",
    ),
    "adaptive_softmax_predict": Card(
        of_clusters(region_of_class),
        "The plane of two features, divided into the regions where each class is the "
        "most probable one, in three colours: head, first and second cluster.",
    ),
    "init_adaptive_softmax": Card(
        parameter_counts,
        "Two bars, the numbers of parameters for 50,000 classes: a single matrix has "
        "several times as many as the adaptive softmax.",
    ),
    "linear_cross_entropy": Card(
        memory(mean_of_linear, mean_in_full, last_layer, (8192,)),
        "Temporary memory over the number of classes, from 8192 to 131,072: with full "
        "logits it grows to gibibytes, and in chunks, as here, it stays far below.",
    ),
    "linear_log_probs": Card(
        tokens,
        "Bars for nine tokens: the log-probability of each below a line at 0, and the "
        "entropy of the prediction at its place above it.",
    ),
    "linear_statistics": Card(
        statistics,
        "The distribution over ten classes in grey, the probabilities of two labels in "
        "blue and a star at the predicted class; the title has the entropy and the "
        "mass outside the labels.",
    ),
    "softmax_statistics": Card(
        curves(
            jnp.linspace(-6, 10, 121),
            lambda x, n: (
                jl.softmax_statistics(
                    jnp.zeros(8).at[0].set(x), where=jnp.arange(8) < n
                ).entropies
            ),
            "logit of one class",
            "classes",
            (2.0, 4.0, 8.0),
            title="entropy",
        ),
        "The entropy over the logit of one class among two, four and eight: highest "
        "where that logit is that of the others, and 0 where it is far above them.",
    ),
}

MARGIN = jnp.linspace(-8, 8, 121)
PREFERENCE = (
    "Curves that fall from a straight line to 0 as the chosen answer gains on the "
    "rejected one; the derivative rises from a negative constant to 0."
)
ALIGNMENT = {
    "bradley_terry_loss": Card(
        rewards,
        "The plane of two rewards: the loss is high above the diagonal, where the "
        "rejected answer has the larger one, and arrows lead across it, with a larger "
        "reward for the chosen answer and a smaller one for the rejected.",
    ),
    "cispo_loss": Card(
        curves(
            jnp.linspace(-4, -0.01, 121),
            lambda x, advantage: jl.cispo_loss(x, -2.0, advantage),
            "log-probability",
            "advantage",
            (1.0, -1.0),
        ),
        "Two mirrored curves, for an old log-probability of −2: the derivative grows "
        "with the ratio to the old probability until that reaches 5, and then stays, "
        "where the derivatives of other losses fall to 0.",
    ),
    "clipped_policy_loss": Card(
        curves(
            jnp.linspace(-1, 1, 201),
            lambda x, advantage: jl.clipped_policy_loss(x, 0.0, advantage),
            "log of the ratio",
            "advantage",
            (1.0, -1.0),
        ),
        "With a positive advantage the loss falls until the ratio is 1.2 and is flat "
        "beyond; with a negative one it is flat up to 0.8 and rises beyond.",
    ),
    "dpo_loss": Card(
        curves(
            MARGIN,
            lambda x, beta: jl.dpo_loss(x, 0.0, beta=beta),
            "chosen − rejected",
            "beta",
            (0.1, 0.5, 1.0),
        ),
        PREFERENCE,
    ),
    "ipo_loss": Card(
        curves(
            MARGIN,
            lambda x, beta: jl.ipo_loss(x, 0.0, beta=beta),
            "chosen − rejected",
            "beta",
            (0.1, 0.25, 1.0),
            ylim=(0, 60),
        ),
        "Parabolas, each with its minimum of 0 at 1 over twice beta: the smaller beta, "
        "the larger the margin that the loss aims at.",
    ),
    "kl_estimate": Card(
        estimates,
        "Three curves that touch 0 where the policies agree: "
        "a straight line through 0, a parabola, and a curve that is steep on one side.",
    ),
    "kto_loss": Card(
        curves(
            MARGIN,
            lambda x, kind: jl.kto_loss(x, 0.0, kind, beta=1.0),
            "log-ratio",
            "desirable",
            (1.0, 0.0),
        ),
        "Two mirrored S-curves between 0 and 1: the loss of a desirable answer falls "
        "and that of an undesirable one rises; both level off on either side.",
    ),
    "orpo_loss": Card(
        curves(
            jnp.linspace(-4, -0.01, 121),
            lambda x, rejected: jl.orpo_loss(x, rejected, weight=1.0),
            "log p of the chosen",
            "rejected",
            (-2.0, -1.0, -0.2),
        ),
        "Curves that fall to 0 as the probability of the chosen answer approaches 1, "
        "from higher up the more probable the rejected answer is.",
    ),
    "router_balance_loss": Card(
        surface(balance_of_many),
        "Three logits of a router for tokens of which most went to expert 0: the loss "
        "is highest where expert 0 is probable, and arrows lead away from there.",
    ),
    "router_z_loss": Card(
        surface(jl.router_z_loss),
        "Three logits of a router: the loss is 0 along a curve where their log-sum-exp "
        "is 0, and grows on both sides of it; arrows lead to the curve.",
    ),
    "sequence_log_probs": Card(
        answers,
        "Bars of the log-probabilities of nine tokens, in three colours for three "
        "answers, and a line through each answer at the mean over its tokens.",
    ),
    "simpo_loss": Card(
        curves(
            MARGIN / 2,
            lambda x, margin: jl.simpo_loss(x, 0.0, margin=margin),
            "chosen − rejected",
            "margin",
            (0.0, 2.0, 4.0),
        ),
        PREFERENCE,
    ),
}

CUSTOM = {
    "make_loss": Card(
        made,
        "A loss that jaxloss lacks, made from its value and slope: a V with a steep "
        "left arm and a rounded tip; the slope rises smoothly from −0.8 to 0.2.",
    ),
}

CARDS = {
    **REGRESSION,
    **BINARY,
    **MULTICLASS,
    **DIVERGENCE,
    **DISTILLATION,
    **EMBEDDING,
    **FORECAST,
    **RANKING,
    **SEQUENCE,
    **SEGMENTATION,
    **BOXES,
    **VOCABULARY,
    **ALIGNMENT,
    **CUSTOM,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or CARDS:
        for suffix, svg in zip(("", "-dark"), picture(name), strict=True):
            (folder / f"{name}{suffix}.svg").write_text(svg)
        print(folder / f"{name}.svg")
