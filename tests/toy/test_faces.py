import pickle

import numpy as np
import pytest

from e4e_jax.toy.faces import FACTORS, ToyFaces, render, sample_factors

# yaw, smile, age, skin, hair, length, glasses, eyes, background, width, shirt
PLAIN = np.array([0, 0.3, 0.3, 0.3, 0.4, 0.5, 0, 0.7, 0.2, 0.5, 0.3], np.float32)

# Where a factor may change the picture of a frontal face: top, bottom, left, right in [-1, 1].
REGIONS = {
    "yaw": (-0.85, 1.00, -0.70, 0.70),
    "smile": (0.15, 0.60, -0.35, 0.35),
    "age": (-0.85, 0.85, -0.70, 0.70),  # greys the hair too
    "skin": (-0.70, 0.95, -0.70, 0.70),
    "hair": (-0.85, 0.85, -0.70, 0.70),
    "length": (-0.50, 1.00, -0.70, 0.70),
    "glasses": (-0.25, 0.20, -0.60, 0.60),
    "eyes": (-0.35, 0.15, -0.40, 0.40),
    "background": (-1.00, 1.00, -1.00, 1.00),
    "width": (-0.85, 0.85, -0.75, 0.75),
    "shirt": (0.60, 1.00, -0.80, 0.80),
}


def vary(name, values=(0, 1)):
    factors = np.tile(PLAIN, (len(values), 1))
    factors[:, FACTORS.index(name)] = values
    return factors


def change(name, values=(0, 1), resolution=64):
    """How much each pixel differs between two values of a factor, [R, R]."""
    first, second = render(vary(name, values), resolution).astype(int)
    return np.abs(first - second).max(-1)


def test_factors_depend_on_seed_and_index_only():
    block = sample_factors(range(200), seed=3)
    assert block.shape == (200, 11) and block.dtype == np.float32
    shuffled = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(sample_factors(shuffled, seed=3), block[shuffled])
    np.testing.assert_array_equal(sample_factors([5, 5, 6], seed=3), block[[5, 5, 6]])
    assert not np.isin(sample_factors(range(200), seed=4)[:, 0], block[:, 0]).any()
    assert sample_factors([]).shape == (0, 11)


def test_the_first_factors_stay_what_they_are():
    """Trained models and their held-out ranges rely on these numbers."""
    expected = [[-0.9769065, -0.5169016, 0.11142585], [-0.47195405, 0.22303711, 0.80108666]]
    np.testing.assert_allclose(sample_factors([0, 1_000_000])[:, :3], expected, atol=1e-6)


def test_factors_are_uniform_and_independent():
    factors = sample_factors(range(20_000))
    glasses = FACTORS.index("glasses")
    assert set(np.unique(factors[:, glasses])) == {0, 1}
    assert abs(factors[:, glasses].mean() - 0.35) < 0.02
    for name, column in zip(FACTORS, factors.T, strict=True):
        if name != "glasses":
            low = -1 if name in ("yaw", "smile") else 0
            quantiles = np.quantile(column, [0, 0.25, 0.5, 0.75, 1])
            np.testing.assert_allclose(quantiles, np.linspace(low, 1, 5), atol=0.03)
    correlation = np.corrcoef(factors.T) - np.eye(len(FACTORS))
    assert np.abs(correlation).max() < 0.04


def test_neighbouring_seeds_and_indices_share_no_numbers():
    rows = np.concatenate([sample_factors(range(500), seed) for seed in range(3)])
    rows = np.delete(rows, FACTORS.index("glasses"), axis=1)
    assert len(np.unique(rows[:, 2:])) > 0.999 * rows[:, 2:].size  # float32 leaves a few ties


@pytest.mark.parametrize("resolution", [32, 50, 64])
def test_images_have_the_promised_form(resolution):
    images = render(sample_factors(range(70)), resolution)
    assert images.shape == (70, resolution, resolution, 3) and images.dtype == np.uint8
    assert images.min() < 60 and images.max() > 230
    assert render(np.zeros((0, 11)), resolution).shape == (0, resolution, resolution, 3)


def test_an_image_does_not_depend_on_its_batch():
    factors = sample_factors(range(70))
    factors[::7, 0] = np.sign(factors[::7, 0])  # the extreme poses reach furthest
    together = render(factors)
    alone = np.concatenate([render(row[None]) for row in factors])
    np.testing.assert_array_equal(alone, together)
    order = np.random.default_rng(0).permutation(70)
    np.testing.assert_array_equal(render(factors[order]), together[order])


def test_resolutions_show_the_same_face():
    factors = sample_factors(range(32))
    small = render(factors, 64).astype(float)
    pooled = render(factors, 128).reshape(32, 64, 2, 64, 2, 3).mean((2, 4))
    difference = np.abs(small - pooled)
    assert difference.mean() < 1.5
    assert np.quantile(difference, 0.999) < 40  # curved thin lines are approximated per pixel


@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_changes_its_region_only(name):
    changed = change(name, (-1, 1) if name in ("yaw", "smile") else (0, 1))
    assert (changed > 20).sum() >= 30  # visible
    y, x = (np.arange(64) + 0.5)[:, None] / 32 - 1, (np.arange(64) + 0.5) / 32 - 1
    top, bottom, left, right = REGIONS[name]
    inside = (y > top) & (y < bottom) & (x > left) & (x < right)
    assert changed[~inside].max(initial=0) == 0


def test_the_background_stays_behind_the_head():
    changed = change("background")
    assert changed[12:46, 22:42].max() == 0
    assert changed[:4].min() > 5


@pytest.mark.parametrize("name", sorted(set(FACTORS) - {"glasses"}))
def test_every_step_of_a_factor_shows(name):
    low = {"yaw": -1, "smile": -1, "age": 0.2}.get(name, 0)
    images = render(vary(name, np.linspace(low, 1, 6))).astype(int)
    assert np.abs(np.diff(images, axis=0)).max((1, 2, 3)).min() > 10


def test_old_hair_keeps_its_colour():
    factors = np.tile(PLAIN, (2, 1))
    factors[:, FACTORS.index("age")] = 1
    factors[:, FACTORS.index("hair")] = 0, 1
    crown = render(factors)[:, 10:14, 28:36].astype(float).mean((1, 2))  # [2, 3]
    assert np.abs(crown[1] - crown[0]).min() > 60


@pytest.mark.parametrize(
    "factors, message",
    [
        (np.zeros(11), r"shape \[11\], expected \[N, 11\]"),
        (np.zeros((2, 10)), r"shape \[2, 10\], expected \[N, 11\]"),
        (vary("smile", (0, -1.5)), r"factors\[1\]: smile is -1.5, expected a value in \[-1, 1\]"),
        (vary("age", (-0.1,)), r"age is -0.1, expected a value in \[0, 1\]"),
        (vary("shirt", (np.nan,)), r"shirt is nan, expected"),
    ],
)
def test_wrong_factors_are_named(factors, message):
    with pytest.raises(ValueError, match=message):
        render(factors)


def test_negative_indices_are_refused():
    with pytest.raises(ValueError, match="index -2 is negative"):
        sample_factors([1, -2])


def test_source():
    source = ToyFaces(20, seed=1, resolution=32, start=100)
    assert len(source) == 20
    images, factors = source.batch([3, 19, 0])
    np.testing.assert_array_equal(factors, sample_factors([103, 119, 100], seed=1))
    np.testing.assert_array_equal(factors, source.factors([3, 19, 0]))
    np.testing.assert_array_equal(images, render(factors, 32))
    np.testing.assert_array_equal(source[np.int64(19)], images[1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[3], images[0])
    assert len(list(source)) == 20
    for index in (20, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside the 20 toy faces"):
            source[index]
