"""A training state as named arrays that a file can hold, and back.

Three things stand between the two: names for the leaves of any pytree, typed PRNG keys (a file
holds their words), and arrays without elements (Orbax does not write them).
"""

import jax
import jax.numpy as jnp
import numpy as np


def named_leaves(tree):
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


def describe(leaf):
    """Type and shape, such as "float32 [3, 512]"."""
    return f"{leaf.dtype} {list(leaf.shape)}"


def compare(where, saved, expected):
    """Holds the arrays of a file against those of a run, both {name: description}.

    Raises:
      ValueError: they are not the same; the sentence names the first that differs.
    """
    for name in sorted({*saved, *expected}):
        there, here = saved.get(name, "missing"), expected.get(name, "missing")
        if there != here:
            raise ValueError(
                f"The checkpoint {where} is of another configuration or number of devices: "
                f"{name} is {there} in it and {here} in this run; choose another work directory."
            )


def raw_array(leaf):
    """What a file holds for a leaf."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def abstract_array(leaf):
    """Shape, type and sharding of `raw_array(leaf)`, of which only the same of `leaf` is read."""
    raw = jax.eval_shape(raw_array, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=_sharding(leaf))


def like(template, array):
    """The reverse of `raw_array`: type, sharding and freedom to move are the template's."""
    if array is None:
        empty = np.empty(template.shape, template.dtype)
        return jax.make_array_from_callback(
            template.shape, _sharding(template), lambda index: empty[index]
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
