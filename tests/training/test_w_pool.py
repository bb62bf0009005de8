import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.training.w_pool import deal_w_pools, init_w_pool, pick_layer, query_w_pool


def numbered_codes(first, batch):
    """Codes [batch, 2] that can be told apart."""
    ids = np.arange(first, first + batch, dtype=np.float32)
    return jnp.stack([jnp.asarray(ids), -jnp.asarray(ids)], axis=1)


def test_pool_follows_the_sequential_rules():
    size, batch, rounds = 10, 7, 60
    query = jax.jit(query_w_pool)
    pool = init_w_pool(size, (2,))
    expected = []  # the ids that a plain list would hold
    swapped_slots, queries_when_full = [], 0
    for i in range(rounds):
        codes = numbered_codes(1 + i * batch, batch)
        pool, returned = query(pool, codes, jax.random.fold_in(jax.random.key(0), i))
        for code, back in zip(np.asarray(codes), np.asarray(returned), strict=True):
            if len(expected) < size:
                assert np.array_equal(back, code)
                expected.append(code[0])
                continue
            queries_when_full += 1
            if not np.array_equal(back, code):
                slot = expected.index(back[0])  # what comes back was in the pool
                expected[slot] = code[0]
                swapped_slots.append(slot)
        assert int(pool.count) == len(expected)
        np.testing.assert_array_equal(pool.entries[: len(expected), 0], expected)

    # Half of the queries swap, and every entry is chosen alike: four standard deviations.
    n = queries_when_full
    assert abs(len(swapped_slots) - n / 2) < 4 * np.sqrt(n / 4)
    counts = np.bincount(swapped_slots, minlength=size)
    mean = len(swapped_slots) / size
    assert np.all(np.abs(counts - mean) < 4 * np.sqrt(mean))


def test_size_zero_returns_the_codes():
    codes = numbered_codes(1, 5)
    pool, returned = query_w_pool(init_w_pool(0, (2,)), codes, jax.random.key(0))
    assert pool.entries.shape == (0, 2)
    np.testing.assert_array_equal(returned, codes)


def test_pick_layer_takes_active_layers_alike():
    batch, layers, stage = 3000, 6, 2
    codes = jnp.arange(batch)[:, None, None] * 10.0 + jnp.arange(layers)[None, :, None]
    keys = jax.random.split(jax.random.key(1), batch)
    pick = jax.jit(pick_layer)
    picked = pick(codes, stage, keys)
    assert picked.shape == (batch, 1)
    layer = np.asarray(picked[:, 0]) - 10.0 * np.arange(batch)
    counts = np.bincount(layer.astype(int), minlength=layers)
    assert np.all(counts[stage + 1 :] == 0)
    assert np.all(np.abs(counts[: stage + 1] - batch / 3) < 4 * np.sqrt(batch / 3))
    np.testing.assert_array_equal(pick(codes, 0, keys), codes[:, 0])


def test_pools_are_dealt_to_any_number_of_devices():
    size = 4
    for counts, devices in [([4], 2), ([4, 4], 1), ([3, 1, 4], 2), ([4, 2], 5), ([0], 3), ([4], 1)]:
        entries = np.zeros((len(counts), size, 2), np.float32)
        for pool, count in enumerate(counts):
            entries[pool, :count] = 1 + 10 * pool + np.arange(count)[:, None]
        saved = {"entries": entries, "count": np.array(counts, np.int32)}
        dealt = deal_w_pools(saved, devices)
        assert dealt["entries"].shape == (devices, size, 2)
        assert dealt["entries"].dtype == np.float32 and dealt["count"].dtype == np.int32
        assert dealt["count"].sum() == min(sum(counts), devices * size)
        assert dealt["count"].max() - dealt["count"].min() <= 1
        codes = [dealt["entries"][i, :n, 0] for i, n in enumerate(dealt["count"])]
        codes = np.concatenate(codes)
        assert len(set(codes)) == len(codes) and set(codes) <= set(entries[..., 0].ravel()) - {0}
        if len(counts) == devices:
            np.testing.assert_array_equal(dealt["entries"], entries)
        for i, n in enumerate(dealt["count"]):
            assert not dealt["entries"][i, n:].any()
    none = deal_w_pools({"entries": np.zeros((2, 0, 3)), "count": np.zeros(2, np.int32)}, 3)
    assert none["entries"].shape == (3, 0, 3) and not none["count"].any()
