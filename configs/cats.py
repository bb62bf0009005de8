"""e4e for cats as published: LSUN cat at 256x256 on the 256x256 StyleGAN2."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "cats"
    config.data.path = "data/lsun_cat_train"
    config.data.validation_path = "data/lsun_cat_test"
    config.generator = "bundles/stylegan2_cat"
    return config
