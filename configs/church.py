"""e4e for churches as published: LSUN church at 256x256 on the 256x256 StyleGAN2."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "church"
    config.data.path = "data/lsun_church_train"
    config.data.validation_path = "data/lsun_church_test"
    config.generator = "bundles/stylegan2_church"
    return config
