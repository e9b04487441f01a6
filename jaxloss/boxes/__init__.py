"""Losses of axis-parallel boxes, by how far a box and its target overlap."""

from __future__ import annotations
