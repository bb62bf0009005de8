"""A generator of one's own domain, from a folder of square images.

python train.py --config=configs/folder_generator.py --config.data.path=IMAGES \
    --config.data.validation_path=HELD_OUT_IMAGES --config.data.image_size='(256, 256)'

Grey images are learned as RGB, as all images are read; --config.generator.image_channels=1 makes a
generator of one channel, and its discriminator, of them.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_generator_config()
    config.name = "folder_generator"
    config.objective.augment = ("color", "translation", "cutout")
    return config
