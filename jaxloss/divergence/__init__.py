"""Divergences: how far one distribution over a class axis is from another."""

from __future__ import annotations
