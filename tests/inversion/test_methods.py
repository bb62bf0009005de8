"""Inversion methods: ours behind one door, and those of others through it."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error

from e4e_jax import api, bundle
from e4e_jax.__main__ import main
from e4e_jax.inversion import refine
from e4e_jax.inversion.contract import Inverted
from e4e_jax.inversion.folder import load_latents
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)


@pytest.fixture(scope="module")
def model():
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    config = EncoderConfig(
        num_styles=6, style_dim=8, image_size=(16, 16), backbone=backbone, coarse=1, middle=2
    )
    encoder = randomize(Encoder(config, rngs=nnx.Rngs(1)))
    encoder.eval()
    return api.Inverter(encoder, randomize(Generator(CONFIG, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def halved(model, images, *, factor: float = 0.5):
    """Half the way from the average code to the encoder's."""
    codes = model.encode(images)
    return Inverted(model.latent_avg + factor * (codes - model.latent_avg))


def broken(model, images):
    return {}["codes"]


NO_INVERSION = np.zeros


def test_the_encoder_alone(model, images):
    found = model.invert(images)
    np.testing.assert_array_equal(found.codes, model.encode(images))
    np.testing.assert_array_equal(found.images, model.synthesize(found.codes))
    assert found.noises is None and found.generators is None


def test_optimisation_behind_it_is_that_of_refine(model, images):
    start = model.encode(images)
    found = model.invert(images, "w_plus", steps=3, learning_rate=0.02)
    expected, _ = refine.optimize_w_plus(
        model.generator, None, images, start, steps=3, learning_rate=0.02
    )
    np.testing.assert_array_equal(found.codes, expected)
    np.testing.assert_array_equal(found.images, model.synthesize(expected))

    found = model.invert(images, "w", steps=3)
    expected, noises, _ = refine.optimize_w(
        model.generator, None, images, start, jax.random.key(0), steps=3
    )
    np.testing.assert_array_equal(found.codes, expected)
    np.testing.assert_array_equal(found.images, model.synthesize(expected, noises=noises))
    assert np.abs(np.asarray(found.images) - model.synthesize(expected)).max() > 1e-3

    found = model.invert(images, "pti", steps=3)
    np.testing.assert_array_equal(found.codes, start)
    for i, generator in enumerate(found.generators):
        drawn = nnx.jit(lambda generator, codes: generator.synthesis(codes))(
            generator, start[i : i + 1]
        )
        assert relative_error(found.images[i : i + 1], drawn) < 1e-5


def test_nothing_is_compiled_again(model, images, caplog):
    def use(images):
        codes = np.asarray(model.invert(images, "w_plus", steps=2).codes)
        model.synthesize(model.edit(codes, "sefa_0=1"))

    use(images)
    with jax.log_compiles():
        use(images[::-1].copy())
        assert not [record for record in caplog.records if "ompil" in record.getMessage()]
        jax.jit(lambda x: x + 1)(0)
        assert "ompil" in caplog.text  # it would have been seen


@pytest.mark.parametrize("method", [halved, f"{__name__}:halved"])
def test_a_method_of_others(method, model, images):
    found = model.invert(images, method, factor=0.25)
    codes = model.encode(images)
    expected = model.latent_avg + 0.25 * (codes - model.latent_avg)
    assert relative_error(found.codes, expected) < 1e-6
    np.testing.assert_array_equal(found.images, model.synthesize(found.codes))


@pytest.mark.parametrize(
    "method, options, sentence",
    [
        ("w_pluss", {}, r"there is no inversion method 'w_pluss' \(is it w_plus\?\)"),
        ("w_plus", {"step": 3}, r"w_plus takes no 'step' \(is it steps\?\); it takes steps, perc"),
        ("w_plus", {"steps": 0}, "steps is 0; expected a whole number, at least 1"),
        ("encoder", {"steps": 3}, "encoder takes no 'steps'; it takes iterations"),
        (f"{__name__}:broken", {}, r"broken failed: KeyError: 'codes' \(test_methods.py, line"),
        (f"{__name__}:NO_INVERSION", {}, "NO_INVERSION failed: TypeError: "),
        (f"{__name__}:CONFIG", {}, "which cannot be called"),
    ],
)
def test_mistakes_are_one_sentence(method, options, sentence, model, images):
    with pytest.raises(ValueError, match=sentence):
        model.invert(images, method, **options)


def test_the_command_takes_methods_of_others(model, tmp_path, capsys):
    networks = {"encoder": model.encoder, "generator": model.generator}
    bundle.save_bundle(tmp_path / "model", "inverter", networks)
    assert main(["toy", str(tmp_path / "faces"), "--count=2", "--size=16"]) == 0
    arguments = ["invert", str(tmp_path / "faces"), str(tmp_path / "out")]
    arguments += [f"--model={tmp_path}/model", f"--method={__name__}:halved"]
    assert main([*arguments, "--options", "factor=0.25"]) == 0
    _, codes = load_latents(tmp_path / "out" / "latents.npz")
    paths = sorted((tmp_path / "faces").iterdir())
    images = np.concatenate([model.read_input(path) for path in paths])
    assert relative_error(codes, model.invert(images, halved, factor=0.25).codes) < 1e-5
    settings = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert settings["method"] == f"{__name__}:halved" and settings["options"] == {"factor": "0.25"}
    capsys.readouterr()
    for flags, sentence in [
        (["--options", "factor=0.5"], "made with options {'factor': '0.25'}, now it is"),
        (["--options", "share=1"], "halved takes no 'share'; it takes factor."),
        (["--options", "factor"], "the option 'factor' is not understood; expected NAME=VALUE."),
        (["--method=w_pluss"], "there is no inversion method 'w_pluss' (is it w_plus?)"),
    ]:
        assert main([*arguments, *flags]) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1, error
