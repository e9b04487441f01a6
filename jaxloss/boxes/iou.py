"""Losses from the intersection over union of a box and its target."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import share
from jaxloss.boxes._overlap import Format, Lengths, arguments, missed, shapes


@public()
def generalized_box_iou_loss(
    boxes: ArrayLike,
    targets: ArrayLike,
    *,
    format: Format = "xyxy",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Generalized IoU loss (GIoU): one minus the overlap, plus the hull's empty share.

    Choose it over a regression loss of the coordinates where boxes are judged by their
    intersection over union: it does not depend on their size. It has a slope for
    disjoint boxes too; `distance_box_iou_loss` pulls those together faster.

    With $A$ and $B$ the two boxes, $|\cdot|$ the area and $C$ their hull, the smallest
    box around all their corners:

    $$ 1 - \frac{|A \cap B|}{|A \cup B|} + \frac{|C| - |A \cup B|}{|C|} $$

    Also known as GIoU loss. MONAI: `BoxGIoULoss`.

    Args:
        boxes: Floating, `[..., 4]`, in any unit.
        targets: Real, in the same unit and format, broadcastable to `boxes`.
        format: "xyxy" for two corners, "xywh" for a corner, width and height, "cxcywh"
            for the center, width and height.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [0, 2]; a scalar if reduced. Exactly 0 for equal boxes, empty ones
        included. A negative width or height counts as 0, while the hull contains all
        corners of an inverted box.

    Gradient:
        By differentiating the formula, for `boxes` and `targets`; 0 for equal boxes.
        Where two edges coincide, half of the slope on either side. At a width of
        exactly 0, the slope towards a positive width.

    Numerics:
        Each area is a sum of positive parts, so that the loss of boxes that nearly
        agree keeps its digits. No area is formed in the unit of the boxes: sides of
        1e-20 and 1e20 neither under- nor overflow.

    Example:
        >>> import jaxloss as jl
        >>> boxes = [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]]
        >>> targets = [[1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]]
        >>> print(jl.generalized_box_iou_loss(boxes, targets))  # 1 - 2/6 and 1 + 4/12
        [0.6666667 1.3333334]

    References:
        Hamid Rezatofighi et al., "Generalized Intersection over Union: A Metric and A
        Loss for Bounding Box Regression", CVPR 2019,
        https://arxiv.org/abs/1902.09630, section 3
    """
    x, y, tail = arguments(boxes, targets, format, where, weights, reduction)
    return tail.reduce(_unless_same(x, y, missed(x, y, with_empty=True)))


@public()
def distance_box_iou_loss(
    boxes: ArrayLike,
    targets: ArrayLike,
    *,
    format: Format = "xyxy",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Distance IoU loss (DIoU): one minus the overlap, plus the distance of centers.

    Choose it over `generalized_box_iou_loss` for faster convergence: it pulls disjoint
    and nested boxes straight to each other. `complete_box_iou_loss` also compares the
    aspect ratios.

    With $A$ and $B$ the two boxes, $|\cdot|$ the area, $\rho$ the distance of their
    centers and $c$ the diagonal of the smallest box around all their corners:

    $$ 1 - \frac{|A \cap B|}{|A \cup B|} + \frac{\rho^2}{c^2} $$

    Also known as DIoU loss.

    Args:
        boxes: Floating, `[..., 4]`, in any unit.
        targets: Real, in the same unit and format, broadcastable to `boxes`.
        format: "xyxy" for two corners, "xywh" for a corner, width and height, "cxcywh"
            for the center, width and height.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [0, 2]; a scalar if reduced. Exactly 0 for equal boxes, empty ones
        included. A negative width or height counts as 0 in the areas, while center and
        hull are those of the corners.

    Gradient:
        By differentiating the formula, for `boxes` and `targets`; 0 for equal boxes.
        Where two edges coincide, half of the slope on either side. At a width of
        exactly 0, the slope towards a positive width.

    Numerics:
        As in `generalized_box_iou_loss`.

    Example:
        >>> import jaxloss as jl
        >>> boxes, targets = [[0.0, 0.0, 2.0, 2.0]], [[4.0, 0.0, 6.0, 2.0]]
        >>> print(jl.distance_box_iou_loss(boxes, targets))  # 1 + 16/40
        [1.4]

    References:
        Zhaohui Zheng et al., "Distance-IoU Loss: Faster and Better Learning for
        Bounding Box Regression", AAAI 2020,
        https://arxiv.org/abs/1911.08287, equation 7
    """
    x, y, tail = arguments(boxes, targets, format, where, weights, reduction)
    loss = missed(x, y, with_empty=False) + shapes(x, y).distance
    return tail.reduce(_unless_same(x, y, loss))


@public()
def complete_box_iou_loss(
    boxes: ArrayLike,
    targets: ArrayLike,
    *,
    format: Format = "xyxy",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Complete IoU loss (CIoU): the distance IoU loss, plus a term of the shapes.

    Choose it over `distance_box_iou_loss` where a box should take its target's aspect
    ratio before they overlap fully.

    With $L_D$ the distance IoU loss, $w, h$ the sides of the box and $w', h'$ those of
    the target:

    $$ L_D + \alpha v, \qquad v = \frac{4}{\pi^2} \left( \arctan \frac{w'}{h'} -
       \arctan \frac{w}{h} \right)^2, \qquad \alpha = \frac{v}{1 - \text{IoU} + v} $$

    Also known as CIoU loss.

    Args:
        boxes: Floating, `[..., 4]`, in any unit.
        targets: Real, in the same unit and format, broadcastable to `boxes`.
        format: "xyxy" for two corners, "xywh" for a corner, width and height, "cxcywh"
            for the center, width and height.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [0, 3]; a scalar if reduced. Exactly 0 for equal boxes, empty ones
        included. A negative width or height counts as 0; a box without both has no
        aspect ratio, and $v$ is 0.

    Gradient:
        By differentiating the formula with $\alpha$ held constant, as in the paper, in
        every mode and order: it is not the derivative of the value. For `boxes` and
        `targets`; 0 for equal boxes. Where two edges coincide, half of the slope on
        either side. At a width of exactly 0, the slope towards a positive width.

    Numerics:
        As in `generalized_box_iou_loss`. The slope of the arctangent keeps its
        denominator $w^2 + h^2$, which the authors' code replaces by 1.

    Example:
        >>> import jaxloss as jl
        >>> boxes, targets = [[0.0, 0.0, 2.0, 2.0]], [[0.0, 0.0, 4.0, 1.0]]
        >>> print(f"{jl.complete_box_iou_loss(boxes, targets)[0]:.4f}")
        0.7470

    References:
        Zhaohui Zheng et al., "Distance-IoU Loss: Faster and Better Learning for
        Bounding Box Regression", AAAI 2020,
        https://arxiv.org/abs/1911.08287, equations 8 to 12
    """
    x, y, tail = arguments(boxes, targets, format, where, weights, reduction)
    shape, overlap = shapes(x, y), missed(x, y, with_empty=False)
    angle, has_ratio = _angle(shape.sides)
    target_angle, target_has_ratio = _angle(shape.other_sides)
    turn = (2 / math.pi) * (target_angle - angle)
    v = jnp.where(has_ratio & target_has_ratio, turn * turn, 0)
    alpha = stop_gradient(share(v, overlap))
    loss = overlap + shape.distance + alpha * v
    return tail.reduce(_unless_same(x, y, loss))


def _unless_same(x: Lengths, y: Lengths, loss):
    return jnp.where(x.same & y.same, 0, loss)


def _angle(sides):
    """arctan(width / height), and whether the box has either.

    The angle does not depend on the unit of the sides, so its gradient is stopped. In
    the unit of the longer side, width² + height² in its slope is in [1, 2].
    """
    longer = stop_gradient(jnp.maximum(*sides))
    exists = longer > 0
    unit = jnp.where(exists, longer, 1)
    width, height = sides[0] / unit, sides[1] / unit
    return jnp.arctan2(width, jnp.where(exists, height, 1)), exists
