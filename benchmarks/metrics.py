"""Feature networks of the metrics: python -m benchmarks.metrics [--cases inception-256x8 ...]."""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.metrics")

import functools

import numpy as np

from benchmarks import common, sides
from benchmarks.encode import SMALL_BACKBONE, random_images
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig
from e4e_jax.models.inception import Inception, InceptionConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.lpips import LPIPS, LPIPSConfig

NETWORKS = ("inception", "lpips", "arcface")


def make_case(case, flags) -> common.Case:
    name, _, size = case.partition("-")
    if name not in NETWORKS:
        raise ValueError(f"case is {case!r}; expected NETWORK-SIDExBATCH of {', '.join(NETWORKS)}.")
    side, batch = common.sizes(size)
    images = random_images(side, batch)
    arrays = (images, np.ascontiguousarray(images[:, ::-1])) if name == "lpips" else (images,)
    inception_size = 75 if flags.small else 299
    backbone = SMALL_BACKBONE if flags.small else IRSEConfig.ir_se_50()
    dtype = sides.compute_dtype(flags.precision)
    constructors = {
        "inception": functools.partial(Inception, InceptionConfig(inception_size)),
        "lpips": functools.partial(LPIPS, LPIPSConfig()),
        "arcface": functools.partial(ArcFace, ArcFaceConfig(backbone, image_size=side)),
    }

    def network():
        return sides.random_module(lambda rngs: constructors[name](dtype=dtype, rngs=rngs))

    def ours():
        return sides.jax_side(network(), lambda network, *x: network(*x), "features", *arrays)

    def pytorch(compiled):
        from benchmarks.torch_reference import inception, networks

        if name == "inception":
            form = inception.Inception(inception_size)
        elif name == "lpips":
            form = networks.LPIPS("alex")
        else:
            form = networks.ArcFace(backbone, 512, side=-(-side // 16))
        form = networks.copy_weights(network(), form).eval().to(sides.torch_device())
        return sides.torch_side(
            form, "features", *arrays, precision=flags.precision, compiled=compiled
        )

    builders = common.with_torch(flags, {sides.OURS: ours}, pytorch)
    return common.Case(case, batch, builders)


def main(argv=None):
    default = ["inception-256x8", "lpips-256x8", "arcface-112x8"]
    return common.run("metrics", __doc__, default, make_case, argv)


if __name__ == "__main__":
    program.end(program.run("benchmarks.metrics", main))
