"""The shipped toy features: an IR-SE that reads the eleven factors of the built-in faces."""

import ml_collections
from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_base_config()
    config.name = "toy_features"
    config.task = "features"
    config.batch_size = 32
    config.total_steps = 2_000
    config.validate_every = config.checkpoint_every = 500
    config.validation_batch_size = 64

    config.data.source = "toy"
    config.data.image_size = (64, 64)
    config.data.flip = False
    config.data.workers = 0

    config.features = ml_collections.ConfigDict()
    config.features.network = "toy_features"  # of e4e_jax/models/registry.py
    config.features.embedding_dim = 128
    config.features.widths, config.features.depths = (16, 32, 64, 128), (1, 2, 2, 1)

    config.optimizer = common.optimizer(
        "adam", 2e-3, schedule="warmup_cosine", schedule_options={"warmup_steps": 100}
    )
    return config
