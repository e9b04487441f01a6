"""Regression losses, elementwise in e = predictions - targets."""
