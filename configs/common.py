"""Fields that every config has. Experiments change them in a file of their own."""

import ml_collections
from ml_collections import config_dict


def get_base_config() -> ml_collections.ConfigDict:
    """Loop, data and optimiser fields with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = ""
    config.task = ""
    config.seed = 0
    config.dtype = "float32"  # compute type of convolutions; "bfloat16" on TPU and recent GPUs

    config.batch_size = 8  # of all devices together
    config.total_steps = 0
    config.log_every = 50
    config.validate_every = 2_500
    config.first_picture = 0  # step after which a first picture is drawn, before any validation
    config.checkpoint_every = 2_500
    config.keep_checkpoints = 2  # the newest ones, beside the best by validation
    config.validation_batch_size = 8

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.metrics = ("l2", "lpips", "id", "fid", "swd")  # of eval.py on the held-out images
    # What validation measures, in the same words; None for what the objective looks at.
    evaluation.validation = config_dict.placeholder(tuple)

    config.data = data = ml_collections.ConfigDict()
    data.source = "folder"  # "folder", "tfds", "toy", or package.module:object of one's own
    data.options = ml_collections.ConfigDict()  # of one's own: what it is told
    data.image_size = (256, 256)  # height, width
    data.flip = True
    data.workers = 4  # processes that decode images; 0 for threads of this process
    data.max_bad_images = 100  # files that may fail to decode before the run stops
    data.num_validation = 512
    data.path = data.validation_path = ""  # folder: of training and of held-out images
    data.name = data.split = data.validation_split = data.data_dir = ""  # tfds
    data.num_images = 1_000_000  # toy: size of the endless set's epoch
    data.seed = 0  # toy
    return config


def optimizer(name: str, learning_rate: float, **fields) -> ml_collections.ConfigDict:
    """An optimiser section: "ranger", any of optax by its own name, or package.module:object.

    `options` are the arguments of the optimiser beside its learning rate; `schedule` and
    `schedule_options` see e4e_jax/training/schedules.py.
    """
    section = ml_collections.ConfigDict()
    section.name = name
    section.learning_rate = learning_rate
    section.schedule = "constant"
    section.schedule_options = ml_collections.ConfigDict({
        "begin": config_dict.placeholder(int),
        "warmup_steps": config_dict.placeholder(int),
        "final_fraction": config_dict.placeholder(float),
        "boundaries": config_dict.placeholder(tuple),
        "factor": config_dict.placeholder(float),
        "decay_rate": config_dict.placeholder(float),
        "decay_steps": config_dict.placeholder(int),
    })  # fmt: skip
    section.options = ml_collections.ConfigDict()
    section.update(fields)
    return section


def get_encoder_config() -> ml_collections.ConfigDict:
    """e4e as published: hyperparameters of Tov et al. 2021 (arXiv 2102.02766)."""
    config = get_base_config()
    config.task = "encoder"
    config.total_steps = 200_000

    # Bundles; `python -m convert_weights` makes them of published checkpoints.
    config.generator = "bundles/generator"
    config.generator_class = config_dict.placeholder(int)  # of a class-conditional generator
    config.perceptual = "bundles/lpips_alex"
    config.identity = "bundles/moco"

    # Whose activations the backward pass computes again instead of keeping them, for less memory
    # and more time (python -m benchmarks.train_step --remat): "encoder", "generator" or "all".
    config.remat = "none"

    config.encoder = encoder = ml_collections.ConfigDict()
    encoder.kind = "e4e"  # "e4e", "psp" (a code for every style) or "single_w"
    encoder.backbone = "ir_se"  # "ir" (without squeeze-and-excitation) or "resnet"
    encoder.widths, encoder.depths = (64, 128, 256, 512), (3, 4, 14, 3)  # IR-SE-50
    # Styles from `coarse` and from `middle` on read finer levels of the pyramid; both the number
    # of the generator's styles: no pyramid.
    encoder.coarse, encoder.middle = 3, 7
    encoder.iterations = 1  # more: an iterative encoder (ReStyle) and its passes over an image
    encoder.warm_start = "bundles/ir_se50"  # "" for a random start

    # Weights of the losses that e4e_jax/training/registry.py names; 0 switches one off. Any other
    # is a section: objective.mine = {"loss": "package.module:function", "weight": 0.1}.
    config.objective = objective = ml_collections.ConfigDict()
    objective.l2 = 1.0
    objective.perceptual = 0.8
    objective.identity = 0.5
    objective.adversarial = 0.1
    objective.delta_norm = 2e-4
    objective.w_norm = 0.0  # pSp's on sketches and maps of labels: 0.005
    objective.progressive_start = 20_000
    objective.progressive_every = 2_000
    objective.r1_gamma = 10.0
    objective.r1_every = 16
    objective.w_pool_size = 50

    config.optimizer = optimizer("ranger", 1e-4)
    config.discriminator_optimizer = optimizer("adam", 2e-5)

    config.edits = edits = ml_collections.ConfigDict()
    edits.directions = ""  # a file of directions; SeFa's strongest without one
    edits.shown = (("sefa_0", 3.0), ("sefa_1", 3.0), ("sefa_2", 3.0))
    return config


def get_generator_config() -> ml_collections.ConfigDict:
    """A StyleGAN2 generator of the data's image size (Karras et al. 2020, arXiv 1912.04958)."""
    config = get_base_config()
    config.task = "generator"
    config.evaluation.metrics = ("fid", "kid", "pr", "swd")
    config.batch_size = 32
    config.total_steps = 100_000

    # A generator bundle to go on from, with its discriminator if it has one; "" for a new one.
    config.start = ""
    config.generator = generator = ml_collections.ConfigDict()  # of a new one
    generator.z_dim = generator.w_dim = 512
    generator.mapping_layers, generator.mapping_lr_mul = 8, 0.01
    generator.channel_base, generator.channel_max = 32768, 512
    generator.image_channels = 3  # 1: it draws grey images, and images are looked at in grey

    config.objective = objective = ml_collections.ConfigDict()
    objective.r1_gamma = 1.0
    objective.r1_every = 16
    objective.path_length_weight = 2.0
    objective.path_length_every = 8
    objective.style_mixing = 0.9
    objective.random_noise = True
    objective.augment = ()  # ("color", "translation", "cutout") for a few thousand images or less
    objective.ema_halflife_images = 10_000.0

    config.optimizer = optimizer("adam", 2e-3, options={"b1": 0.0, "b2": 0.99})
    config.discriminator_optimizer = optimizer("adam", 2e-3, options={"b1": 0.0, "b2": 0.99})

    # A bundle (toy/features, or LPIPS): the discriminator looks at its features too; "" for none.
    config.discriminator_features = ""

    config.features = ""  # bundle of the network behind FID; "" for none

    # Of the toy source only: weights of the distance to the face that a code stands for.
    config.supervision = supervision = ml_collections.ConfigDict()
    supervision.l2 = supervision.perceptual = 0.0
    config.fid_samples = 10_000
    return config
