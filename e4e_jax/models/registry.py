"""The networks that there are: classes by name, kinds of bundles that hold them, what is shipped.

What a bundle's file says is looked up here and nowhere else: it may be anybody's, and an import
path in it would run their code.
"""

from e4e_jax.runtime.registry import Registry

# Every network that a bundle can hold. Each is built from its `config`, a frozen dataclass of what
# JSON can hold, with `dtype` and `rngs`, and keeps it as an attribute.
NETWORKS = Registry("network", {
    "encoder": "e4e_jax.models.encoder:Encoder",
    "generator": "e4e_jax.models.stylegan2:Generator",
    "generator_raw": "e4e_jax.models.stylegan2:Generator",
    "discriminator": "e4e_jax.models.discriminator:Discriminator",
    "toy_features": "e4e_jax.toy.features:ToyFeatures",
    "arcface": "e4e_jax.models.arcface:ArcFace",
    "lpips": "e4e_jax.models.lpips:LPIPS",
    "moco": "e4e_jax.models.moco:MoCo",
    "inception": "e4e_jax.models.inception:Inception",
})  # fmt: skip

# The networks of each kind of bundle, and those that it may hold besides: of a generator, which is
# an average over its training, the weights it was averaged from and the discriminator, to train on.
KINDS = {
    "inverter": ("encoder", "generator"),
    "generator": ("generator",),
    "toy_features": ("toy_features",),
    "arcface": ("arcface",),
    "lpips": ("lpips",),
    "moco": ("moco",),
    "inception": ("inception",),
}
OPTIONAL = {"generator": {"generator_raw", "discriminator"}}

# What stands for a path inside the package: bundles, and a file of directions.
SHIPPED = {
    "toy": "toy/bundles/inverter",
    "toy/inverter": "toy/bundles/inverter",
    "toy/generator": "toy/bundles/generator",
    "toy/features": "toy/bundles/features",
    "toy/directions.npz": "toy/bundles/directions.npz",
}
