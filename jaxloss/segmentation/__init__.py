"""Segmentation losses: the overlap of predicted and true regions, class by class."""

from __future__ import annotations
