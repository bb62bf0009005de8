"""Arrays through a compiled function, in batches of one fixed shape."""

from collections.abc import Callable

import jax
import numpy as np


def in_batches(function: Callable, arrays: tuple[np.ndarray, ...], batch_size: int):
    """Applies a compiled function to arrays [N, ...], N at least 1, in batches of one fixed shape.

    The last batch is padded with copies of the last example, whose results are dropped.

    Returns:
      The function's outputs, an array or a tree of arrays, as NumPy arrays [N, ...].
    """
    count = len(arrays[0])
    outputs = []
    for start in range(0, count, batch_size):
        parts = [array[start : start + batch_size] for array in arrays]
        size = len(parts[0])
        padded = [
            np.concatenate([part, np.repeat(part[-1:], batch_size - size, axis=0)])
            for part in parts
        ]
        result = jax.device_get(function(*padded))
        outputs.append(jax.tree.map(lambda x, n=size: x[:n], result))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
