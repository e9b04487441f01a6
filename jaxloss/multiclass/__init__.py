"""Multiclass losses: a class axis of logits, scores or log-probabilities."""

from __future__ import annotations
