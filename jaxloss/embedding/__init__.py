"""Losses on embeddings: angles, margins between distances, pairs within a batch."""
