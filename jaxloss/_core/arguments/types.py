"""What the annotations of public functions name."""

from typing import Any

import jax.typing

# Nested lists of numbers are arrays too, here as in `jax.numpy.asarray`.
ArrayLike = jax.typing.ArrayLike | list[Any] | tuple[Any, ...]
