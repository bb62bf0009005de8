import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e4e_jax.training.augment import diff_augment

augment = jax.jit(diff_augment, static_argnames="policy")


def random_images(batch=64, height=16, width=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def keys(batch, seed=0):
    return jax.random.split(jax.random.key(seed), batch)


def test_same_keys_same_result_for_each_image_by_itself():
    images = random_images(8)
    out = augment(images, keys(8))
    assert out.shape == images.shape and np.all(np.isfinite(out))
    np.testing.assert_array_equal(augment(images, keys(8)), out)
    np.testing.assert_allclose(augment(images[::-1], keys(8)[::-1]), out[::-1], atol=1e-6)
    assert not np.allclose(augment(images, keys(8, seed=1)), out)


def test_no_policy_changes_nothing():
    images = random_images(2)
    np.testing.assert_array_equal(diff_augment(images, keys(2), policy=()), images)


def test_color_draws_three_factors_in_their_ranges():
    images = random_images(256)
    out = np.asarray(augment(images, keys(256), policy=("color",)), np.float64)
    images = images.astype(np.float64)
    # Differences between channels are scaled by saturation·contrast, those of the channel mean
    # by contrast alone, and the image's mean is only shifted.
    grey, grey_out = images.mean(-1), out.mean(-1)
    centred = grey - grey.mean((1, 2), keepdims=True)
    centred_out = grey_out - grey_out.mean((1, 2), keepdims=True)
    contrast = (centred * centred_out).sum((1, 2)) / (centred**2).sum((1, 2))
    chroma, chroma_out = images - grey[..., None], out - grey_out[..., None]
    both = (chroma * chroma_out).sum((1, 2, 3)) / (chroma**2).sum((1, 2, 3))
    shift = out.mean((1, 2, 3)) - images.mean((1, 2, 3))
    for values, low, high in [(contrast, 0.5, 1.5), (both / contrast, 0, 2), (shift, -0.5, 0.5)]:
        assert low - 1e-5 <= values.min() < low + 0.05 * (high - low)
        assert high + 1e-5 >= values.max() > high - 0.05 * (high - low)

    spread = (slice(None), None, None)
    expected = images + shift[spread][..., None]
    grey = expected.mean(-1, keepdims=True)
    expected = grey + (expected - grey) * (both / contrast)[spread][..., None]
    mean = expected.mean((1, 2, 3), keepdims=True)
    expected = mean + (expected - mean) * contrast[spread][..., None]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_translation_shifts_by_up_to_an_eighth_and_fills_with_zeros():
    images = random_images(256)
    _, height, width, _ = images.shape
    out = np.asarray(augment(images, keys(256), policy=("translation",)))
    candidates = {}
    padded = np.pad(images, ((0, 0), (2, 2), (3, 3), (0, 0)))
    for y in range(5):
        for x in range(7):
            candidates[y, x] = padded[:, y : y + height, x : x + width]
    seen = set()
    for i in range(len(images)):
        (shift,) = [s for s, c in candidates.items() if np.array_equal(out[i], c[i])]
        seen.add(shift)
    assert len(seen) == 35  # all shifts of ±2 rows and ±3 columns


def test_cutout_removes_half_of_each_side_around_a_point_of_the_image():
    images = np.ones((512, 16, 10, 3), np.float32)
    out = np.asarray(augment(images, keys(512), policy=("cutout",)))
    assert set(np.unique(out)) == {0.0, 1.0}
    seen = {0: set(), 1: set()}
    for hole in (out == 0).any(-1):
        for axis in (0, 1):
            line = np.flatnonzero(hole.any(axis=1 - axis))
            seen[axis].add((line[0], line[-1] + 1))
        rows, columns = hole.any(1), hole.any(0)
        assert np.array_equal(hole, np.outer(rows, columns))
    for axis, size in enumerate((16, 10)):
        length = size // 2
        middles = range(size + 1 - length % 2)
        expected = {(max(m - length // 2, 0), min(m - length // 2 + length, size)) for m in middles}
        assert seen[axis] == expected


def test_gradient_is_that_of_a_linear_map():
    # For fixed keys every augmentation is affine in the image: out(x + d) = out(x) + J·d.
    images, direction = random_images(4, seed=1), random_images(4, seed=2)
    difference = augment(images + direction, keys(4)) - augment(images, keys(4))
    weights = random_images(4, seed=3)
    gradient = jax.grad(lambda x: jnp.sum(weights * augment(x, keys(4))))(images)
    expected = float(np.sum(weights * difference))
    assert float(np.sum(gradient * direction)) == pytest.approx(expected, rel=1e-4)
    assert np.any(gradient)


def test_unknown_name():
    with pytest.raises(ValueError, match="'colour' in the policy; known are color, translation"):
        diff_augment(random_images(1), keys(1), policy=("colour",))
