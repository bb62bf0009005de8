import argparse
import pathlib

import jax.numpy as jnp
import numpy as np
import published
import published_stylegan2 as rosinality
import pytest
import torch
from helpers import relative_error

import e4e_jax
from convert_weights.__main__ import main
from e4e_jax import bundle
from e4e_jax.inversion.invert import synthesize_like

SMALL = {"widths": (4, 8, 12, 16), "depths": (1, 2, 1, 1), "reduction": 4, "convs": (1, 2, 3)}
STYLES, WIDTH = 8, 16


def make_decoder(seed=1):
    """32x32, tapering channels."""
    decoder = rosinality.Generator(32, WIDTH, 3, lambda r: min(256 // r, 16))
    return published.randomize(decoder, seed)


def make_checkpoint(encoder, decoder, average, **options):
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    checkpoint = {"state_dict": state, "opts": {"start_from_latent_avg": True} | options}
    if average is not None:
        # pSp's single-w encoder is trained with one row.
        checkpoint["latent_avg"] = average.repeat(1 if "learn_in_w" in options else STYLES, 1)
    return checkpoint


def convert(checkpoint, path, name="checkpoint.pt"):
    torch.save(checkpoint, path / name)
    assert main([str(path / name), str(path / "bundle"), "--overwrite"]) == 0
    return e4e_jax.load(path / "bundle")


def random_images(height, width, channels=3):
    shape = (2, height, width, channels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def assert_same_state(actual, expected):
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape, name
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(actual[name], tensor.float()), name


@pytest.mark.parametrize(
    "kind, encoder_type, size, options",
    [
        ("e4e", "Encoder4Editing", (32, 32), {"stylegan_size": 32}),
        ("e4e", "Encoder4Editing", (24, 32), {"dataset_type": "cars_encode"}),
        ("psp", "GradualStyleEncoder", (32, 32), {"output_size": 32}),
        ("single_w", "SingleStyleCodeEncoder", (256, 256), {}),
        ("single_w", "BackboneEncoderUsingLastLayerIntoW", (256, 256), {"learn_in_w": True}),
        ("single_w", "WEncoder", (256, 256), {"output_size": 32}),
    ],
)
def test_codes_and_images_match_torch_and_go_back(tmp_path, kind, encoder_type, size, options):
    encoder = published.randomize(published.Encoder(kind, STYLES, **SMALL))
    decoder, average = make_decoder(), torch.randn(WIDTH)
    checkpoint = make_checkpoint(encoder, decoder, average, encoder_type=encoder_type, **options)
    model = convert(checkpoint, tmp_path)
    images = random_images(*size)
    with torch.no_grad():
        codes = encoder(to_torch(images)) + average
        expected = decoder(codes).permute(0, 2, 3, 1)
    assert relative_error(model.encode(images), codes) < 1e-5
    assert relative_error(model.synthesize(codes.numpy()), expected) < 1e-5

    assert main([str(tmp_path / "bundle"), str(tmp_path / "back.pt"), "--to", "pytorch"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert_same_state(back["state_dict"], checkpoint["state_dict"])
    assert torch.equal(back["latent_avg"], checkpoint["latent_avg"])
    assert back["opts"]["encoder_type"] == encoder_type
    again = bundle.load_bundle(convert_again(tmp_path))
    for name, network in again.networks.items():
        assert network.config == getattr(model, name).config


def convert_again(path):
    assert main([str(path / "back.pt"), str(path / "again")]) == 0
    return path / "again"


@pytest.mark.parametrize(
    "kind, encoder_type", [("e4e", "ProgressiveBackboneEncoder"), ("psp", "BackboneEncoder")]
)
@pytest.mark.parametrize("height", [32, 24])
def test_restyle_iterates_as_the_published_loop(tmp_path, kind, encoder_type, height):
    encoder = published.Encoder(kind, STYLES, **SMALL, in_channels=6, pyramid=False)
    encoder, decoder = published.randomize(encoder), make_decoder()
    average = torch.randn(WIDTH)
    dataset = "ffhq_encode" if height == 32 else "cars_encode"
    options = {"encoder_type": encoder_type, "dataset_type": dataset, "input_nc": 6}
    model = convert(make_checkpoint(encoder, decoder, average, **options), tmp_path)
    assert model.iterations == 5

    images = random_images(height, 32)
    codes = average.repeat(2, STYLES, 1)
    band = (32 - height) // 2
    with torch.no_grad():
        for _ in range(3):
            drawn = decoder(codes)[:, :, band : band + height]
            codes = codes + encoder(torch.cat([to_torch(images), drawn], 1))
    assert relative_error(model.encode(images, iterations=3), codes) < 1e-5
    with pytest.raises(ValueError, match="iterations is 0; expected 1 or more"):
        model.encode(images, iterations=0)


@pytest.mark.parametrize(
    "kind, encoder_type, pyramid",
    [
        ("e4e", "ResNetProgressiveBackboneEncoder", False),
        ("psp", "ResNetBackboneEncoder", False),
        ("psp", "ResNetGradualStyleEncoder", True),
    ],
)
def test_restyle_on_a_resnet_matches_torch_and_goes_back(tmp_path, kind, encoder_type, pyramid):
    sizes = {key: SMALL[key] for key in ("widths", "depths", "convs")}
    encoder = published.ResNetEncoder(kind, STYLES, **sizes, pyramid=pyramid)
    encoder, decoder = published.randomize(encoder), make_decoder()
    average = torch.randn(WIDTH)
    checkpoint = make_checkpoint(encoder, decoder, average, encoder_type=encoder_type)
    model = convert(checkpoint, tmp_path)

    images, codes = random_images(32, 32), average.repeat(2, STYLES, 1)
    with torch.no_grad():
        for _ in range(2):
            codes = codes + encoder(torch.cat([to_torch(images), decoder(codes)], 1))
    assert relative_error(model.encode(images, iterations=2), codes) < 1e-5

    assert main([str(tmp_path / "bundle"), str(tmp_path / "back.pt"), "--to", "pytorch"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert_same_state(back["state_dict"], checkpoint["state_dict"])
    assert back["opts"]["encoder_type"] == encoder_type
    again = bundle.load_bundle(convert_again(tmp_path))
    assert again.networks["encoder"].config == model.encoder.config


def test_reconstructions_are_pooled_to_the_encoder_s_size(tmp_path):
    encoder = published.Encoder("e4e", STYLES, **SMALL, in_channels=6, pyramid=False)
    encoder, decoder = published.randomize(encoder), make_decoder()
    options = {"encoder_type": "ProgressiveBackboneEncoder"}
    model = convert(make_checkpoint(encoder, decoder, torch.randn(WIDTH), **options), tmp_path)
    codes = np.random.default_rng(1).normal(size=(2, STYLES, WIDTH)).astype(np.float32)
    drawn = decoder(torch.from_numpy(codes)).detach()
    expected = torch.nn.AdaptiveAvgPool2d(16)(drawn).permute(0, 2, 3, 1)
    # As if the encoder read smaller images than are generated.
    assert relative_error(synthesize_like(model.generator, codes, (16, 16)), expected) < 1e-5


def test_trained_without_the_average(tmp_path):
    encoder = published.randomize(published.Encoder("psp", STYLES, **SMALL))
    options = {"encoder_type": "GradualStyleEncoder", "start_from_latent_avg": False}
    model = convert(make_checkpoint(encoder, make_decoder(), None, **options), tmp_path)
    images = random_images(32, 32)
    with torch.no_grad():
        codes = encoder(to_torch(images))
    assert relative_error(model.encode(images), codes) < 1e-5
    assert float(jnp.abs(model.latent_avg).max()) > 0  # the mean of mapped z
    with pytest.raises(ValueError, match="the encoder is not iterative"):
        model.encode(images, iterations=2)


def test_namespaces_training_state_half_precision_and_the_older_file_layout(tmp_path, capsys):
    encoder = published.randomize(published.Encoder("e4e", STYLES, **SMALL)).half()
    decoder = make_decoder().bfloat16()
    checkpoint = make_checkpoint(encoder, decoder, torch.randn(WIDTH).double())
    checkpoint["opts"] = argparse.Namespace(encoder_type="Encoder4Editing", exp_dir="/root/x")
    checkpoint["optimizer"] = {"state": {0: {"exp_avg": torch.randn(3)}}, "param_groups": [{}]}
    checkpoint["discriminator_state_dict"] = {"mlp.0.weight": torch.randn(2, 2)}
    torch.save(checkpoint, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert main([str(tmp_path / "old.pt"), str(tmp_path / "b")]) == 0
    output = capsys.readouterr().out
    for line in (
        "inverter",
        "e4e encoder of 32x32 images of 3 channels (Encoder4Editing)",
        "StyleGAN2 generator of 32x32 images, 8 styles of 16",
        "left out: 1 tensors, optimiser state",
        "left out: 1 tensors, latent discriminator",
        "left out: 6 tensors, FIR filters",
        "batch counters",
    ):
        assert line in output
    converted = bundle.load_bundle(tmp_path / "b")
    kernel = converted.networks["encoder"].backbone.stem_conv.kernel[...]
    expected = checkpoint["state_dict"]["encoder.input_layer.0.weight"].float()
    np.testing.assert_array_equal(kernel, expected.permute(2, 3, 1, 0))
    assert converted.metadata["options"] == {"encoder_type": "Encoder4Editing"}
    assert converted.metadata["sources"][0]["file"] == "old.pt"
    assert len(converted.metadata["sources"][0]["sha256"]) == 64


def test_a_decoder_without_noise_images_and_names_of_data_parallel(tmp_path, capsys):
    encoder = published.randomize(published.Encoder("e4e", STYLES, **SMALL))
    options = {"encoder_type": "Encoder4Editing"}
    checkpoint = make_checkpoint(encoder, make_decoder(), torch.randn(WIDTH), **options)
    checkpoint["state_dict"] = {
        f"module.{name}" if name.startswith("encoder.") else name: tensor
        for name, tensor in checkpoint["state_dict"].items()
        if not name.startswith("decoder.noises.")
    }
    checkpoint |= {"best_val_loss": torch.tensor(0.5), "global_step": np.int64(3)}
    convert(checkpoint, tmp_path)
    output = capsys.readouterr().out
    assert "'module.' stripped from" in output and "no noise images in the file" in output
    assert "1 tensors, bookkeeping of the training" in output
    assert "noises" in bundle.load_bundle(tmp_path / "bundle").metadata


def test_decoders_of_other_kinds_are_named(tmp_path, capsys):
    encoder = published.randomize(published.Encoder("e4e", STYLES, **SMALL))
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    options = {"encoder_type": "ProgressiveBackboneEncoder", "exp_dir": pathlib.Path("runs")}
    for name, sentence in [
        ("decoder.synthesis.input.weight", "its decoder is a StyleGAN3 generator"),
        ("decoder.synthesis.b4.const", "its decoder is a generator in NVIDIA's names"),
    ]:
        checkpoint = {"state_dict": state | {name: torch.zeros(4, 4)}, "opts": options}
        torch.save(checkpoint, tmp_path / "a.pt")
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b")]) == 1
        assert sentence in capsys.readouterr().err


def test_encoders_that_are_not_here_are_named(tmp_path, capsys):
    encoder = published.randomize(published.Encoder("e4e", STYLES, **SMALL))
    for options, sentence in [
        ({"encoder_type": "SwinEncoder"}, "the encoder is a 'SwinEncoder'"),
        ({"encoder_type": "ResNetBackboneEncoder"}, "no encoder.conv1 of a 'ResNetBackboneEnc"),
        ({}, "the encoder is a None"),
    ]:
        checkpoint = make_checkpoint(encoder, make_decoder(), torch.randn(WIDTH), **options)
        torch.save(checkpoint, tmp_path / "a.pt")
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b")]) == 1
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "b").exists()
    checkpoint["opts"]["encoder_type"] = "Encoder4Editing"
    checkpoint["latent_avg"] = torch.randn(STYLES, WIDTH)
    torch.save(checkpoint, tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "b")]) == 1
    assert "latent_avg differs between styles" in capsys.readouterr().err


@pytest.mark.parametrize(
    "label_nc, reads, found",
    [(1, "grey", "psp encoder of 32x32 grey images"),
     (5, "labels", "psp encoder of 32x32 maps of 5 classes"),
     (3, "labels", "psp encoder of 32x32 maps of 3 classes")],
)  # fmt: skip
def test_what_an_encoder_reads_is_kept_there_and_back(tmp_path, label_nc, reads, found, capsys):
    encoder = published.Encoder("psp", STYLES, **SMALL, in_channels=label_nc)
    options = {"encoder_type": "GradualStyleEncoder", "input_nc": label_nc, "label_nc": label_nc}
    checkpoint = make_checkpoint(encoder, make_decoder(), torch.randn(WIDTH), **options)
    model = convert(checkpoint, tmp_path)
    assert found in capsys.readouterr().out
    assert model.reads == model.encoder.config.reads == reads
    assert main([str(tmp_path / "bundle"), str(tmp_path / "back.pt"), "--to", "pytorch"]) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)["opts"]
    assert (back["input_nc"], back["label_nc"]) == (label_nc, label_nc)
