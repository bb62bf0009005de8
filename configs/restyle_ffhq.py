"""ReStyle on e4e for faces as published (Alaluf et al. 2021, arXiv 2104.02699).

Hyperparameters of yuval-alaluf/restyle-encoder: those of e4e, all heads on the last level, and
five passes over each batch, whose gradients add up. Other domains than faces start from a ResNet-34
(config.encoder.backbone = "resnet", depths (3, 4, 6, 3)) and use MoCo for identity; ReStyle on pSp
is config.encoder.kind = "psp" without the adversarial loss and the norm of the deltas.
"""

from ml_collections import ConfigDict

from configs import ffhq


def get_config() -> ConfigDict:
    config = ffhq.get_config()
    config.name = "restyle_ffhq"
    config.total_steps = 500_000
    config.encoder.iterations = 5
    config.encoder.coarse = config.encoder.middle = 18
    return config
