"""Probabilistic forecasts: ensembles, counts, heavy tails and times to an event."""
