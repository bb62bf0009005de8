"""Every row of the table at its published size, with random weights, from file to numbers.

`pytest -m slow -rP tests/convert_weights/test_full_layouts.py` prints the errors.
"""

import os
import subprocess
import sys

import numpy as np
import published
import published_features as features
import published_nvidia as nvidia
import published_stylegan2 as rosinality
import pytest
import torch
from flax import nnx
from helpers import relative_error

import e4e_jax
from convert_weights.__main__ import main
from e4e_jax import bundle

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fixed_draws():
    torch.manual_seed(0)


def assert_close(actual, expected, tolerance=1e-5):
    error = relative_error(actual, expected)
    print(f"relative error {error:.1e}")
    assert error < tolerance


def random_images(batch, height, width, channels=3):
    shape = (batch, height, width, channels)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def convert(path, checkpoint):
    torch.save(checkpoint, path / "source")
    assert main([str(path / "source"), str(path / "bundle")]) == 0
    return e4e_jax.load(path / "bundle")


def inverter_checkpoint(encoder, decoder, average, **options):
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    options = {"start_from_latent_avg": True} | options
    return {"state_dict": state, "latent_avg": average.repeat(encoder.count, 1), "opts": options}


@pytest.mark.parametrize(
    "kind, resolution, height, encoder_type",
    [
        ("e4e", 256, 256, "Encoder4Editing"),  # horse, church
        ("e4e", 512, 192, "Encoder4Editing"),  # cars
        ("psp", 1024, 256, "GradualStyleEncoder"),
        ("single_w", 256, 256, "SingleStyleCodeEncoder"),
    ],
)
def test_inverters(tmp_path, kind, resolution, height, encoder_type):
    styles = 2 * (resolution.bit_length() - 1) - 2
    encoder = published.randomize(published.Encoder(kind, styles))
    decoder = published.randomize(rosinality.Generator(resolution), 1)
    average = torch.randn(512)
    dataset = "ffhq_encode" if height == 256 else "cars_encode"
    options = {"encoder_type": encoder_type, "dataset_type": dataset}
    model = convert(tmp_path, inverter_checkpoint(encoder, decoder, average, **options))
    images = random_images(1, height, 256)
    with torch.no_grad():
        codes = encoder(to_torch(images)) + average
        expected = decoder(codes).permute(0, 2, 3, 1)
    assert_close(model.encode(images), codes)
    assert_close(model.synthesize(codes.numpy()), expected)


@pytest.mark.parametrize(
    "make, kind, encoder_type",
    [
        (published.Encoder, "e4e", "ProgressiveBackboneEncoder"),
        (published.Encoder, "psp", "BackboneEncoder"),
        (published.ResNetEncoder, "e4e", "ResNetProgressiveBackboneEncoder"),
        (published.ResNetEncoder, "psp", "ResNetBackboneEncoder"),
    ],
)
def test_restyle(tmp_path, make, kind, encoder_type):
    encoder = published.randomize(make(kind, 14, in_channels=6, pyramid=False))
    decoder = published.randomize(rosinality.Generator(256), 1)
    average = torch.randn(512)
    checkpoint = inverter_checkpoint(encoder, decoder, average, encoder_type=encoder_type)
    model = convert(tmp_path, checkpoint)
    images, codes = random_images(1, 256, 256), average.repeat(1, 14, 1)
    found = []
    with torch.no_grad():
        for _ in range(2):
            codes = codes + encoder(torch.cat([to_torch(images), decoder(codes)], 1))
            found.append(codes)
    assert_close(model.encode(images, iterations=1), found[0])
    # Random weights make codes grow from one iteration to the next, and the rounding with them.
    assert_close(model.encode(images, iterations=2), found[1], 1e-4)


def test_the_large_checkpoint_fits_into_two_and_a_half_times_its_size(tmp_path):
    encoder = published.randomize(published.Encoder("e4e", 18))
    decoder = published.randomize(rosinality.Generator(1024), 1)
    options = {"encoder_type": "Encoder4Editing"}
    checkpoint = inverter_checkpoint(encoder, decoder, torch.randn(512), **options)
    torch.save(checkpoint, tmp_path / "e4e.pt")
    code = (  # the kernel's own mark: ru_maxrss would begin at this process's
        "import sys; from convert_weights.__main__ import main\n"
        "code = main(sys.argv[1:])\n"
        "status = open('/proc/self/status').read()\n"
        "print('PEAK', int(status.split('VmHWM:')[1].split()[0]) * 1024); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "e4e.pt"), str(tmp_path / "bundle")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak, size = int(output.split("PEAK")[1]), os.path.getsize(tmp_path / "e4e.pt")
    print(output)
    assert size > 1.1e9 and peak < 2.5 * size

    command = [str(tmp_path / "bundle"), str(tmp_path / "back.pt"), "--to", "pytorch"]
    assert main(command) == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True, mmap=True)["state_dict"]
    for name, tensor in checkpoint["state_dict"].items():
        assert name.endswith("num_batches_tracked") or torch.equal(back[name], tensor), name


def test_rosinality(tmp_path):
    generator = published.randomize(rosinality.Generator(256))
    discriminator = published.randomize(rosinality.Discriminator(256), 1)
    states = {"g_ema": generator.state_dict(), "d": discriminator.state_dict()}
    model = convert(tmp_path, states | {"latent_avg": torch.randn(512)})
    assert_gan_matches(tmp_path / "bundle", model, generator, discriminator)


def test_nvidia(tmp_path):
    generator = nvidia.Generator(256, 512, 2, lambda r: min(16384 // r, 512), clamp=256.0)
    generator = published.randomize(generator)
    discriminator = nvidia.Discriminator(256, lambda r: min(16384 // r, 512), clamp=256.0)
    discriminator = published.randomize(discriminator, 1)
    nvidia.write_pickle(tmp_path / "n.pkl", {"D": discriminator, "G_ema": generator})
    assert main([str(tmp_path / "n.pkl"), str(tmp_path / "bundle")]) == 0
    model = e4e_jax.load(tmp_path / "bundle")
    assert_gan_matches(tmp_path / "bundle", model, generator, discriminator)


def assert_gan_matches(path, model, generator, discriminator):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2, 512)).astype(np.float32)
    images = random_images(2, 256, 256)
    with torch.no_grad():
        w = generator.map(torch.from_numpy(z))
        codes = w[:, None].repeat(1, model.num_styles, 1)
        drawn = generator(codes).permute(0, 2, 3, 1)
        logits = discriminator(to_torch(images))
    assert_close(model.map(z), w)
    assert_close(model.synthesize(codes.numpy()), drawn)
    network = bundle.load_network(path, "discriminator")
    assert_close(nnx.jit(type(network).__call__)(network, images), logits)


@pytest.mark.parametrize(
    "depths, reduction, affine", [((3, 4, 14, 3), 16, True), ((3, 13, 30, 3), None, False)]
)
def test_arcface_and_curricularface(tmp_path, depths, reduction, affine):
    network = published.ArcFace(published.PUBLISHED_WIDTHS, depths, reduction, affine=affine)
    network = published.randomize(network)
    model = convert(tmp_path, network.state_dict())
    images = random_images(2, 112, 112)
    with torch.no_grad():
        expected = network(to_torch(images))
    assert_close(model(images), expected)


def test_moco(tmp_path):
    network = published.randomize(features.ResNet())
    model = convert(tmp_path, features.moco_checkpoint(network))
    images = random_images(2, 256, 256)
    with torch.no_grad():
        expected = network(to_torch(images))
    assert_close(model(images), expected)
