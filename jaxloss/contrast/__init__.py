"""Contrastive losses of large batches: every example against every other."""
