"""A run that trains an encoder on a frozen generator, built from a config."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from e4e_jax import bundle
from e4e_jax.data.images import save_png
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.inversion.domain import HELD_OUT, STEP, TRAINED_ON, noted_errors
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.resnet import ResNetConfig
from e4e_jax.models.stylegan2 import class_generator
from e4e_jax.runtime import parallel
from e4e_jax.training.encoder_evaluation import (
    SHOWN,
    EncoderEvaluation,
    Measured,
    ShownEdit,
)
from e4e_jax.training.encoder_step import (
    STATE_SPECS,
    EncoderState,
    FrozenNetworks,
    make_encoder_step,
    place_state,
)
from e4e_jax.training.objective import ROLES, EncoderOptions, read_objective
from e4e_jax.training.run import (
    Run,
    build_optimizer,
    describe_images,
    first_weights,
    float_images,
    held_out_images,
    mean_training_image,
    on_this_host,
    step_of,
    training_batches,
)
from e4e_jax.training.tables import format_table
from e4e_jax.training.w_pool import deal_w_pools

_ROWS = 8  # held-out images that pictures show, but for that of the end


def build_encoder_run(config: ConfigDict, mesh: Mesh) -> Run:
    """Builds the run that `config` describes (see configs/ffhq.py) on the devices of `mesh`.

    Raises:
      ValueError, FileNotFoundError: the config does not fit together, or names a file that is
        not there; in one sentence.
    """
    options = read_objective(config.objective)
    networks = _frozen_networks(config, options)
    encoder_config = _encoder_config(config, networks.generator.config)

    def make():
        rngs = nnx.Rngs(config.seed)
        encoder = Encoder(
            encoder_config, axis_name=parallel.AXIS, dtype=jnp.dtype(config.dtype), rngs=rngs
        )
        discriminator = LatentDiscriminator(encoder_config.style_dim, rngs=rngs)
        return nnx.Dict(encoder=encoder, discriminator=discriminator)

    warm_start = config.encoder.warm_start
    trained = first_weights(make, lambda path: warm_start and "backbone" in path)
    encoder, discriminator = trained["encoder"], trained["discriminator"]
    if warm_start:
        _copy_backbone(warm_start, encoder, jax.random.key(config.seed))
    init, step = make_encoder_step(
        encoder,
        discriminator,
        networks,
        build_optimizer(config.optimizer, config.total_steps, stacked_axes=_stacked_axes),
        build_optimizer(config.discriminator_optimizer, config.total_steps),
        options,
        remat=config.remat,
    )
    compiled = parallel.parallelize(float_images(step), mesh, state_specs=STATE_SPECS)
    frozen = parallel.replicate(networks.split()[1], mesh)
    state = place_state(init(jax.random.key(config.seed)), mesh)
    # Kept apart from the state, whose buffers the first step takes over.
    untrained = jax.tree.map(np.asarray, _weights(state))

    directions = _directions(config, networks.generator)
    held_out = held_out_images(config)
    at_hand = {config[role]: networks.others[role] for role in ROLES if role in networks.others}
    evaluation = EncoderEvaluation(
        encoder,
        networks.generator,
        held_out,
        config.evaluation.get("validation") or _metrics(config, networks, held_out.factor_names),
        networks=at_hand,
        mean_image=lambda: mean_training_image(config),
        edits=[
            ShownEdit(name, directions[name], strength) for name, strength in config.edits.shown
        ],
        batch_size=config.validation_batch_size,
    )

    about = {TRAINED_ON: describe_images(config)}  # before any step: later they may be gone
    latest: dict[int, Measured] = {}  # the step that was measured last, and what it gave

    def measured(state) -> Measured:
        """What the encoder makes of the held-out images; once for each step."""
        step = step_of(state)
        if step not in latest:
            found = evaluation.measure(_weights(state))
            latest.clear()
            latest[step] = found
        return latest[step]

    def picture(state):
        found = latest.get(step_of(state)) or evaluation.measure(_weights(state), count=_ROWS)
        return evaluation.picture(found, _ROWS)

    def warm_up():
        weights = _on_one_device(untrained, mesh)
        evaluation.picture(evaluation.measure(weights, count=1), rows=1)

    def finish(state, workdir):
        found = measured(state)
        path = os.path.join(workdir, "bundle")
        bundle.save_bundle(
            path,
            "inverter",
            {"encoder": _trained(encoder, *_weights(state)), "generator": networks.generator},
            about | {STEP: step_of(state), HELD_OUT: noted_errors(found.errors)},
            overwrite=True,
        )
        sheet = os.path.join(workdir, "inversions.png")
        save_png(sheet, evaluation.picture(found, SHOWN))
        print("\n" + evaluation.table(found, _on_one_device(untrained, mesh)))
        if evaluation.reads_factors:
            effects = evaluation.edit_effects(found.codes, directions)
            print("\n" + format_table(
                "change of each factor by an edit of +1", list(held_out.factor_names),
                dict(zip(directions, effects, strict=True)),
            ))  # fmt: skip
        return {"picture (input | inversion | edits)": sheet, "bundle": path}

    return Run(
        state=state,
        step=lambda state, batch: compiled(state, batch, frozen),
        batches=training_batches(config),
        validate=lambda state: dict(measured(state).report),
        best="l2",
        picture=picture,
        finish=finish,
        deal={"real_pool": deal_w_pools, "fake_pool": deal_w_pools},
        warm_up=warm_up,
        about=about,
    )


def encoder_bundle(
    config: ConfigDict, about: Mapping[str, Any], read: Callable[[Any], Any]
) -> bundle.Bundle:
    """What a bundle of such a run holds, from a checkpoint; see `registry.BundleOfTask`."""
    generator = _generator(config)
    architecture = _encoder_config(config, generator.config)
    encoder = nnx.eval_shape(lambda: Encoder(architecture, rngs=nnx.Rngs(0)))
    _, params, batch_stats = nnx.split(encoder, nnx.Param, nnx.BatchStat)
    weights = read({"encoder": params, "batch_stats": batch_stats})
    trained = _trained(encoder, weights["encoder"], weights["batch_stats"])
    return bundle.Bundle("inverter", {"encoder": trained, "generator": generator}, {})


def _metrics(config, networks: FrozenNetworks, factor_names) -> list[str]:
    """What validation measures where the config does not say it: what the objective looks at."""
    names = [
        f"{metric}@{config[role]}"
        for metric, role in (("perceptual", "perceptual"), ("id", "identity"))
        if role in networks.others
    ]
    readers = (
        config[role]
        for role in ROLES
        if getattr(networks.others.get(role), "factor_names", ()) == factor_names
    )
    return names + [f"factors@{name}" for name in [*readers][:1] if factor_names]


def _frozen_networks(config, options: EncoderOptions) -> FrozenNetworks:
    """The generator and what the losses look through."""
    dtype = jnp.dtype(config.dtype)
    networks = {name: config[name] if name in ROLES else name for name in options.networks}
    # One network in two roles is loaded once, and the compiler computes its features once.
    by_name = {name: bundle.load_network(name, dtype=dtype) for name in {*networks.values()}}
    loaded = {role: by_name[name] for role, name in networks.items()}
    return FrozenNetworks(_generator(config, dtype), loaded)


def _generator(config, dtype=None):
    """The generator, or what it draws of config.generator_class.

    That is where w of the pools and the average code come from, and what the bundle of the run
    holds: a generator without classes.
    """
    generator = bundle.load_network(config.generator, "generator", dtype=dtype)
    label, classes = config.generator_class, generator.config.num_classes
    if label is None and not classes:
        return generator
    if label is None or not 0 <= label < classes:
        expected = f"one of 0 to {classes - 1}" if classes else "None"
        raise ValueError(
            f"config.generator_class is {label} and config.generator is {config.generator}, which "
            f"has {classes} classes; expected {expected}."
        )
    return class_generator(generator, label)


def _encoder_config(config, generator) -> EncoderConfig:
    height, width = config.data.image_size
    if generator.resolution % width or height > width:
        raise ValueError(
            f"config.data.image_size is {height}x{width} (height x width) and the generator draws "
            f"{generator.resolution}x{generator.resolution}; expected a width that divides the "
            "generator's and a height of at most the width."
        )
    return EncoderConfig(
        kind=config.encoder.kind,
        num_styles=generator.num_styles,
        style_dim=generator.w_dim,
        image_size=(height, width),
        backbone=_backbone(config.encoder),
        coarse=config.encoder.coarse,
        middle=config.encoder.middle,
        iterative=config.encoder.iterations > 1,
        iterations=config.encoder.iterations,
    )


def _backbone(section) -> IRSEConfig | ResNetConfig:
    shape: dict[str, Any] = {
        "widths": tuple(section.widths),
        "depths": tuple(section.depths),
        "in_channels": 3 if section.iterations == 1 else 6,  # the image and what it has come to
    }
    if section.backbone == "resnet":
        return ResNetConfig(**shape)
    return IRSEConfig(**shape, squeeze_reduction=16 if section.backbone == "ir_se" else None)


def _copy_backbone(name, encoder: Encoder, key):
    """Starts the encoder's backbone from that of another network: ArcFace, an encoder.

    Channels that an iterative encoder reads beside the image's start from a standard normal, as in
    yuval-alaluf/restyle-encoder.
    """
    networks = bundle.load_bundle(name).networks.values()
    source: Any = next((nnx.state(n.backbone) for n in networks if hasattr(n, "backbone")), None)
    if source is None:
        raise ValueError(
            f"config.encoder.warm_start is {name!r}, which has no backbone; expected the bundle of "
            "a network with one, such as ArcFace or an encoder."
        )
    target: Any = nnx.state(encoder.backbone)
    stem, wanted = source["stem_conv"]["kernel"], target["stem_conv"]["kernel"].shape
    *sides, channels, features = stem.shape
    if encoder.config.iterative and wanted == (*sides, 2 * channels, features):
        others = jax.random.normal(key, stem.shape)
        source["stem_conv"]["kernel"] = stem.replace(jnp.concatenate([stem[...], others], axis=-2))
    shapes = [jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(s)) for s in (source, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"config.encoder.warm_start is {name!r}, whose backbone is of another kind or has "
            "other widths or depths than config.encoder; expected the same."
        )
    nnx.update(encoder.backbone, source)


def _directions(config, generator) -> dict[str, np.ndarray]:
    """Editing directions by name: from a file, or SeFa's strongest where there is none."""
    if config.edits.directions:
        directions = load_directions(bundle.resolve(config.edits.directions))
    else:
        found = sefa_directions(generator, 10)
        directions = {f"sefa_{i}": direction for i, direction in enumerate(found)}
    for name, _ in config.edits.shown:
        if name not in directions:
            raise ValueError(
                f"config.edits.shown names {name!r}; expected one of {', '.join(directions)}."
            )
    return directions


def _stacked_axes(path: str) -> int:
    """The encoder's heads are stacked on a leading axis; Ranger centralises each on its own."""
    return 1 if path.startswith("heads/") else 0


def _weights(state: EncoderState):
    return on_this_host((state.encoder, state.batch_stats))


def _on_one_device(weights, mesh):
    """Where `_weights` are, too: of other places programs would be compiled a second time."""
    return jax.device_put(weights, mesh.local_devices[0])


def _trained(encoder: Encoder, params, batch_stats) -> Encoder:
    graph, _, _ = nnx.split(encoder, nnx.Param, nnx.BatchStat)
    return nnx.merge(graph, params, batch_stats)
