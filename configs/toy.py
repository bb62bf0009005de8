"""The default: e4e on the built-in faces, with the shipped generator and features."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_encoder_config()
    config.name = "toy"
    config.batch_size = 16
    config.total_steps = 1_000
    config.log_every = 10
    config.first_picture = 30
    config.validate_every = 400
    config.checkpoint_every = 400
    config.validation_batch_size = 16

    config.data.source = "toy"
    config.data.image_size = (64, 64)
    config.data.flip = False  # faces are mirrored by their yaw; the parting of the hair is not
    config.data.workers = 0

    config.generator = "toy/generator"
    config.perceptual = config.identity = config.encoder.warm_start = "toy/features"
    config.encoder.widths, config.encoder.depths = (16, 32, 64, 128), (1, 2, 2, 1)

    config.objective.l2 = 2.0
    config.objective.identity = 0.5
    # All deltas are open from step 120 on: with the last one at step 320, R² of age was 0.02 lower.
    config.objective.progressive_start = 40
    config.objective.progressive_every = 10
    # Not Ranger: at so few steps Adam with warm-up is the safe choice; the two were not compared.
    config.optimizer = common.optimizer(
        "adam",
        2e-3,
        schedule="warmup_cosine",
        schedule_options={"warmup_steps": 50, "final_fraction": 0.02},
    )
    config.discriminator_optimizer.learning_rate = 1e-4

    config.evaluation.metrics = (
        "l2", "ms_ssim", "perceptual@toy/features", "id@toy/features", "fid@toy/features", "swd",
        "lec", "factors@toy/features", "time",
    )  # fmt: skip
    config.edits.directions = "toy/directions.npz"
    config.edits.shown = (("smile", 1.0), ("glasses", 1.0), ("age", 0.6))
    return config
