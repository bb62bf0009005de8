"""The finders of directions by name: ways from a generator to its edits; see `finders.Finder`."""

from e4e_jax.runtime.registry import Registry

FINDERS = Registry(
    "finder of directions",
    {
        "interfacegan": "e4e_jax.editing.finders:interfacegan",
        "ganspace": "e4e_jax.editing.finders:ganspace",
        "sefa": "e4e_jax.editing.finders:sefa",
        "stylespace": "e4e_jax.editing.finders:stylespace",
    },
)
