"""e4e for faces as published: FFHQ at 256x256 on the 1024x1024 StyleGAN2, tested on CelebA-HQ."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "ffhq"
    config.total_steps = 300_000
    config.data.path = "data/ffhq"
    config.data.validation_path = "data/celeba_hq_test"
    config.generator = "bundles/stylegan2_ffhq"
    config.identity = "bundles/ir_se50"
    config.objective.identity = 0.1
    return config
