"""Small pieces that several networks share: equalised layers and activations."""

import math

import jax
import jax.numpy as jnp
from flax import nnx


def leaky_relu(x):
    """StyleGAN2's activation: leaky ReLU of slope 0.2, scaled by √2 to keep the variance."""
    return jax.nn.leaky_relu(x, 0.2) * math.sqrt(2.0)


def normalize_second_moment(x, epsilon=1e-8):
    """Divides each vector of the last axis by its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)


class EqualLinear(nnx.Module):
    """Linear layer with an equalised learning rate (Karras et al. 2018, section 4.1).

    Weights are stored as N(0, 1) / lr_mul and scaled at run time by lr_mul / √in_features, so
    that every layer moves at the same relative speed under Adam.

    Args:
      in_features, out_features: sizes of the last axis of input and output.
      lr_mul: learning-rate multiplier; 0.01 in StyleGAN2's mapping network.
      bias_init: the bias as the layer sees it (1 for modulation, 0 elsewhere).
    """

    def __init__(self, in_features, out_features, *, lr_mul=1.0, bias_init=0.0, rngs: nnx.Rngs):
        weight = jax.random.normal(rngs.params(), (in_features, out_features)) / lr_mul
        self.weight = nnx.Param(weight)  # [in, out]
        self.bias = nnx.Param(jnp.full((out_features,), bias_init / lr_mul))
        self.lr_mul = lr_mul

    def __call__(self, x):
        """x [..., in] -> [..., out], in float32: styles and statistics keep full precision."""
        scale = self.lr_mul / math.sqrt(self.weight.shape[0])
        return x @ (self.weight[...] * scale) + self.bias[...] * self.lr_mul
