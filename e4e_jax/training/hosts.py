"""What the processes of several hosts have to agree on; each call is a collective.

All processes make the same calls in the same order. With one process they cost nothing.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def on_any_host(flag: bool) -> bool:
    """Whether the flag is true on one host at least; the same answer on all."""
    return bool(np.any(_gather(np.array(flag))))


def gather_json(value: Any) -> list:
    """The JSON-serialisable values of all hosts, in the order of their indices."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _gather(np.array(len(text)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = text
    rows = _gather(padded)
    return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]


def wait_for_hosts(name: str) -> None:
    """Returns when all hosts have come to the call of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _gather(array):
    """[...] -> [hosts, ...]"""
    if jax.process_count() == 1:
        return array[None]
    return np.asarray(multihost_utils.process_allgather(array))
