"""The discriminator of latent codes (Tov et al. 2021, section 4.2)."""

import jax
from flax import nnx

from e4e_jax.models.layers import TORCH_INITIALIZER


class LatentDiscriminator(nnx.Module):
    """Tells codes of the mapping network from codes of the encoder: w [..., D] -> logits [...].

    Args:
      style_dim: D.
      num_layers: linear layers, leaky ReLU 0.2 between them.
    """

    def __init__(self, style_dim: int = 512, num_layers: int = 4, *, rngs: nnx.Rngs):
        widths = [style_dim] * num_layers + [1]
        self.layers = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=TORCH_INITIALIZER, rngs=rngs)
            for n_in, n_out in zip(widths[:-1], widths[1:], strict=True)
        )

    def __call__(self, w: jax.Array) -> jax.Array:
        *hidden, last = self.layers
        for layer in hidden:
            w = jax.nn.leaky_relu(layer(w), 0.2)
        return last(w)[..., 0]
