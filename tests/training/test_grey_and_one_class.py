"""Runs on a generator of grey images, and on one class of a class-conditional one."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import generator_options, randomize, relative_error

from configs import common
from e4e_jax import bundle
from e4e_jax.api import GeneratorModel
from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime import parallel
from e4e_jax.training import encoder_run, generator_run
from e4e_jax.training.generator_step import make_generator_step
from e4e_jax.training.objective import read_objective

SIZES = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8}


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "classes"
    generator = Generator(GeneratorConfig(8, num_classes=3, **SIZES), rngs=nnx.Rngs(0))
    bundle.save_bundle(path, "generator", {"generator": randomize(generator)})
    return path


def encoder_config(path, label):
    config = common.get_encoder_config()
    config.generator = str(path)
    config.objective.perceptual = config.objective.identity = 0.0
    config.generator_class = label
    return config


def frozen_networks(config):
    return encoder_run._frozen_networks(config, read_objective(config.objective))


def test_an_encoder_learns_the_w_of_one_class(conditional):
    found = frozen_networks(encoder_config(conditional, 2)).generator
    model = GeneratorModel(bundle.load_network(conditional))
    z = np.random.default_rng(0).normal(size=(4000, 8)).astype(np.float32)
    w = np.asarray(model.map(z, 2))
    assert relative_error(found.mapping(z), w) < 1e-5  # where the pools' real w come from
    assert np.abs(found.latent_avg[...] - w.mean(axis=0)).max() < 0.1 * w.std(axis=0).max()
    assert found.config.num_classes == 0  # which the run's bundle then holds


@pytest.mark.parametrize(
    "name, label, sentence",
    [
        (None, None, "generator_class is None .* has 3 classes; expected one of 0 to 2"),
        (None, 3, "generator_class is 3 .* expected one of 0 to 2"),
        ("toy/generator", 0, "generator_class is 0 .* has 0 classes; expected None"),
    ],
)
def test_a_class_that_does_not_fit_is_one_sentence(conditional, name, label, sentence):
    with pytest.raises(ValueError, match=sentence):
        frozen_networks(encoder_config(name or conditional, label))


def test_a_generator_of_classes_is_not_trained_on(conditional):
    with pytest.raises(ValueError, match="a generator of 3 classes; expected one without"):
        generator_run._networks_to_go_on_from(str(conditional), 8, "float32")


def test_a_grey_generator_takes_a_training_step():
    config = GeneratorConfig(8, image_channels=1, **SIZES)
    networks = (kind(config, rngs=nnx.Rngs(0)) for kind in (Generator, Discriminator))
    options = generator_options(augment=("color", "translation", "cutout"))
    optimizer = optax.adam(1e-3)
    init, step = make_generator_step(*networks, optimizer, optimizer, options, global_batch=4)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    batch = {"image": np.zeros((4, 8, 8, 3), np.float32), "index": np.arange(4)}
    state = init(jax.random.key(0))
    # All shapes fit, of the penalties too; what they hold is tested where the networks are.
    after, metrics = jax.eval_shape(parallel.parallelize(step, mesh), state, batch, ())
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, state)
    assert {"r1", "path_length"} <= set(metrics)
