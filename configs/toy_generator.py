"""The shipped toy generator: StyleGAN2 on the built-in faces at 64x64.

The source knows what its faces show, so a code is tied to a face (`supervision`): beside the
adversarial loss its image is compared with that face. FID 0.40 in toy features after 80,000 images,
about 45 minutes on two CPU cores that other work shared
(XLA_FLAGS=--xla_force_host_platform_device_count=2). The adversarial loss alone came to 5.8 after
176,000 images, with style mixing, z of 64 and the usual slow mapping network. Supervision
and discriminator look at the same features, which flatters both numbers.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_generator_config()
    config.name = "toy_generator"
    config.batch_size = 16
    config.total_steps = 5_000
    config.validate_every = 2_500
    config.checkpoint_every = 500
    config.validation_batch_size = 64

    config.data.source = "toy"
    config.data.image_size = (64, 64)
    config.data.flip = False
    config.data.workers = 0
    config.data.num_validation = 10_000

    generator = config.generator
    # Of z the eleven factors should be a large part, and they are learned through the mapping.
    generator.z_dim, generator.w_dim = 24, 64
    generator.mapping_layers, generator.mapping_lr_mul = 4, 1.0
    generator.channel_base, generator.channel_max = 1024, 64

    objective = config.objective
    objective.r1_gamma = 1.0
    objective.path_length_weight = 0.0
    objective.style_mixing = 0.0  # supervision ties a code to one face
    objective.random_noise = False  # the faces have no detail that is left to chance
    objective.ema_halflife_images = 5_000.0

    config.optimizer.options.b1, config.optimizer.learning_rate = 0.9, 1e-2
    config.discriminator_optimizer.learning_rate = 3e-3
    for section in (config.optimizer, config.discriminator_optimizer):
        section.schedule = "linear"
        section.schedule_options.update(begin=2_000, final_fraction=0.02)

    config.discriminator_features = config.features = "toy/features"
    config.evaluation.metrics = ("fid@toy/features", "kid@toy/features", "pr@toy/features", "swd")
    config.supervision.l2, config.supervision.perceptual = 300.0, 20.0
    return config
