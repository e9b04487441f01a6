"""Forms of an expression that exist for a compiler's sake, and nothing else.

Each function is the same mathematics as a shorter form, which it names, and is right
whatever the compiler does. Its docstring says which backend needs it, what that backend
would do with the shorter form, and which test notices when it stops to matter. Where
backends disagree, the choice by `jax.lax.platform_dependent` stands here too. Only what
the mathematics of a loss does not need may be here.

Unless a docstring says otherwise: XLA for CPU, JAX 0.10 to 0.12, where
tests/test_compilers.py compiles a loss with each function and with its shorter form,
and compares the temporaries. Forms for TPU and GPU: tests/test_accelerators.py.

- `order`: what XLA computes before, beside or once more.
- `terms`: products, exponentials and complements that XLA stores or rounds otherwise.
- `places`: numbers that are read from a place, or moved to it.
- `pieces`: a few rows at a time, so that what XLA for CPU stores stays in the cache.
"""
