"""e4e for cars as published: Stanford Cars at 192x256 on the 512x512 StyleGAN2."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "cars"
    config.data.path = "data/cars_train"
    config.data.validation_path = "data/cars_test"
    config.data.image_size = (192, 256)
    config.generator = "bundles/stylegan2_cars"
    return config
