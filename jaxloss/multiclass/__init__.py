"""Multiclass losses: a class axis of logits, scores or log-probabilities."""
