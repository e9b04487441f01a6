"""Binary losses: one logit, score, probability or distance per example."""

from __future__ import annotations
