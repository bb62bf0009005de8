"""The encoder's training step: one program for all stages, any number of devices."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import randomize, relative_error, run_two_processes

from configs import common
from e4e_jax.inversion.invert import invert
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime import parallel
from e4e_jax.toy.features import ToyFeatures, ToyFeaturesConfig
from e4e_jax.training import losses
from e4e_jax.training.encoder_step import (
    STATE_SPECS,
    FrozenNetworks,
    make_encoder_step,
    place_state,
)
from e4e_jax.training.objective import read_objective

SIZE = 8
BACKBONE = IRSEConfig(widths=(4, 4, 8, 8), depths=(1, 1, 1, 1), squeeze_reduction=2)


def objective(**changes):
    """The published objective but for some fields."""
    return read_objective(dict(common.get_encoder_config().objective) | changes)


OPTIONS = objective(
    progressive_start=3, progressive_every=2, r1_every=4, w_pool_size=0, delta_norm=0.01
)


def networks():
    config = GeneratorConfig(
        SIZE, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8
    )
    features = ToyFeatures(
        ToyFeaturesConfig(embedding_dim=8, image_size=SIZE, backbone=BACKBONE), rngs=nnx.Rngs(2)
    )
    features = randomize(features, 2)
    features.eval()
    return FrozenNetworks(
        generator=randomize(Generator(config, rngs=nnx.Rngs(1)), 1),
        others={"perceptual": features, "identity": features},
    )


def build(options=OPTIONS, kind="e4e", optimizer=None, remat="none"):
    frozen = networks()
    config = EncoderConfig(
        kind=kind, num_styles=4, style_dim=8, image_size=(SIZE, SIZE), backbone=BACKBONE,
        coarse=1, middle=2,
    )  # fmt: skip
    encoder = randomize(Encoder(config, axis_name="data", rngs=nnx.Rngs(0)), 0)
    discriminator = randomize(LatentDiscriminator(8, rngs=nnx.Rngs(3)), 3)
    init, step = make_encoder_step(
        encoder, discriminator, frozen, optimizer or optax.adam(1e-3), optax.adam(1e-3), options,
        remat=remat,
    )  # fmt: skip
    return init, step, frozen, encoder


def batches(count, size=8):
    rng = np.random.default_rng(5)
    return [
        {
            "image": rng.uniform(-1, 1, (size, SIZE, SIZE, 3)).astype(np.float32),
            "index": np.arange(size, dtype=np.int32),
        }
        for _ in range(count)
    ]


def run(compiled, init, frozen, mesh, steps):
    arrays = parallel.replicate(frozen.split()[1], mesh)
    state = place_state(init(jax.random.key(0)), mesh)
    history = []
    for batch in batches(steps):
        share = batch["image"].shape[0] // jax.process_count()
        first = share * jax.process_index()
        batch = {name: rows[first : first + share] for name, rows in batch.items()}
        state, metrics = compiled(state, parallel.put_batch(batch, mesh), arrays)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@functools.cache
def recorded(devices):
    """Ten steps across four stages and three R1 steps: metrics, and how often it was traced."""
    init, step, frozen, _ = build()
    traces = []

    def counted(*args):
        traces.append(1)
        return step(*args)

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    compiled = parallel.parallelize(counted, mesh, state_specs=STATE_SPECS)
    _, history = run(compiled, init, frozen, mesh, 10)
    return history, len(traces)


def test_four_devices_give_the_losses_of_one():
    for a, b in zip(recorded(1)[0], recorded(4)[0], strict=True):
        assert a["stage"] == b["stage"]
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


# What each of two processes runs, with two devices of its own and half of every batch.
PROCESS = """
import json
import test_encoder_step
print("losses", json.dumps(test_encoder_step.recorded(4)[0]))
"""


def test_two_processes_of_two_devices_give_the_losses_of_one():
    for output in run_two_processes(PROCESS):
        (line,) = (line for line in output.splitlines() if line.startswith("losses "))
        for a, b in zip(recorded(1)[0], json.loads(line.removeprefix("losses ")), strict=True):
            for name, value in a.items():
                assert b[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_one_program_serves_all_stages_and_they_open_on_time():
    history, traces = recorded(1)
    assert [m["stage"] for m in history] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert traces == 1


def test_every_loss_is_alive():
    history, _ = recorded(1)
    for name in ("l2", "perceptual", "identity", "adversarial", "discriminator"):
        assert all(np.isfinite(m[name]) and m[name] > 0 for m in history), name
    assert [m["delta_norm"] > 0 for m in history] == [False] * 3 + [True] * 7


def test_pmap_gives_what_shard_map_gives():
    init, step, frozen, _ = build()
    key = jax.random.key(0)
    state = init(key).replace(key=())  # pmap takes no typed keys
    state = jax.tree.map(lambda x: jnp.stack([x] * 4), state)

    def with_key(state, batch, arrays):
        state, metrics = step(state.replace(key=key), batch, arrays)
        return state.replace(key=()), metrics

    mapped = jax.pmap(with_key, axis_name="data", in_axes=(0, 0, None))
    for batch, wanted in zip(batches(4), recorded(4)[0], strict=False):
        split = {name: rows.reshape(4, 2, *rows.shape[1:]) for name, rows in batch.items()}
        state, metrics = mapped(state, split, frozen.split()[1])
        for name, value in wanted.items():
            assert float(metrics[name][0]) == pytest.approx(value, rel=1e-6, abs=1e-7), name


def test_one_pass_gives_the_gradient_of_the_whole_objective():
    """SGD with rate 1 turns the step into the gradient; plain jax.grad of the sum is beside it."""
    options = objective(adversarial=0.0, delta_norm=0.01, progressive_start=None)
    frozen = networks()
    _, _, _, encoder = build(options)
    init, step = make_encoder_step(
        encoder, LatentDiscriminator(8, rngs=nnx.Rngs(3)), frozen,
        optax.sgd(1.0), optax.sgd(1.0), options,
    )  # fmt: skip
    (batch,) = batches(1, size=4)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    state = init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.encoder)
    after, _ = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)(
        place_state(state, mesh), parallel.put_batch(batch, mesh), frozen.split()[1]
    )
    keys = parallel.example_keys(jax.random.key(0), 0, jnp.arange(4))
    noise_keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys)[:, 2]
    graph, params, stats = nnx.split(encoder, nnx.Param, nnx.BatchStat)
    images = jnp.asarray(batch["image"])

    def whole(params):
        model = nnx.merge(graph, params, stats, copy=True)
        codes, inverted = invert(model, frozen.generator, images, noise="random", keys=noise_keys)
        features = frozen.others["perceptual"]
        distance = features.distance(features.features(inverted), features.features(images))
        identity = losses.cosine_identity(features.embed(inverted), features.embed(images))
        deltas = jnp.linalg.norm(codes[:, 1:] - codes[:, :1], axis=-1).mean(0).sum()
        return (
            jnp.mean((inverted - images) ** 2)
            + 0.8 * jnp.mean(distance) + 0.5 * identity + 0.01 * deltas
        )  # fmt: skip

    def on_one_device(params):
        return jax.shard_map(
            jax.grad(whole), mesh=mesh, in_specs=parallel.REPLICATED,
            out_specs=parallel.REPLICATED, check_vma=False,
        )(params)  # fmt: skip

    gradient = jax.jit(on_one_device)(params)
    taken = jax.tree.map(lambda a, b: a - np.asarray(b), before, after.encoder)
    # A step of rate 1 is read off as a difference of weights, which costs a few digits.
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    for a, b in zip(jax.tree.leaves(taken), jax.tree.leaves(gradient), strict=True):
        assert np.abs(a - np.asarray(b)).max() < 1e-5 * largest


@functools.cache
def one_step(remat):
    """What a step of SGD with rate 1 takes from the weights; batch statistics; metrics."""
    init, step, frozen, _ = build(optimizer=optax.sgd(1.0), remat=remat)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    first = init(jax.random.key(0)).replace(step=jnp.asarray(5))
    before = jax.tree.map(np.asarray, first.encoder)
    arrays = parallel.replicate(frozen.split()[1], mesh)
    (batch,) = batches(1)
    state, metrics = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)(
        place_state(first, mesh), parallel.put_batch(batch, mesh), arrays
    )
    gradient = jax.tree.map(lambda a, b: a - np.asarray(b), before, state.encoder)
    return gradient, state.batch_stats, metrics


@pytest.mark.parametrize("remat", ["encoder", "generator", "all"])
def test_recomputing_changes_no_number(remat):
    for part, expected in zip(one_step(remat), one_step("none"), strict=True):
        parts, all_expected = jax.tree.leaves(part), jax.tree.leaves(expected)
        largest = max(float(np.abs(b).max()) for b in all_expected)
        for a, b in zip(parts, all_expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * largest)


def test_what_cannot_be_recomputed_is_named():
    with pytest.raises(ValueError, match="remat is 'decoder'; expected one of none, encoder"):
        build(remat="decoder")


def test_w_pools_fill_and_differ_between_devices():
    options = objective(
        perceptual=0, identity=0, progressive_start=0, progressive_every=1, w_pool_size=3
    )
    init, step, frozen, _ = build(options)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    compiled = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)
    state, history = run(compiled, init, frozen, mesh, 3)
    assert state.real_pool.entries.shape == (2, 3, 8)
    np.testing.assert_array_equal(state.real_pool.count, [3, 3])
    entries = np.asarray(state.fake_pool.entries)
    assert relative_error(entries[0], entries[1]) > 1e-3
    assert np.isfinite(history[-1]["loss"])


@pytest.mark.parametrize("kind", ["psp", "single_w"])
def test_other_encoders_train_by_the_same_step(kind):
    options = objective(
        perceptual=0, identity=0, adversarial=0, delta_norm=0, progressive_start=None
    )
    init, step, frozen, _ = build(options, kind)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    compiled = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)
    state = place_state(init(jax.random.key(0)), mesh)
    (batch,) = batches(1)
    history = []
    for _ in range(12):
        state, metrics = compiled(state, parallel.put_batch(batch, mesh), frozen.split()[1])
        history.append(float(metrics["loss"]))
    assert history[-1] < history[0]


def darkness(target, inversion, codes, stage, networks, *, power=1.0):
    """A loss of one's own."""
    return jnp.mean(jnp.abs(target - inversion) ** power)


def a_picture(target, inversion, codes, stage, networks):
    return jnp.mean(jnp.abs(target - inversion), axis=(1, 2))


def a_step_with(term):
    """Metrics of a step whose images have targets far from them, 100 everywhere."""
    options = objective(
        l2=1.0, perceptual=0, identity=0, adversarial=0, delta_norm=0, progressive_start=None,
        mine={"weight": 0.5, **term},
    )  # fmt: skip
    init, step, frozen, _ = build(options)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    state = place_state(init(jax.random.key(0)), mesh)
    (batch,) = batches(1)
    batch["target"] = np.full_like(batch["image"], 100)
    compiled = parallel.parallelize(step, mesh, state_specs=STATE_SPECS)
    return compiled(state, parallel.put_batch(batch, mesh), frozen.split()[1])[1]


def test_a_loss_of_ones_own_is_weighted_and_told_its_options():
    metrics = a_step_with({"loss": f"{__name__}:darkness", "power": 2.0})
    assert metrics["l2"] > 1000  # the distance to the targets
    assert metrics["mine"] == pytest.approx(float(metrics["l2"]), rel=1e-6)
    assert metrics["loss"] == pytest.approx(1.5 * float(metrics["l2"]), rel=1e-6)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": f"{__name__}:darkness", "colour": 1}, "darkness takes no 'colour'"),
        ({"loss": f"{__name__}:a_picture"}, r"a_picture gives .8, 3.; expected a scalar"),
        ({"loss": f"{__name__}:missing"}, "cannot be imported: AttributeError"),
    ],
)
def test_a_loss_that_cannot_be_used_is_told(term, message):
    with pytest.raises(ValueError, match=message):
        a_step_with(term)
