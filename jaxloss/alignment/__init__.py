"""Losses on log-probabilities of answers and tokens, and on the routers of experts."""

from __future__ import annotations
