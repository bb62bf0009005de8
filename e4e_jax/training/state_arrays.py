"""A training state as named arrays that a file can hold, and back.

Three things stand between the two: names for the leaves of any pytree, typed PRNG keys (a file
holds their words), and arrays without elements (Orbax does not write them).
"""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_DESCRIBED = r"([^ ]+) (\[[\d, ]*\])"  # by `describe`


def named_leaves(tree: Any) -> tuple[dict[str, Any], Any]:
    """A pytree of arrays -> ({name: leaf}, structure); names like "encoder/heads/0/weight/value".

    Raises:
      ValueError: a leaf is not an array.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {}
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "dtype"):
            raise ValueError(f"{name} of the state is {leaf!r}; expected an array.")
        leaves[name] = leaf
    return leaves, treedef


def describe(leaf: Any) -> str:
    """Type and shape, such as "float32 [3, 512]"."""
    return f"{leaf.dtype} {list(leaf.shape)}"


def compare(where: str, saved: Any, expected: Any) -> None:
    """Holds the arrays of a file against those of a run, both {name: description}.

    Raises:
      ValueError: they are not the same; the sentence names the first that differs.
    """
    for name in sorted({*saved, *expected}):
        there, here = saved.get(name, "missing"), expected.get(name, "missing")
        if there != here:
            raise ValueError(
                f"The checkpoint {where} is of another configuration: {name} is {there} in it and "
                f"{here} in this run; choose another work directory."
            )


def of_other_devices(saved: Any, expected: Any, parts: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape in the file} of arrays of the devices' own, saved on another number of them.

    Such arrays differ in their first axis alone.

    Args:
      saved, expected: as those of `compare`.
      parts: the names of those arrays begin with these.
    """
    shapes = {}
    for name in sorted({*saved} & {*expected}):
        if name.split("/")[0] not in parts or saved[name] == expected[name]:
            continue
        there, here = (re.fullmatch(_DESCRIBED, text[name]) for text in (saved, expected))
        if there and here and there[1] == here[1]:
            there, here = (json.loads(found[2]) for found in (there, here))
            if there and here and there[0] > 0 and there[1:] == here[1:]:
                shapes[name] = tuple(there)
    return shapes if len({shape[0] for shape in shapes.values()}) == 1 else {}


def first_not_finite(state: Any) -> str | None:
    """The name of an array of a state that holds NaN or infinity, None if there is none."""
    leaves, _ = named_leaves(state)
    floats = {k: x for k, x in leaves.items() if jnp.issubdtype(x.dtype, jnp.floating) and x.size}
    if not floats:
        return None
    finite = np.asarray(_all_finite(list(floats.values())))
    return next((name for name, good in zip(floats, finite, strict=True) if not good), None)


@jax.jit
def _all_finite(arrays):
    """Arrays -> bool [arrays]; global ones give the same on all hosts."""
    return jnp.stack([jnp.isfinite(x).all() for x in arrays])


def raw_array(leaf: Any) -> Any:
    """What a file holds for a leaf."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def abstract_array(leaf: Any) -> Any:
    """Shape, type and sharding of `raw_array(leaf)`, of which only the same of `leaf` is read."""
    raw = jax.eval_shape(raw_array, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=_sharding(leaf))


def like(template: Any, array: Any) -> Any:
    """The reverse of `raw_array`: type, sharding and freedom to move are the template's."""
    if array is None:
        array = np.empty(template.shape, template.dtype)
    if isinstance(array, np.ndarray):  # the whole of it
        whole = array
        return jax.make_array_from_callback(
            template.shape, _sharding(template), lambda index: whole[index]
        )
    if isinstance(template, jax.Array) and not template.committed:
        array = jnp.asarray(np.asarray(array))
    if _is_key(template):
        impl = jax.random.key_impl(jnp.empty((), template.dtype))
        return jax.random.wrap_key_data(array, impl=impl)
    return array


def _is_key(leaf):
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _sharding(leaf):
    # That of keys serves their words as well: a last axis that it does not name is not split.
    sharding = getattr(leaf, "sharding", None)
    return sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
