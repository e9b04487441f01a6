"""Exact scalar pieces that more than one family uses, each with its accuracy.

Nothing here knows of masks, weights, class labels or devices. A piece of one family's
mathematics lives in that family.
"""
