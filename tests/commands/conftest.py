"""What the commands are tried on: a tiny random inverter and a few images."""

import numpy as np
import pytest
from flax import nnx
from helpers import randomize
from PIL import Image

from e4e_jax import bundle
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig


@pytest.fixture(scope="session")
def inverter(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "inverter"
    config = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)
    generator = randomize(Generator(config, rngs=nnx.Rngs(0)))
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    config = EncoderConfig(
        num_styles=6, style_dim=8, image_size=(16, 16), backbone=backbone, coarse=1, middle=2
    )
    encoder = randomize(Encoder(config, rngs=nnx.Rngs(1)))
    bundle.save_bundle(path, "inverter", {"encoder": encoder, "generator": generator})
    return path


@pytest.fixture
def images(tmp_path):
    """Six images in two folders: of another size, grey, two that differ in extension alone."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "b.jpg", "more/c.png"):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).save(folder / "large.png")
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(folder / "grey.png")
    return folder
