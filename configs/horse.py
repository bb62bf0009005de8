"""e4e for horses as published: LSUN horse at 256x256 on the 256x256 StyleGAN2."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "horse"
    config.data.path = "data/lsun_horse_train"
    config.data.validation_path = "data/lsun_horse_test"
    config.generator = "bundles/stylegan2_horse"
    return config
