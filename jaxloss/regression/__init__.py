"""Regression losses, elementwise in e = predictions - targets."""

from __future__ import annotations
