"""Multiclass losses of logits, scores or log-probabilities with a class axis."""

from __future__ import annotations
