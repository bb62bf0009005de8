"""The shipped toy generator: StyleGAN2 on the built-in faces at 64x64.

FID 5.8 in toy features after 176,000 images, about 75 minutes on two CPU cores that other work
shared (XLA_FLAGS=--xla_force_host_platform_device_count=2). The discriminator looks at the same
features, which flatters that number.
"""

from configs import common


def get_config():
    config = common.get_generator_config()
    config.name = "toy_generator"
    config.batch_size = 16
    config.total_steps = 11_000
    config.validate_every = 2_500
    config.checkpoint_every = 500
    config.validation_batch_size = 64

    config.data.source = "toy"
    config.data.image_size = (64, 64)
    config.data.flip = False
    config.data.workers = 0
    config.data.num_validation = 10_000

    generator = config.generator
    generator.z_dim = generator.w_dim = 64
    generator.mapping_layers = 4
    generator.channel_base, generator.channel_max = 1024, 64

    objective = config.objective
    objective.r1_gamma = 1.0
    objective.path_length_weight = 0.0
    objective.style_mixing = 0.5
    objective.random_noise = False  # the faces have no detail that is left to chance
    objective.ema_halflife_images = 5_000.0

    for section in (config.optimizer, config.discriminator_optimizer):
        section.learning_rate = 3e-3
        section.schedule = "linear"
        section.schedule_options = {"begin": 7_500, "final_fraction": 0.1}

    config.discriminator_features = config.features = "toy/features"
    return config
