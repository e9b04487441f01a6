"""Engines that make large arrays piece by piece and drop each piece after its use.

`linear` applies a rule to the outputs of a linear layer, through `rows`, chunks of
rows, or `classes`, blocks of classes; `operands` has their arrays, options and
products, `layout` says which row belongs to which chunk. Of a loss of such a layer,
`arguments` checks and masks what the user passes, `logits` makes logits of the outputs,
and `reduction` weighs and reduces within the sweep. `pairs` compares every query
with every key, on one device or on a ring of devices, by the blocks of `blocks`. What a
loss makes of one piece lives in its family.
"""
