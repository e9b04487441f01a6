"""Sequence losses: labels in a known order, at unknown frames."""

from __future__ import annotations
