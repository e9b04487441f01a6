"""Rules of differentiation, and everything that touches JAX's inside.

Primitives, their rules for `jvp`, `vmap`, transposition and lowering, the table of
checkify and the types of `shard_map` are used in this room and nowhere else, each with
the reason and with what lets it go. No mathematics of a loss belongs here.
"""
