"""Arrays through a compiled function, in batches of one fixed shape."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def in_batches(function: Callable, arrays: tuple[Any, ...], batch_size: int) -> Any:
    """Applies a compiled function to arrays [N, ...], N at least 1, in batches of one fixed shape.

    Each of `arrays` is one or a tree of them.

    The last batch is padded with copies of the last example, whose results are dropped.

    Returns:
      The function's outputs, an array or a tree of arrays, as NumPy arrays [N, ...].
    """
    count = len(jax.tree.leaves(arrays)[0])
    outputs = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        result = jax.device_get(function(*jax.tree.map(lambda x, i=rows: np.asarray(x)[i], arrays)))
        outputs.append(jax.tree.map(lambda x, n=size: x[:n], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
