"""The losses of boxes and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

# Boxes that overlap, that contain one another, that are apart along one axis and along
# both, and an inverted one.
BOXES = np.array(
    [
        [0.1, 0.2, 2.3, 1.7],
        [-1.2, -0.9, 3.1, 2.4],
        [0.4, 0.3, 0.9, 1.1],
        [-2.0, 0.5, -0.7, 1.9],
        [3.2, 4.1, 5.0, 4.9],
        [1.6, 0.4, 0.7, 2.2],
    ]
)
TARGETS = np.array(
    [
        [0.8, -0.5, 3.0, 1.2],
        [0.3, 0.1, 1.4, 1.9],
        [-0.6, -0.2, 2.1, 1.8],
        [0.2, 0.1, 1.5, 2.6],
        [0.6, 0.7, 1.9, 2.9],
        [0.2, -0.3, 2.4, 1.5],
    ]
)
# The same as centers and sides.
CENTERS, TARGET_CENTERS = (
    np.concatenate([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], axis=1)
    for x in (BOXES, TARGETS)
)
# Of the aspect ratios of their targets, so that the factor of the complete loss, which
# is constant in every derivative, is 0, and so is its own derivative. Other ratios
# stand in tests/test_boxes.py.
ALIKE = np.array(
    [
        [0.8, -0.5, 2.2, 1.7],
        [0.3, 0.1, 1.1, 1.8],
        [-0.6, -0.2, 2.7, 2.0],
        [-1.4, 0.1, 1.3, 2.5],
        [3.6, 4.7, 0.6, 1.1],
        [0.7, -0.6, 1.1, 0.9],
    ]
)
TARGET_ALIKE = np.array(
    [
        [0.2, 0.1, 1.76, 1.36],
        [0.7, 0.4, 2.2, 3.6],
        [-0.1, 0.7, 0.81, 0.6],
        [0.2, -0.3, 1.56, 3.0],
        [0.6, 0.7, 1.2, 2.2],
        [-0.9, 0.2, 2.75, 2.25],
    ]
)


ALIKE, TARGET_ALIKE = (
    np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], axis=1)
    for x in (ALIKE, TARGET_ALIKE)
)


def corners(box, format):
    a, b, c, d = box
    if format == "xywh":
        return a, b, a + c, b + d
    if format == "cxcywh":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, c, d


def side(low, high):
    return max(high - low, 0.0)


def measures(box, target):
    """Of one pair: IoU, the hull's empty share, and the squared distance of centers."""
    x1, y1, x2, y2 = box
    u1, v1, u2, v2 = target
    area = side(x1, x2) * side(y1, y2)
    target_area = side(u1, u2) * side(v1, v2)
    common = side(max(x1, u1), min(x2, u2)) * side(max(y1, v1), min(y2, v2))
    union = area + target_area - common
    width = max(x1, x2, u1, u2) - min(x1, x2, u1, u2)
    height = max(y1, y2, v1, v2) - min(y1, y2, v1, v2)
    hull = width * height
    apart = (x1 + x2 - u1 - u2) ** 2 / 4 + (y1 + y2 - v1 - v2) ** 2 / 4
    return (
        common / union if union else 0.0,
        (hull - union) / hull if hull else 0.0,
        apart / (width**2 + height**2),
    )


def generalized(box, target):
    iou, empty, _ = measures(box, target)
    return 1 - iou + empty


def distance(box, target):
    iou, _, apart = measures(box, target)
    return 1 - iou + apart


def shape_term(box, target, alpha=None):
    """α v of one pair; `alpha` is the factor, if it is given."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, target
    own, other = (side(x1, x2), side(y1, y2)), (side(u1, u2), side(v1, v2))
    if not any(own) or not any(other):
        return 0.0
    turn = math.atan2(*other) - math.atan2(*own)
    v = 4 / math.pi**2 * turn**2
    if alpha is None:
        alpha = v / (1 - measures(box, target)[0] + v) if v else 0.0
    return alpha * v


def complete(box, target):
    return distance(box, target) + shape_term(box, target)


def each_pair(measure):
    def reference(boxes, targets, format="xyxy"):
        losses = np.zeros(boxes.shape[:-1])
        for i in np.ndindex(losses.shape):
            box, target = corners(boxes[i], format), corners(targets[i], format)
            losses[i] = 0.0 if box == target else measure(box, target)
        return losses

    return reference


CORE = {"boxes": 1, "targets": 1}
CASES = [
    *(
        Case(
            loss, each_pair(measure), {"boxes": boxes, "targets": targets},
            options={"format": form}, variant=form, core=CORE,
        )
        for loss, measure in (
            (jl.generalized_box_iou_loss, generalized),
            (jl.distance_box_iou_loss, distance),
        )
        for form, boxes, targets in (
            ("xyxy", BOXES, TARGETS), ("cxcywh", CENTERS, TARGET_CENTERS),
        )
    ),
    Case(
        jl.complete_box_iou_loss, each_pair(complete),
        {"boxes": ALIKE, "targets": TARGET_ALIKE}, core=CORE,
    ),
]  # fmt: skip
