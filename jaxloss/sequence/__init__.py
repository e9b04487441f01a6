"""Sequence losses: labels in order, without their alignment to the frames."""

from __future__ import annotations
