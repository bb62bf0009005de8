"""A folder of results that need not be computed twice, each under a hash of what it depends on."""

import functools
import hashlib
import json
import logging
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np
from flax import nnx

import e4e_jax
from e4e_jax.data.registry import Source
from e4e_jax.runtime.files import read_arrays, write_arrays


class Cache:
    """Named arrays by key; a key is anything that JSON can hold.

    Every key is joined by the package's source, JAX's version and the kind of device, so that no
    other code's or machine's numbers come back. A damaged file counts as none. Of several hosts
    the first one reads and writes.

    Args:
      folder: where; made when first written to. None keeps nothing.
    """

    def __init__(self, folder: str | os.PathLike | None):
        self._folder = None if folder is None else pathlib.Path(folder)

    def get(self, key: Any) -> dict[str, np.ndarray] | None:
        """What `put` was given under this key; None if there is nothing."""
        if self._folder is None or jax.process_index() != 0:
            return None
        text = _complete(key)
        try:
            arrays = read_arrays(self._path(text), "results")
        except (OSError, ValueError):
            return None
        return arrays if str(arrays.pop("key", "")) == text else None

    def put(self, key: Any, arrays: dict[str, np.ndarray]) -> None:
        """Keeps arrays, whole or not at all; a disk that takes none is only warned of."""
        if self._folder is None or jax.process_index() != 0:
            return
        text = _complete(key)
        path = self._path(text)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_arrays(path, {"key": np.array(text), **arrays})
        except OSError as error:
            logging.warning("A result was not written: %s", error)

    def _path(self, text) -> pathlib.Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"


def default_folder() -> str:
    """$XDG_CACHE_HOME/e4e_jax, or ~/.cache/e4e_jax."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(os.path.expanduser(base), "e4e_jax")


def identify_images(source: Source) -> Any:
    """What a source's images depend on, for a key; None where that cannot be told.

    Of files these are each one's path, size and times of change, that of its inode included, which
    `touch` and `cp -p` cannot set. A source that is a frozen dataclass of plain values, such as the
    drawn faces, is its own description.
    """
    if hasattr(source, "paths"):
        listing = hashlib.sha256()
        for path in source.paths:
            status = os.stat(path)
            times = status.st_mtime_ns, status.st_ctime_ns
            entry = (os.path.realpath(path), status.st_size, *times, status.st_ino)
            listing.update(json.dumps(entry).encode())
        return {"files": listing.hexdigest()}
    parameters = getattr(type(source), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or " at 0x" in repr(source):
        return None
    return [type(source).__module__, repr(source)]


def identify_network(network: nnx.Module) -> str:
    """SHA-256 of all that a network is: its modules, their settings and all its numbers."""
    graph, state = nnx.split(network)
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(graph)).encode())
    for path, x in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(state)):
        array = np.ascontiguousarray(x)
        name = jax.tree_util.keystr(path)
        total.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        total.update(array.view(np.uint8).data)
    return total.hexdigest()


def _complete(key) -> str:
    return json.dumps([key, _surroundings()], sort_keys=True)


@functools.cache
def _surroundings():
    package = pathlib.Path(e4e_jax.__file__).parent
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source.update(path.read_bytes())
    return [source.hexdigest(), jax.__version__, jax.local_devices()[0].device_kind]
