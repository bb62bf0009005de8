"""What a model was trained on, and which images look like something else."""

import numpy as np
import pytest

from e4e_jax.inversion.domain import Domain, errors_of, noted_errors

NOTES = {
    "trained_on": {"images": "built-in toy faces", "size": [48, 64], "count": 1000},
    "held_out": {"count": 3, "l2_mean": 0.005, "l2_largest": 0.03},
}


def test_what_differs_by_far_more_than_held_out_images_is_said_to_be_something_else():
    domain = Domain.of(NOTES)
    errors, average = np.array([0.004, 0.059, 0.061, 0.3]), np.full(4, np.inf)
    assert list(domain.is_left(errors, average)) == [False, False, True, True]
    sentence = domain.sentence(list("abcd"), errors, average)
    assert sentence == (
        "2 of 4 images (c, d) look like something else than what the model was trained on "
        "(built-in toy faces, 64x48): inversions 36 times as far off as those of held-out images."
    )
    assert domain.sentence(["a", "b"], errors[:2], average[:2]) is None
    one = domain.sentence(["d"], errors[3:], average[3:])
    assert one.startswith("d looks like something else") and "60 times" in one


def test_of_few_held_out_images_the_mean_counts():
    few = NOTES | {"held_out": {"count": 2, "l2_mean": 0.02, "l2_largest": 0.021}}
    assert Domain.of(few).most == pytest.approx(0.08)


def test_published_options_name_the_images_and_the_average_image_is_the_measure():
    domain = Domain.of({"options": {"dataset_type": "cars_encode"}})
    errors, average = np.array([0.1, 0.25]), np.array([0.3, 0.3])
    sentence = domain.sentence(["a", "b"], errors, average)
    assert sentence.startswith("b looks") and "(cars_encode)" in sentence
    assert "hardly nearer than the model's average image" in sentence


@pytest.mark.parametrize(
    "metadata",
    [None, [], "x", {}, {"trained_on": 3}, {"trained_on": {"images": 3}}, {"options": []},
     {"options": {"dataset_type": None}}],
)  # fmt: skip
def test_a_bundle_that_names_nothing_has_no_domain(metadata):
    assert Domain.of(metadata) is None


@pytest.mark.parametrize(
    "held_out", [None, [], {}, {"l2_mean": 0.1}, {"l2_mean": float("nan"), "l2_largest": 1.0},
                 {"l2_mean": "0.1", "l2_largest": 1.0}, {"l2_mean": 0.0, "l2_largest": 0.0}],
)  # fmt: skip
def test_odd_numbers_are_no_numbers(held_out):
    domain = Domain.of(NOTES | {"held_out": held_out})
    assert domain.images == "built-in toy faces, 64x48" and domain.most is None


def test_errors_are_measured_at_the_encoders_size():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 3, 4, 3)).astype(np.float32)
    drawn = np.repeat(np.repeat(images + 0.25, 2, axis=1), 2, axis=2)
    drawn[:, ::2] += 0.125
    drawn[:, 1::2] -= 0.125
    clipped = np.clip(drawn, -1, 1)
    expected = images - clipped.reshape(2, 3, 2, 4, 2, 3).mean((2, 4))
    found = errors_of(images, drawn)
    np.testing.assert_allclose(found, (expected**2).mean((1, 2, 3)), rtol=1e-5)
    assert errors_of(images, drawn[:1]).shape == (2,)
    noted = noted_errors(found)
    assert noted["count"] == 2 and noted["l2_largest"] == pytest.approx(float(found.max()))
