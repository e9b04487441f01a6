"""Losses on embeddings: angles, margins between distances, pairs within a batch."""

from __future__ import annotations
