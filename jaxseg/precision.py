"""Where numbers are delicate, arithmetic is at least float32 whatever the compute dtype is."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array


def at_least_float32(x: Array) -> Array:
    """bfloat16, float16 and integers to float32; float32 and float64 (used by tests) as they are."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))
