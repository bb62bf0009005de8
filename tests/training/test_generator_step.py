import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import generator_options, randomize, relative_error

from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.feature_discriminator import FeatureDiscriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime import parallel
from e4e_jax.training import losses
from e4e_jax.training.generator_step import (
    Supervision,
    make_generator_step,
)

CONFIG = GeneratorConfig(8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)
BATCH = 8
PLAIN = generator_options(
    r1_gamma=2.0, r1_every=3, path_length_weight=0.0, style_mixing=0.0, random_noise=False
)


def players():
    generator = randomize(Generator(CONFIG, rngs=nnx.Rngs(0)), seed=0)
    discriminator = randomize(Discriminator(CONFIG, rngs=nnx.Rngs(1)), seed=1)
    return generator, discriminator


def real_images(batch=BATCH):
    return np.random.default_rng(2).uniform(-1, 1, (batch, 8, 8, 3)).astype(np.float32)


def start(generator, discriminator, optimizer, options, devices):
    """The state, the batch and the compiled step on so many devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    init, step = make_generator_step(
        generator, discriminator, optimizer, optimizer, options, global_batch=BATCH
    )
    state = parallel.replicate(init(jax.random.key(0)), mesh)
    batch = parallel.put_batch({"image": real_images(), "index": np.arange(BATCH)}, mesh)
    compiled = parallel.parallelize(step, mesh)
    return state, batch, lambda state, batch: compiled(state, batch, ())


class CodeTable(nnx.Module):
    """In place of the mapping network: the codes are parameters, whatever z is drawn.

    So the test knows which fakes the step makes without knowing how it derives its keys.
    """

    def __init__(self):
        codes = np.random.default_rng(3).normal(size=(BATCH, 2, CONFIG.w_dim))
        self.codes = nnx.Param(jnp.asarray(codes, jnp.float32))

    def __call__(self, z):
        return self.codes[...][: z.shape[0]]


def record_gradients():
    """An optimiser that leaves the weights alone and whose state is the last gradient."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradients, state, params):
        return init(params), gradients

    return optax.GradientTransformation(init, update)


@nnx.jit
def plain_gradients(generator, discriminator, real, r1_weight):
    """Either player's gradient from a loss and a pass of its own."""

    def fakes(generator):
        codes = generator.mapping.codes[: len(real), 0]
        return generator.synthesis(generator.broadcast(codes), noise="none")

    def generator_loss(generator):
        return losses.generator_logistic(discriminator(fakes(generator)))

    def discriminator_loss(discriminator):
        logits = discriminator(real), discriminator(fakes(generator))
        penalty = losses.r1_penalty(discriminator, real)
        return losses.discriminator_logistic(*logits) + r1_weight * penalty

    return nnx.grad(generator_loss)(generator), nnx.grad(discriminator_loss)(discriminator)


def assert_gradients_equal(actual, expected):
    def compare(path, a, b):
        name = jax.tree_util.keystr(path)
        if not np.any(b):  # noise strengths, where no noise is added
            assert "noise_strength" in name and not np.any(a), name
        else:
            assert relative_error(a, b) < 1e-5, name

    jax.tree_util.tree_map_with_path(compare, actual, expected)


def test_one_pass_for_both_players_equals_a_pass_for_each():
    generator, discriminator = players()
    generator.mapping = CodeTable()
    state, batch, step = start(generator, discriminator, record_gradients(), PLAIN, devices=2)
    # R1 comes every third step and three times as strong: at step 0, not at step 1.
    for r1_weight in (3 * PLAIN.r1_gamma / 2, 0.0):
        state, _ = step(state, batch)
        # Minibatch standard deviation sees one device's examples, so each share has its pass.
        expected = [
            plain_gradients(generator, discriminator, real, r1_weight)
            for real in np.split(real_images(), 2)
        ]
        expected = jax.tree.map(lambda a, b: (a + b) / 2, *expected)
        assert_gradients_equal((state.generator_optimizer, state.discriminator_optimizer), expected)


@pytest.fixture(scope="module")
def run():
    """Five steps with everything on, on two devices: options, [states], [metrics]."""
    options = generator_options(
        r1_every=3,
        path_length_every=2,
        augment=("color", "translation", "cutout"),
        ema_halflife_images=60,
    )
    state, batch, step = start(*players(), optax.adam(1e-2), options, devices=2)
    states, metrics = [jax.device_get(state)], []
    for _ in range(5):
        state, values = step(state, batch)
        for leaf in jax.tree.leaves((state.generator, state.discriminator)):
            shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
            np.testing.assert_array_equal(*shards)  # replicas stay equal
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(values))
    return options, states, metrics


def test_steps_are_finite_and_move_every_weight(run):
    _, states, metrics = run
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
    for values in metrics:
        assert all(np.isfinite(value) for value in values.values()), values
    for before, after in zip(states[:-1], states[1:], strict=True):
        for player in ("generator", "discriminator"):
            pair = getattr(before, player), getattr(after, player)
            moved = jax.tree.map(lambda a, b: np.any(a != b), *pair)
            assert all(jax.tree.leaves(moved)), moved


def test_penalties_are_taken_at_their_steps_only(run):
    _, states, metrics = run
    assert [values["r1"] > 0 for values in metrics] == [True, False, False, True, False]
    taken = [values["path_length_penalty"] > 0 for values in metrics]
    assert taken == [True, False, True, False, True]
    means = [float(state.path_length) for state in states]
    assert means[0] == 0 and all(mean > 0 for mean in means[1:])
    assert [a != b for a, b in zip(means[:-1], means[1:], strict=True)] == taken


def test_average_generator_is_an_exponential_moving_average(run):
    options, states, _ = run
    average = states[0].generator
    decay = 0.5 ** (BATCH / options.ema_halflife_images)
    for t, state in enumerate(states[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, g, d=d: d * a + (1 - d) * g, average, state.generator)
        errors = jax.tree.map(relative_error, state.generator_average, average)
        assert max(jax.tree.leaves(errors)) < 1e-5


def test_a_training_that_goes_on_keeps_its_average():
    generator, discriminator = players()
    average = randomize(Generator(CONFIG, rngs=nnx.Rngs(0)), seed=5)
    init, step = make_generator_step(
        generator, discriminator, optax.adam(1e-2), optax.adam(1e-2), PLAIN,
        average=average, global_batch=BATCH,
    )  # fmt: skip
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    batch = parallel.put_batch({"image": real_images(), "index": np.arange(BATCH)}, mesh)
    state = parallel.replicate(init(jax.random.key(0)), mesh)
    state, _ = parallel.parallelize(step, mesh)(state, batch, ())
    d = 0.5 ** (BATCH / PLAIN.ema_halflife_images)  # from the first step on
    expected = jax.tree.map(
        lambda a, g: d * a + (1 - d) * g, nnx.state(average, nnx.Param), state.generator
    )
    errors = jax.tree.map(relative_error, state.generator_average, expected)
    assert max(jax.tree.leaves(errors)) < 1e-6


def test_every_head_of_a_feature_discriminator_counts_the_same():
    """Losses are means over the logits, and R1 is that of an example's mean logit."""
    generator, discriminator = players()
    generator.mapping = CodeTable()
    features = lambda images: [images, images[:, ::2, ::2]]  # noqa: E731
    discriminator = FeatureDiscriminator(discriminator, features, rngs=nnx.Rngs(1))
    discriminator = randomize(discriminator, seed=1)
    state, batch, step = start(generator, discriminator, record_gradients(), PLAIN, devices=1)
    state, _ = step(state, batch)

    @nnx.jit
    def expected(generator, discriminator, real):
        codes = generator.broadcast(generator.mapping.codes[:, 0])
        fakes = generator.synthesis(codes, noise="none")

        def loss(discriminator):
            logits = discriminator(real), discriminator(fakes)  # [B, 3] each
            slopes = nnx.grad(lambda x: jnp.sum(discriminator(x)) / 3)(real)
            penalty = jnp.mean(jnp.sum(slopes**2, axis=(1, 2, 3)))
            game = jnp.mean(jax.nn.softplus(-logits[0])) + jnp.mean(jax.nn.softplus(logits[1]))
            return game + 3 * PLAIN.r1_gamma / 2 * penalty

        return nnx.grad(loss)(discriminator)

    gradients = expected(generator, discriminator, jnp.asarray(real_images()))
    assert_gradients_equal(state.discriminator_optimizer, gradients)


class Halves(nnx.Module):
    """A perceptual network: the halves of an image, and their summed squared differences."""

    def features(self, images):
        return [images[:, :4], images[:, 4:]]

    def distance(self, a, b):
        return sum(jnp.sum(jnp.square(x - y), axis=(1, 2, 3)) for x, y in zip(a, b, strict=True))


def supervised(options):
    """Two steps whose codes are the batch's factors: both players' gradients, metrics, factors."""
    generator, discriminator = players()
    factors = np.random.default_rng(4).normal(size=(BATCH, CONFIG.z_dim)).astype(np.float32)
    supervision = Supervision(
        l2=5.0, perceptual=0.3, latents=lambda factors, z: factors, network=Halves()
    )
    init, step = make_generator_step(
        generator, discriminator, record_gradients(), record_gradients(), options,
        supervision=supervision, global_batch=BATCH,
    )  # fmt: skip
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    batch = {"image": real_images(), "index": np.arange(BATCH), "factors": factors}
    state = parallel.replicate(init(jax.random.key(0)), mesh)
    compiled, frozen = parallel.parallelize(step, mesh), supervision.split()[1]
    state, metrics = compiled(state, parallel.put_batch(batch, mesh), frozen)
    return generator, discriminator, state, metrics, factors


def test_supervision_pulls_an_image_of_a_code_towards_the_image_it_stands_for():
    generator, discriminator, state, metrics, factors = supervised(PLAIN)

    @nnx.jit
    def expected(generator, discriminator, real):
        def loss(generator):
            fakes = generator.synthesis(
                generator.broadcast(generator.mapping(factors)), noise="none"
            )
            errors = jnp.square(fakes - real)
            l2, perceptual = jnp.mean(errors), jnp.mean(jnp.sum(errors, axis=(1, 2, 3)))
            adversarial = jnp.mean(jax.nn.softplus(-discriminator(fakes)))
            return adversarial + 5.0 * l2 + 0.3 * perceptual, (l2, perceptual)

        return nnx.grad(loss, has_aux=True)(generator)

    gradients, (l2, perceptual) = expected(generator, discriminator, jnp.asarray(real_images()))
    assert_gradients_equal(state.generator_optimizer, gradients)
    assert relative_error(metrics["l2"], l2) < 1e-5
    assert relative_error(metrics["perceptual"], perceptual) < 1e-5


def test_supervision_and_style_mixing_exclude_each_other():
    with pytest.raises(ValueError, match="Style mixing is 0.5; expected 0"):
        supervised(generator_options(style_mixing=0.5))


class MixingProbe(nnx.Module):
    """A generator whose images are white where the last style differs from the first, else 0."""

    def __init__(self):
        self.config = CONFIG
        self.scale = nnx.Param(jnp.ones(()))

    def mapping(self, z):
        return z

    def synthesis(self, w_plus, *, noise, keys):
        mixed = jnp.any(w_plus[:, -1] != w_plus[:, 0], axis=-1)
        white = jnp.ones((CONFIG.resolution, CONFIG.resolution, 3))
        return self.scale * mixed[:, None, None, None] * white


class Brightness(nnx.Module):
    """A discriminator whose logits are the mean of the image."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, images):
        return self.scale * jnp.mean(images, axis=(1, 2, 3))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_style_mixing_at_its_extremes(probability):
    options = generator_options(r1_gamma=0, path_length_weight=0, style_mixing=probability)
    state, batch, step = start(MixingProbe(), Brightness(), record_gradients(), options, devices=1)
    for _ in range(3):
        state, metrics = step(state, batch)
        assert metrics["fake_logits"] == probability  # the share of mixed images
