"""Distillation: a student's logits towards those of a teacher."""

from __future__ import annotations
