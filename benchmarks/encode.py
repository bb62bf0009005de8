"""Encoding of images by e4e's IR-SE-50 encoder: python -m benchmarks.encode [--cases 256x8]."""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.encode")

import functools
import math

import numpy as np

from benchmarks import common, peers, sides
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig

SMALL_BACKBONE = IRSEConfig(widths=(8, 8, 12, 16), depths=(1, 1, 1, 1), squeeze_reduction=4)


def encoder_config(side: int, num_styles: int, small: bool) -> EncoderConfig:
    if small:
        return EncoderConfig(
            num_styles=num_styles,
            style_dim=16,
            image_size=(side, side),
            backbone=SMALL_BACKBONE,
            coarse=2,
            middle=4,
        )
    return EncoderConfig(num_styles=num_styles, image_size=(side, side))


def head_convolutions(config: EncoderConfig) -> tuple[int, ...]:
    """Stride-2 convolutions of a head on each level, coarse to fine."""
    return tuple(math.ceil(math.log2(max(config.image_size) / down)) for down in (16, 8, 4))


def random_images(side, batch) -> np.ndarray:
    """[B, side, side, 3] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, side, side, 3)).astype(np.float32)


def make_case(case, flags) -> common.Case:
    side, batch = common.sizes(case)
    config = encoder_config(side, 8 if flags.small else 18, flags.small)
    images = random_images(side, batch)
    dtype = sides.compute_dtype(flags.precision)
    network = functools.partial(
        sides.random_module, lambda rngs: Encoder(config, dtype=dtype, rngs=rngs)
    )

    def ours():
        return sides.jax_side(network(), lambda encoder, x: encoder(x), "codes", images)

    def pytorch(compiled):
        from benchmarks.torch_reference import networks

        form = networks.Encoder(config, head_convolutions(config))
        form = networks.copy_weights(network(), form).eval().to(sides.torch_device())
        return sides.torch_side(form, "codes", images, precision=flags.precision, compiled=compiled)

    def e4e(path):
        encoder = peers.e4e_encoder(path, network())
        return sides.torch_side(encoder, "codes", images, precision="float32")

    builders = common.with_torch(flags, {sides.OURS: ours}, pytorch, {"e4e": e4e})
    return common.Case(case, batch, builders)


def main(argv=None):
    return common.run("encode", __doc__, ["256x8"], make_case, argv, peer=True)


if __name__ == "__main__":
    program.end(program.run("benchmarks.encode", main))
