"""The inversion methods by name: ways from images to codes; see `contract.Method`."""

from e4e_jax.runtime.registry import Registry

METHODS = Registry(
    "inversion method",
    {
        "encoder": "e4e_jax.inversion.methods:encoder",
        "w_plus": "e4e_jax.inversion.methods:w_plus",
        "w": "e4e_jax.inversion.methods:w",
        "pti": "e4e_jax.inversion.methods:pti",
    },
)
