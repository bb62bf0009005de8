import jax
import numpy as np
import pytest
from scipy import stats

from e4e_jax.models.layers import normalize_second_moment
from e4e_jax.toy.faces import FACTORS, GLASSES_PROBABILITY, HIGHEST, LOWEST, sample_factors
from e4e_jax.toy.latents import face_latents

COUNT, DIMENSIONS = 4000, 48


@pytest.fixture(scope="module")
def faces():
    """Factors of random faces and their codes."""
    factors = sample_factors(np.arange(COUNT))
    z = jax.random.normal(jax.random.key(0), (COUNT, DIMENSIONS))
    return factors, np.asarray(face_latents(factors, z), np.float64)


def test_factors_can_be_read_from_a_code(faces):
    factors, z = faces
    read = LOWEST + (HIGHEST - LOWEST) * stats.norm.cdf(z[:, : len(FACTORS)])
    glasses = FACTORS.index("glasses")
    read[:, glasses] = read[:, glasses] > 1 - GLASSES_PROBABILITY
    np.testing.assert_allclose(read, factors, atol=2.1e-3)  # the ends of a range are cut off


def test_codes_are_standard_normal_and_independent(faces):
    _, z = faces
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.07)  # 4 standard errors
    np.testing.assert_allclose(np.cov(z.T), np.eye(DIMENSIONS), atol=0.1)
    for column in range(len(FACTORS)):
        assert stats.kstest(z[:, column], "norm").pvalue > 1e-3, FACTORS[column]


def test_the_mapping_networks_normalisation_leaves_a_code_as_it_is(faces):
    _, z = faces
    np.testing.assert_allclose(normalize_second_moment(z), z, rtol=1e-4)
