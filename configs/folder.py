"""e4e on a folder of your own images and your own generator (see folder_generator.py).

python train.py --config=configs/folder.py --config.data.path=IMAGES \
    --config.data.validation_path=HELD_OUT_IMAGES --config.generator=GENERATOR_BUNDLE

Without weights of LPIPS and MoCo at hand, train on L2 and the adversarial loss alone:
--config.objective.perceptual=0 --config.objective.identity=0 --config.encoder.warm_start=''
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "folder"
    config.generator = ""
    return config
