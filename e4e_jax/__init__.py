"""encoder4editing in JAX: invert and edit images with StyleGAN2, and train encoders for it."""

__version__ = "0.1.0"


def load(name, *, dtype=None):
    """Opens a bundle as a model: `encode`, `map`, `synthesize`, as far as it can.

    Args:
      name: a folder that training or conversion wrote, or "toy" for the shipped inverter.
      dtype: compute type of convolutions, such as "bfloat16"; None for float32.

    Returns:
      A `api.Inverter` or `api.GeneratorModel`, or a `api.FeatureModel`, which is called
      with images.

    Raises:
      FileNotFoundError, ValueError: nothing usable is there; in one sentence.
    """
    # Here, so that `import e4e_jax` does not wait for JAX.
    from e4e_jax import api

    return api.load(name, dtype=dtype)
