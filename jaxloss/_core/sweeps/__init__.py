"""Engines that make large arrays piece by piece and drop each piece after its use.

`rows` runs a rule over chunks of rows of logits, and `layout` says which row belongs to
which chunk. `pairs` compares every query with every key, on one device or on a ring of
devices, by the blocks of `blocks`. What a loss makes of one chunk lives in its family.
"""
