"""What the families of losses share. Users import none of it.

- `rule`: one analytic gradient becomes a function that both modes differentiate. All of
  JAX's inside that jaxloss touches is in this room.
- `arguments`: from what a user passes to checked arrays, masks and the reduction.
- `numerics`: exact scalar pieces that more than one family uses.
- `softmax`: sums of exponentials over a class axis, and the slopes of their logarithm.
- `log_sum_exp`: their logarithm with all its digits.
- `soft_labels`: the cross entropy with a label per class, from the same sums.
- `sweeps`: losses in chunks of rows or blocks of classes, of which no full array of
  logits exists.
- `devices`: arrays spread over a mesh.
- `compilers`: forms of an expression that exist for a compiler's sake.

A family imports from here, and this package from JAX and NumPy only.
"""
