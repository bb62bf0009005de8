"""What a config may say: every field has a row, and what is no such value is told at once."""

import importlib
import math
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from flax import nnx
from ml_collections import config_dict

from configs import common, ffhq, folder, toy, toy_generator
from e4e_jax.models import encoder
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.training import augment, config_table, encoder_step, loop

CONFIGS = [
    path.stem
    for path in sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))
    if "def get_config" in path.read_text()
]
MISSING = object()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_every_config_has_a_row_and_every_row_a_field(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    config_table.check_config(config)
    if name.startswith("folder"):  # says itself which two flags it needs
        config.data.path = config.data.validation_path = "x"
        if config.task == "encoder":
            config.generator = "x"
    config_table.check_run(config)
    fields = {field for field, _ in config_table._leaves(config)}
    rows = {row for row in config_table.FIELDS[config.task] if not row.endswith("*")}
    assert rows <= fields and all(".options." in field for field in fields - rows)


def test_the_names_in_the_table_are_those_of_the_library():
    rows = config_table.FIELDS["encoder"]

    def names(field, task="encoder"):
        return config_table.FIELDS[task][field].expected

    assert names("encoder.kind") == f"one of {', '.join(encoder.KINDS)}"
    assert names("remat") == f"one of {', '.join(encoder_step.REMAT)}"
    policies = names("objective.augment", "generator").rpartition("one of ")[2]
    assert set(policies.split(", ")) == set(augment._AUGMENTATIONS)
    assert rows["objective.progressive_start"].fits(None)


def changed(config, field, value):
    """The config with a field of any type, or without it."""
    with config.unlocked():
        *sections, name = field.split(".")
        section = config
        for part in sections:
            section = section[part]
        if name in section:
            del section[name]
        if value is not MISSING:
            section[name] = value
    return config


ODD = [
    ("log_every", 0, "is 0; expected a whole number from 1 to 1,000,000,000"),
    ("log_every", 1.0, "is 1.0; expected a whole number"),
    ("log_every", True, "is True; expected a whole number"),
    ("log_every", "10", "is '10'; expected a whole number"),
    ("log_every", None, "is None; expected a whole number"),
    ("log_every", MISSING, "is missing; expected a whole number"),
    ("validate_every", -1, "from 1"),
    ("checkpoint_every", 0, "from 1"),
    ("total_steps", 0, "from 1"),
    ("total_steps", 10**30, "from 1 to 1,000,000,000"),
    ("batch_size", 0, "from 1"),
    ("batch_size", -8, "from 1"),
    ("validation_batch_size", 0, "from 1"),
    ("keep_checkpoints", 0, "from 1"),
    ("seed", -1, "from 0 to 4,294,967,295"),
    ("seed", 2**32, "from 0"),
    ("dtype", "x", "is 'x'; expected one of float32, bfloat16"),
    ("dtype", "float64", "expected one of float32"),
    ("dtype", 32, "expected one of float32"),
    ("task", "paint", "is 'paint'; expected one of encoder, generator, features"),
    ("task", MISSING, "is None; expected one of encoder"),
    ("task", "generator", "is no field that generator runs have"),
    ("remat", "decoder", "expected one of none, encoder"),
    ("name", "a\0b", "is 'a\\x00b'; expected a string of printable characters"),
    ("name", "x" * 300, "expected a string"),
    ("generator", 3, "is 3; expected a string"),
    ("generator", "", "is empty; expected a bundle"),
    ("perceptual", "", "is empty; expected a bundle"),
    ("identity", "", "is empty; expected a bundle"),
    ("batchsize", 3, "is no field that encoder runs have (is it batch_size?)"),
    ("data.images", "x", "is no field that encoder runs have"),
    ("data", 3, "is 3; expected a section"),
    ("seed", config_dict.placeholder(int), "is None; expected a whole number"),
    ("seed", config_dict.required_placeholder(int), "has no value"),
    ("seed", ml_collections.ConfigDict({"a": 1}), "seed.a is no field"),
    ("data.image_size", (0, 0), "is (0, 0); expected a tuple of two, each a whole number from 8"),
    ("data.image_size", 64, "is 64; expected a tuple of two"),
    ("data.image_size", (64,), "is (64,); expected a tuple of two"),
    ("data.image_size", (64, 64, 3), "expected a tuple of two"),
    ("data.image_size", (64.0, 64.0), "expected a tuple of two"),
    ("data.image_size", "64,64", "expected a tuple of two"),
    ("data.image_size", (10**9, 10**9), "from 8 to 1,024"),
    ("data.image_size", (-64, -64), "from 8"),
    ("data.image_size", (64, 48), "a width that is a power of two, and a height of at most"),
    ("data.image_size", (64, 32), "a height of at most the width"),
    ("data.num_validation", -1, "from 1"),
    ("data.num_validation", 0, "from 1"),
    ("data.num_images", 0, "from 1"),
    ("data.workers", -1, "from 0 to 512"),
    ("data.workers", 100_000, "from 0 to 512"),
    ("data.max_bad_images", -1, "from 0"),
    ("data.seed", -1, "from 0"),
    ("data.flip", 1, "is 1; expected True or False"),
    ("data.source", "webcam", "is 'webcam'; expected one of folder, tfds, toy"),
    ("data.source", "folder", "path is empty; expected a folder of images"),
    ("data.source", "tfds", "name is empty; expected that of a data set"),
    ("encoder.kind", "e5e", "expected one of e4e, psp, single_w"),
    ("encoder.widths", (8, 8, 16), "is (8, 8, 16); expected a tuple of four"),
    ("encoder.widths", (8, 8, 16, 0), "each a whole number from 1"),
    ("encoder.widths", (8, 8, 16, 10**12), "each a whole number from 1 to 4,096"),
    ("encoder.depths", (1, 2, 1), "is (1, 2, 1); expected a tuple of four"),
    ("encoder.depths", (10**29, 1, 1, 1), "each a whole number from 1 to 100"),
    ("encoder.depths", (1, 1, 1, 1.5), "expected a tuple of four"),
    ("encoder.coarse", 0, "from 1"),
    ("encoder.middle", 2, "coarse is 3 and config.encoder.middle 2; expected coarse below middle"),
    ("encoder.warm_start", None, "expected a string"),
    ("objective.l2", math.nan, "is nan; expected a number from 0"),
    ("objective.l2", math.inf, "is inf; expected a number from 0"),
    ("objective.identity", -0.5, "is -0.5; expected a number from 0"),
    ("objective.adversarial", "much", "expected a number from 0"),
    ("objective.r1_every", 0, "from 1"),
    ("objective.r1_gamma", -1.0, "from 0"),
    ("objective.progressive_every", 0, "from 1"),
    ("objective.progressive_start", -1, "from 0"),
    ("objective.w_pool_size", -1, "from 0"),
    ("objective.sharpness", 1.0, "is no field"),
    ("optimizer.name", "sdg", "is 'sdg' (is it sgd?); expected one of ranger, adabelief"),
    ("optimizer.name", "optax.adam", "is 'optax.adam'; expected one of ranger"),
    ("optimizer.b1", 0.9, "is no field that encoder runs have"),
    ("optimizer.options", 3, "is 3; expected a section of fields"),
    ("optimizer.options.b1", math.nan, "is nan; expected a finite number, a string"),
    ("optimizer.options.mask", print, "expected a finite number, a string"),
    ("data.options.sizes", (1, (2, math.inf)), "expected a finite number, a string"),
    ("optimizer.learning_rate", math.nan, "expected a number from 0 to 1e+30"),
    ("optimizer.learning_rate", -1e-4, "expected a number from 0 to 1e+30"),
    ("optimizer.learning_rate", math.inf, "expected a number from 0 to 1e+30"),
    ("optimizer.schedule", "cosinus", "is 'cosinus' (is it cosine?); expected one of constant"),
    ("optimizer.schedule_options.warmup_steps", "many", "expected a whole number from 0"),
    ("optimizer.schedule_options.warmup_steps", 1.5, "expected a whole number from 0"),
    ("optimizer.schedule_options.warmup_steps", -1, "expected a whole number from 0"),
    ("optimizer.schedule_options.final_fraction", math.nan, "expected a number from 0 to 1"),
    ("optimizer.schedule_options.boundaries", (5, 3), "expected steps in rising order"),
    ("optimizer.schedule_options.boundaries", 5, "expected a tuple of up to 100"),
    ("discriminator_optimizer.options.b1", math.nan, "expected a finite number"),
    ("edits.shown", "smile", "is 'smile'; expected a tuple of up to 100"),
    ("edits.shown", (("smile",),), "expected a tuple of up to 100, each (a string"),
    ("edits.shown", (("smile", math.nan),), "expected a tuple of up to 100, each (a string"),
    ("edits.shown", ((1.0, "smile"),), "expected a tuple"),
    ("edits.shown", (("smile", 1.0),) * 101, "expected a tuple of up to 100"),
]
ODD_GENERATORS = [
    ("generator.channel_base", 10**12, "from 8 to 1,048,576"),
    ("generator.channel_base", 32, "is 32; expected at least 64"),
    ("generator.channel_max", 0, "from 1"),
    ("generator.z_dim", -1, "from 1"),
    ("generator.w_dim", 10**9, "from 1 to 4,096"),
    ("generator.mapping_layers", 10**9, "from 1 to 100"),
    ("generator.mapping_lr_mul", 0.0, "expected a number above 0"),
    ("generator.colours", 3, "is no field that generator runs have"),
    ("objective.style_mixing", 1.5, "expected a number from 0 to 1"),
    ("objective.random_noise", "yes", "expected True or False"),
    ("objective.augment", "color", "expected a tuple of up to 100, each one of color"),
    ("objective.augment", ("colour",), "each one of color, translation, cutout"),
    ("objective.path_length_every", 0, "from 1"),
    ("objective.ema_halflife_images", 0.0, "expected a number above 0"),
    ("fid_samples", 1, "from 2"),
    ("features", "", "expected a bundle (--config.features=PATH)"),
    ("supervision.l2", -1.0, "from 0"),
    ("data.image_size", (64, 128), "expected a square"),
    ("data.image_size", (48, 48), "a side that is a power of two"),
    ("data.flip", True, "expected False, because factors describe images"),
    ("data.num_validation", 3, "expected at least 4"),
]


@pytest.mark.parametrize("field, value, words", ODD)
def test_an_odd_field_of_an_encoder_run(field, value, words):
    check(changed(toy.get_config(), field, value), words)


@pytest.mark.parametrize("field, value, words", ODD_GENERATORS)
def test_an_odd_field_of_a_generator_run(field, value, words):
    check(changed(toy_generator.get_config(), field, value), words)


def check(config, words):
    with pytest.raises(ValueError) as caught:
        config_table.check_run(config)
    message = str(caught.value)
    assert words in message and message.startswith("config."), message
    assert "\n" not in message and message.endswith((".", "?")) and len(message) < 500


def test_fields_of_parts_of_ones_own_are_open_and_all_others_strict():
    config = toy.get_config()
    config.data.source, config.data.options = "my.images:Birds", {"count": 3, "sizes": (1, "x")}
    config.optimizer.name, config.optimizer.options = "my:opt", {"inner": {"beta": 0.5}}
    config.optimizer.schedule = "my.schedules:sawtooth"
    with config.optimizer.unlocked():
        config.optimizer.schedule_options.teeth = 5
    config_table.check_run(config)
    check(changed(config, "data.sorce", "x"), "is no field that encoder runs have (is it data.so")

    config = common.get_base_config()
    config.task, config.total_steps = "my.tasks:denoise", 10
    config.noise = {"level": 0.5, "kinds": {"first": "gaussian"}}
    config.optimizer = common.optimizer("lion", 1e-4)
    config.data.path = config.data.validation_path = "x"
    config_table.check_run(config)
    for field, value, words in (
        ("noise.level", math.nan, "noise.level is nan; expected a finite number"),
        ("optimizer.name", "loin", "(is it lion?)"),
        ("nose", 3, "nose is no field that my.tasks:denoise runs have"),
    ):
        check(changed(config.copy_and_resolve_references(), field, value), words)


def test_what_people_write_is_taken():
    config = ffhq.get_config()
    config.objective.progressive_start = None
    config.objective.identity, config.identity = 0.0, ""
    config.edits.shown = ()
    config.encoder.widths, config.encoder.depths = (8, 8, 16, 16), [1, 1, 1, 1]
    config.optimizer.schedule, config.optimizer.options.b1 = "step", 0
    config.optimizer.schedule_options.boundaries = (10, 20)
    config_table.check_run(config)
    config = folder.get_config()
    config_table.check_config(config)  # as eval.py does, which needs no generator


def test_a_batch_is_dealt_evenly():
    config = toy.get_config()
    config_table.check_devices(config, 4)
    with pytest.raises(ValueError, match="is 16 and there are 6 devices; .* of 6, such as 18"):
        config_table.check_devices(config, 6)
    config = toy_generator.get_config()
    config.batch_size = 12
    config_table.check_devices(config, 4)
    with pytest.raises(ValueError, match="12, 6 for each of 2 devices; expected a multiple of 4"):
        config_table.check_devices(config, 2)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("batch_size", 10, "there are 4 devices"),
        ("optimizer.schedule", "cosine", "schedule cosine takes no 'warmup_steps'"),
        ("optimizer.schedule", "exponential", "schedule exponential takes no '"),
        ("total_steps", 50, "warmup_steps is 50 of 50 steps in all; expected fewer"),
        ("dtype", "x", "config.dtype is 'x'"),
    ],
)
def test_nothing_is_built_before(field, value, words, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "TASKS", None)
    with pytest.raises(ValueError, match=words):
        loop.train(changed(toy.get_config(), field, value), str(tmp_path))


@pytest.mark.parametrize(
    "widths, size, kind", [((8, 8, 16, 16), (9, 16), "e4e"), ((1, 1, 1, 1), (8, 8), "psp")]
)
def test_what_the_table_lets_through_is_built(widths, size, kind):
    """Widths below the reduction of squeeze-and-excitation, too: they have one hidden unit."""
    config = EncoderConfig(
        kind=kind, num_styles=4, style_dim=1, image_size=size, coarse=1, middle=2,
        backbone=IRSEConfig(widths=widths, depths=(1, 1, 1, 1)),
    )  # fmt: skip
    codes = jax.eval_shape(
        lambda images: Encoder(config, rngs=nnx.Rngs(0))(images, 3), jnp.zeros((2, *size, 3))
    )
    assert codes.shape == (2, 4, 1)
