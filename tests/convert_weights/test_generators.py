import argparse
import dataclasses

import numpy as np
import published
import published_nvidia as nvidia
import published_stylegan2 as rosinality
import pytest
import torch
from flax import nnx
from helpers import randomize, relative_error

import e4e_jax
from convert_weights.__main__ import main
from e4e_jax import bundle
from e4e_jax.api import GeneratorModel
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

WIDTH, LAYERS = 12, 3


def channels(resolution):
    return min(128 // resolution, 16)


def random_batch(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def convert(source, path):
    assert main([str(source), str(path), "--overwrite"]) == 0
    return e4e_jax.load(path)


def assert_generator_matches(model, generator):
    z = random_batch(2, WIDTH)
    codes = random_batch(2, model.num_styles, WIDTH)
    with torch.no_grad():
        assert relative_error(model.map(z), generator.map(torch.from_numpy(z))) < 1e-5
        expected = generator(torch.from_numpy(codes)).permute(0, 2, 3, 1)
    assert relative_error(model.synthesize(codes), expected) < 1e-5


def assert_raw_matches(path, generator):
    """The training weights, beside the average that `load` gives."""
    assert_generator_matches(GeneratorModel(bundle.load_network(path, "generator_raw")), generator)


def assert_discriminator_matches(path, discriminator, resolution):
    network = bundle.load_network(path, "discriminator")
    images = random_batch(4, resolution, resolution, 3)
    with torch.no_grad():
        expected = discriminator(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    logits = nnx.jit(type(network).__call__)(network, images)
    assert relative_error(logits, expected) < 1e-5


def test_rosinality_goes_there_and_back(tmp_path, capsys):
    generator = rosinality.Generator(16, WIDTH, LAYERS, channels)
    generator = published.randomize(generator)
    raw = published.randomize(rosinality.Generator(16, WIDTH, LAYERS, channels), 2)
    discriminator = published.randomize(rosinality.Discriminator(16, channels), 1)
    checkpoint = {
        "g": raw.state_dict(),
        "d": discriminator.state_dict(),
        "g_ema": generator.state_dict(),
        "g_optim": {"state": {0: {"exp_avg": torch.randn(4)}}},
        "d_optim": {"state": {0: {"exp_avg": torch.randn(4)}}},
        "latent_avg": torch.randn(WIDTH),
        "args": argparse.Namespace(size=16, path="faces"),
        "ada_aug_p": 0.1,
    }
    torch.save(checkpoint, tmp_path / "g.pt")
    model = convert(tmp_path / "g.pt", tmp_path / "b")
    output = capsys.readouterr().out
    assert "generator_raw: " in output and "optimiser state" in output
    found = e4e_jax.convert(tmp_path / "g.pt", tmp_path / "library")
    assert found.kind == "generator" and all(line in output for line in found.found)
    descriptions = [bundle.read_description(str(tmp_path / name)) for name in ("library", "b")]
    assert descriptions[0] == descriptions[1]
    np.testing.assert_array_equal(model.latent_avg[3], checkpoint["latent_avg"])
    assert_generator_matches(model, generator)
    assert_raw_matches(tmp_path / "b", raw)
    assert_discriminator_matches(tmp_path / "b", discriminator, 16)

    assert main([str(tmp_path / "b"), str(tmp_path / "back.pt"), "--to", "pytorch"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert set(back) == {"g", "g_ema", "d", "latent_avg"}
    assert torch.equal(back["latent_avg"], checkpoint["latent_avg"])
    for part in ("g", "g_ema", "d"):
        assert set(back[part]) == set(checkpoint[part])
        for name, tensor in checkpoint[part].items():
            assert torch.equal(back[part][name], tensor), name


def test_a_missing_average_is_the_mean_of_mapped_z(tmp_path, capsys):
    generator = rosinality.Generator(16, WIDTH, LAYERS, channels)
    generator = published.randomize(generator)
    torch.save({"g_ema": generator.state_dict()}, tmp_path / "g.pt")
    model = convert(tmp_path / "g.pt", tmp_path / "b")
    assert "computed as the mean of 10,000 mapped z" in capsys.readouterr().out
    with torch.no_grad():
        w = generator.map(torch.randn(10_000, WIDTH))
    spread = w.std(0).max() / 100  # of the mean of 10,000
    assert np.abs(np.asarray(model.latent_avg[0]) - w.mean(0).numpy()).max() < 6 * spread


def test_noise_images_that_a_file_does_not_have_are_drawn_from_a_seed(tmp_path, capsys):
    """As in rosinality's checkpoints from before 2020-01-15."""
    generator = published.randomize(rosinality.Generator(16, WIDTH, LAYERS, channels))
    state = generator.state_dict()
    old = {name: tensor for name, tensor in state.items() if not name.startswith("noises.")}
    checkpoint = {"g": old, "g_ema": old, "latent_avg": torch.randn(WIDTH)}
    torch.save(checkpoint, tmp_path / "old.pt")
    model = convert(tmp_path / "old.pt", tmp_path / "b")
    assert "no noise images in the file" in capsys.readouterr().out
    opened = bundle.load_bundle(tmp_path / "b")
    assert opened.metadata["noises"] == "drawn from seed 0; the source has none"
    noises, raw = (
        [np.asarray(layer.noise[...]) for layer in opened.networks[name].synthesis.convs]
        for name in ("generator", "generator_raw")
    )
    assert [noise.shape for noise in noises] == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    assert 0.8 < np.std(np.concatenate([noise.ravel() for noise in noises])) < 1.2
    for noise, same in zip(noises, raw, strict=True):
        np.testing.assert_array_equal(noise, same)

    # The same numbers every time, in the way back too, and the published network draws with them.
    assert main([str(tmp_path / "b"), str(tmp_path / "back.pt"), "--to", "pytorch"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["g_ema"]
    generator.load_state_dict(back)
    assert_generator_matches(model, generator)

    del state["noises.noise_1"]
    torch.save({"g_ema": state, "latent_avg": torch.randn(WIDTH)}, tmp_path / "torn.pt")
    assert main([str(tmp_path / "torn.pt"), str(tmp_path / "c")]) == 1
    assert "1 missing: g_ema/noises.noise_1" in capsys.readouterr().err


@pytest.mark.parametrize("clamp", [None, 0.8])
def test_nvidia(tmp_path, clamp):
    generator = nvidia.Generator(16, WIDTH, LAYERS, channels, clamp)
    generator = published.randomize(generator)
    discriminator = published.randomize(nvidia.Discriminator(16, channels, clamp), 1)
    raw = published.randomize(nvidia.Generator(16, WIDTH, LAYERS, channels, clamp), 2)
    networks = {"G": raw, "D": discriminator, "G_ema": generator}
    nvidia.write_pickle(tmp_path / "n.pkl", networks)
    model = convert(tmp_path / "n.pkl", tmp_path / "b")
    assert model.generator.config.conv_clamp == clamp
    np.testing.assert_array_equal(model.latent_avg[0], generator.mapping.w_avg)
    assert_generator_matches(model, generator)
    assert_raw_matches(tmp_path / "b", raw)
    assert_discriminator_matches(tmp_path / "b", discriminator, 16)


def test_nvidia_s_multiplier_of_the_mapping_network_is_read(tmp_path, capsys):
    generator = nvidia.Generator(8, WIDTH, LAYERS, channels, mapping_lr_mul=0.3)
    nvidia.write_pickle(tmp_path / "n.pkl", {"G_ema": published.randomize(generator)})
    model = convert(tmp_path / "n.pkl", tmp_path / "b")
    assert model.generator.config.mapping_lr_mul == 0.3
    assert_generator_matches(model, generator)

    generator.mapping.fc1.bias_gain = -1
    nvidia.write_pickle(tmp_path / "n.pkl", {"G_ema": generator})
    assert main([str(tmp_path / "n.pkl"), str(tmp_path / "c")]) == 1
    assert "expected one positive number" in capsys.readouterr().err


def test_nvidia_files_that_cannot_be_converted_are_named(tmp_path, capsys):
    alpha = nvidia.Generator(8, WIDTH, LAYERS, channels, colours=4)
    nvidia.write_pickle(tmp_path / "a.pkl", {"G_ema": alpha})
    assert main([str(tmp_path / "a.pkl"), str(tmp_path / "b")]) == 1
    assert "the images have 4 channels; expected 3, or 1" in capsys.readouterr().err

    networks = {
        "G_ema": nvidia.Generator(8, WIDTH, LAYERS, channels),
        "D": nvidia.Discriminator(8, channels, group_size=8),
    }
    nvidia.write_pickle(tmp_path / "g.pkl", networks)
    assert main([str(tmp_path / "g.pkl"), str(tmp_path / "b")]) == 0
    assert "discriminator with groups of 8" in capsys.readouterr().out
    assert set(bundle.load_bundle(tmp_path / "b").networks) == {"generator"}

    networks["D"] = nvidia.Discriminator(8, channels)
    del networks["D"].b8.skip
    nvidia.write_pickle(tmp_path / "g.pkl", networks)
    assert main([str(tmp_path / "g.pkl"), str(tmp_path / "c")]) == 0
    assert "discriminator of another architecture than resnet" in capsys.readouterr().out


def test_training_weights_are_as_strict_as_their_average(tmp_path, capsys):
    generator = rosinality.Generator(8, WIDTH, LAYERS, channels).state_dict()
    raw = dict(generator)
    del raw["conv1.activate.bias"]
    torch.save({"g": raw, "g_ema": generator}, tmp_path / "g.pt")
    assert main([str(tmp_path / "g.pt"), str(tmp_path / "b")]) == 1
    assert "1 missing: g/conv1.activate.bias" in capsys.readouterr().err
    raw = rosinality.Generator(16, WIDTH, LAYERS, channels).state_dict()
    torch.save({"g": raw, "g_ema": generator}, tmp_path / "g.pt")
    assert main([str(tmp_path / "g.pt"), str(tmp_path / "b")]) == 1
    assert "the generator and its training weights differ in their sizes" in capsys.readouterr().err


def test_an_nvidia_generator_goes_to_rosinality_s_layout(tmp_path, capsys):
    generator = published.randomize(nvidia.Generator(16, WIDTH, LAYERS, channels, 256.0))
    nvidia.write_pickle(tmp_path / "n.pkl", {"G_ema": generator})
    convert(tmp_path / "n.pkl", tmp_path / "b")
    assert main([str(tmp_path / "b"), str(tmp_path / "r.pt"), "--to", "pytorch"]) == 0
    output = capsys.readouterr().out
    assert "left out: the clamp at 256" in output and "not configuration F" in output
    form = rosinality.Generator(16, WIDTH, LAYERS, channels)
    form.load_state_dict(torch.load(tmp_path / "r.pt", weights_only=True)["g_ema"])
    codes = torch.from_numpy(random_batch(2, 6, WIDTH))
    with torch.no_grad():
        assert relative_error(form(codes), generator(codes)) < 1e-5


def test_another_multiplier_of_the_mapping_network_is_scaled_into_its_weights(tmp_path):
    sizes = {"z_dim": WIDTH, "w_dim": WIDTH, "channel_base": 128, "channel_max": 16}
    config = GeneratorConfig(16, mapping_layers=LAYERS, mapping_lr_mul=0.3, **sizes)
    generator = randomize(Generator(config, rngs=nnx.Rngs(0)))
    bundle.save_bundle(tmp_path / "b", "generator", {"generator": generator})
    assert main([str(tmp_path / "b"), str(tmp_path / "r.pt"), "--to", "pytorch"]) == 0
    form = rosinality.Generator(16, WIDTH, LAYERS, channels)
    form.load_state_dict(torch.load(tmp_path / "r.pt", weights_only=True)["g_ema"])
    assert_generator_matches(GeneratorModel(generator), form)


def test_a_discriminator_is_an_optional_part_of_a_generator_bundle(tmp_path):
    generator = rosinality.Generator(8, WIDTH, LAYERS, channels)
    torch.save({"g_ema": generator.state_dict()}, tmp_path / "g.pt")
    convert(tmp_path / "g.pt", tmp_path / "b")
    opened = bundle.load_bundle(tmp_path / "b")
    assert set(opened.networks) == {"generator"}
    with pytest.raises(ValueError, match="A bundle of kind 'arcface'"):
        bundle.save_bundle(tmp_path / "c", "arcface", opened.networks)
    assert dataclasses.asdict(opened.networks["generator"].config)["mapping_layers"] == LAYERS
