"""Pool of earlier latent codes for the latent discriminator, one per device.

The discriminator sees a history of codes rather than the newest encoder's alone, as in Shrivastava
et al. 2017 (arXiv 1612.07828); the rules match `LatentCodesPool` of omertov/encoder4editing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class WPool(NamedTuple):
    """State of a pool, a pytree of fixed shapes.

    Attributes:
      entries: stored codes, [N, ...]; those from `count` on are not filled yet.
      count: int32 scalar, how many are filled.
    """

    entries: jax.Array
    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of that name


def init_w_pool(size: int, entry_shape: tuple[int, ...]) -> WPool:
    """An empty pool for `size` codes of shape `entry_shape`; size 0 switches pooling off."""
    return WPool(jnp.zeros((size, *entry_shape), jnp.float32), jnp.zeros((), jnp.int32))


def deal_w_pools(saved: dict[str, np.ndarray], devices: int) -> dict[str, np.ndarray]:
    """The pools of some devices as those of another number of devices.

    Codes go round, one to each device, so that none has more than another by two. Where the new
    pools hold fewer in all, every old one gives its first.

    Args:
      saved: "entries" [devices then, N, ...] and "count" [devices then].
      devices: their number now.

    Returns:
      The same for the devices now.
    """
    entries, counts = saved["entries"], saved["count"]
    size = entries.shape[1]
    codes = [
        entries[pool, i] for i in range(size) for pool in range(len(entries)) if i < counts[pool]
    ]
    new = np.zeros((devices, *entries.shape[1:]), entries.dtype)
    filled = np.zeros(devices, counts.dtype)
    for i, code in enumerate(codes[: devices * size]):
        new[i % devices, i // devices] = code
        filled[i % devices] += 1
    return {"entries": new, "count": filled}


def query_w_pool(pool: WPool, codes: jax.Array, key: jax.Array) -> tuple[WPool, jax.Array]:
    """Passes codes through the pool, one after the other.

    Until the pool is full every code is stored and returned as it is. From then on each code
    either comes back unchanged, or (with probability one half) takes the place of a random entry,
    which is returned instead.

    Args:
      pool: the pool.
      codes: [B, ...], any B; entries stored earlier in the batch can come back later in it.
      key: the key of all random choices; of its own for every step, device and pool.

    Returns:
      The new pool and the codes for the discriminator [B, ...].
    """
    size = pool.entries.shape[0]
    if size == 0:
        return pool, codes

    batch = codes.shape[0]
    # One draw for all: a processor's compiler takes a second for each, and `randint` is three.
    coins, places = jax.random.uniform(key, (2, batch))
    swaps = coins < 0.5
    random_indices = (places * size).astype(jnp.int32)

    def query(pool, inputs):
        code, swap, random_index = inputs
        full = pool.count >= size
        index = jnp.where(full, random_index, pool.count)
        stored = pool.entries[index]
        entries = pool.entries.at[index].set(jnp.where(full & ~swap, stored, code))
        count = jnp.minimum(pool.count + 1, size)
        return WPool(entries, count), jnp.where(full & swap, stored, code)

    return jax.lax.scan(query, pool, (codes, swaps, random_indices))


def pick_layer(codes: jax.Array, stage: jax.Array | int, keys: jax.Array) -> jax.Array:
    """One random active layer of each example: what a fake w_plus contributes to its pool.

    Without a pool the published training shows the discriminator `codes[:, 0]` instead.

    Args:
      codes: w_plus [B, L, D].
      stage: progressive stage, 0 to L − 1, possibly traced; layers 0 to `stage` are active.
      keys: one key per example [B].

    Returns:
      [B, D].
    """

    def pick(code, key):
        return code[(jax.random.uniform(key) * (stage + 1)).astype(jnp.int32)]

    return jax.vmap(pick)(codes, keys)
