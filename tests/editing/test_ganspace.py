import jax
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error

from e4e_jax.editing.ganspace import ganspace_directions, set_component
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONFIG = GeneratorConfig(8, z_dim=8, w_dim=6, mapping_layers=2, channel_base=64, channel_max=8)


def test_components_are_those_of_all_samples_at_once():
    generator = randomize(Generator(CONFIG, rngs=nnx.Rngs(0)))
    mean, components, deviations = ganspace_directions(generator, 4, samples=950, batch_size=100)
    z = np.concatenate(
        [jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (100, 8)) for i in range(10)]
    )
    w = np.asarray(generator.mapping(z), np.float64)
    assert relative_error(mean, w.mean(axis=0)) < 1e-5
    _, singular, vectors = np.linalg.svd(w - w.mean(axis=0), full_matrices=False)
    assert relative_error(deviations, singular[:4] / np.sqrt(1000)) < 1e-5
    for found, expected in zip(components, vectors, strict=False):
        assert abs(abs(found @ expected) - 1) < 1e-5
        assert found[np.abs(found).argmax()] > 0


def test_more_components_than_dimensions_is_an_error():
    generator = Generator(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="count is 7 and samples 1000000; expected 1 to 6"):
        ganspace_directions(generator, 7)


def test_setting_a_component_is_the_published_edit():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(3, 6, 8)).astype(np.float32)
    mean, component = rng.normal(size=8), rng.normal(size=8)
    component /= np.linalg.norm(component)
    deviation = 1.7
    found = set_component(codes, component * deviation, mean, -4.0, 2, 3)
    for code, moved in zip(codes.astype(np.float64), found, strict=True):
        coordinate = np.sum((code[0] - mean) * component) / deviation
        expected = code.copy()
        expected[2:4] += (-4.0 - coordinate) * component * deviation
        assert relative_error(moved, expected) < 1e-6
    everywhere = set_component(codes, component * deviation, mean, 2.5, 0, 5)
    reached = (np.asarray(everywhere)[:, 0] - mean) @ component / deviation
    np.testing.assert_allclose(reached, 2.5, rtol=1e-5)


def test_components_that_do_not_fit_are_named():
    codes, step = np.ones((2, 6, 8)), np.ones(8)
    with pytest.raises(ValueError, match=r"\[2, 6, 8\], \[7\] and \[8\]; expected \[B, L, D\]"):
        set_component(codes, step[:7], step, 1.0, 0, 1)
    with pytest.raises(ValueError, match="the layers are 2 to 6; expected layers in order, 0 to 5"):
        set_component(codes, step, step, 1.0, 2, 6)
