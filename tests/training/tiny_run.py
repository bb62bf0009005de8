"""A run of train.py that takes seconds: images, networks and a config, all tiny and random."""

import numpy as np
from flax import nnx
from helpers import randomize
from PIL import Image

from e4e_jax import bundle
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.toy.features import ToyFeatures, ToyFeaturesConfig

STEPS = 60
CONFIG = """
from configs import toy


def get_config():
    config = toy.get_config()
    config.batch_size = 4
    config.total_steps = {steps}
    config.log_every = 1
    config.validate_every = 20
    config.checkpoint_every = 10
    config.validation_batch_size = 4
    config.data.source = "folder"
    config.data.path = config.data.validation_path = "{folder}/images"
    config.data.image_size = (8, 8)
    config.data.flip = True
    config.data.num_validation = 6
    config.generator = "{folder}/generator"
    config.perceptual = config.identity = config.encoder.warm_start = "{folder}/features"
    config.encoder.widths, config.encoder.depths = (16, 16, 16, 16), (1, 1, 1, 1)
    config.encoder.coarse, config.encoder.middle = 1, 2
    config.objective.progressive_start = 15
    config.objective.progressive_every = 10
    config.objective.r1_every = 4
    config.objective.w_pool_size = 6
    # Of optax, with a state of other shapes than the parameters.
    config.optimizer.name = "adafactor"
    config.optimizer.options = {{"min_dim_size_to_factor": 16, "momentum": 0.9}}
    config.edits.directions = ""
    config.edits.shown = (("sefa_0", 1.0),)
    return config
"""


def make_folder(path) -> None:
    """Fills a folder: images/ (one is cut), the bundles generator/ and features/, and tiny.py."""
    (path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path / "images" / f"{i}.png")
    # One that training and validation come across, and leave out.
    whole = (path / "images" / "0.png").read_bytes()
    (path / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    config = GeneratorConfig(8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)
    generator = randomize(Generator(config, rngs=nnx.Rngs(0)))
    bundle.save_bundle(path / "generator", "generator", {"generator": generator})
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    features = randomize(
        ToyFeatures(
            ToyFeaturesConfig(embedding_dim=16, image_size=8, backbone=backbone), rngs=nnx.Rngs(0)
        )
    )
    bundle.save_bundle(path / "features", "toy_features", {"toy_features": features})
    (path / "tiny.py").write_text(CONFIG.format(steps=STEPS, folder=path))
