"""Regression losses: one loss per prediction and target."""

from __future__ import annotations
