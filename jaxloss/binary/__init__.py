"""Binary losses, elementwise: one logit, score, probability or distance an example."""

from __future__ import annotations
