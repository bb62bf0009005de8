"""Synthesis of images from codes: python -m benchmarks.synthesis [--cases 1024x1 256x8]."""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.synthesis")

import functools

import numpy as np

from benchmarks import common, peers, sides
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig


def generator_config(resolution: int, small: bool) -> GeneratorConfig:
    if small:
        return GeneratorConfig(resolution, z_dim=16, w_dim=16, mapping_layers=2, channel_max=8)
    return GeneratorConfig(resolution)


def random_codes(config, batch) -> np.ndarray:
    """[B, L, D]."""
    shape = (batch, config.num_styles, config.w_dim)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def make_case(case, flags) -> common.Case:
    resolution, batch = common.sizes(case)
    config = generator_config(resolution, flags.small)
    codes = random_codes(config, batch)
    dtype = sides.compute_dtype(flags.precision)
    network = functools.partial(
        sides.random_module, lambda rngs: Generator(config, dtype=dtype, rngs=rngs)
    )

    def ours():
        return sides.jax_side(network(), lambda g, codes: g.synthesis(codes), "image", codes)

    def pytorch(compiled):
        from benchmarks.torch_reference import stylegan2

        p = stylegan2.torch_parameters(network(), device=sides.torch_device())
        return sides.torch_side(
            lambda codes: stylegan2.synthesis(p, config, codes),
            "image",
            codes,
            precision=flags.precision,
            compiled=compiled,
        )

    def side(synthesis):
        return sides.torch_side(synthesis, "image", codes, precision="float32")

    def nvidia(name, path):
        precision = peers.precision(name, flags.precision, on_gpu=peers.on_gpu())
        return side(peers.nvidia_synthesis(name, path, network(), precision=precision))

    published = {
        "e4e": lambda path: side(peers.e4e_synthesis(path, network())),
        "stylegan2-ada": functools.partial(nvidia, "stylegan2-ada"),
        "stylegan3": functools.partial(nvidia, "stylegan3"),
    }
    builders = common.with_torch(flags, {sides.OURS: ours}, pytorch, published)
    return common.Case(case, batch, builders)


def main(argv=None):
    return common.run("synthesis", __doc__, ["1024x1", "256x8"], make_case, argv, peer=True)


if __name__ == "__main__":
    program.end(program.run("benchmarks.synthesis", main))
