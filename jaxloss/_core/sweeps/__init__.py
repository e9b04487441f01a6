"""Engines that make large arrays piece by piece and drop each piece after its use.

`rows` runs a rule over chunks of rows of logits, `layout` says which row belongs to
which chunk. What a loss makes of one chunk lives in its family.
"""
