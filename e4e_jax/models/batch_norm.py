"""Batch normalisation as PyTorch computes it, synchronised over devices."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

# Name of the batch's statistics for `jax.checkpoint`: kept, they are not exchanged again.
STATISTICS = "batch_statistics"


class BatchNorm(nnx.Module):
    """Normalises each channel over all other axes (Ioffe and Szegedy 2015), PyTorch's variant.

    In training a batch is normalised by its biased variance, while the running average takes the
    unbiased one; `flax.nnx.BatchNorm` averages the biased variance. `module.train()` and
    `module.eval()` choose between the batch's and the running statistics.

    Args:
      features: size of the last axis.
      axis_name: named axis of devices whose batches are normalised as one; None for one device.
      momentum: share of the running average that an update keeps (1 − PyTorch's momentum).
      epsilon: added to the variance.
    """

    def __init__(
        self,
        features: int,
        *,
        axis_name: str | None = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
    ):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.axis_name = axis_name
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., features] -> the same shape and type; statistics are float32."""
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            return _normalize(x, scale, bias, self.mean[...], self.var[...], self.epsilon)
        y, mean, var = _normalize_batch(x, scale, bias, self.epsilon, self.axis_name)
        count = _count(x, self.axis_name)
        self._update_average(self.mean, mean)
        self._update_average(self.var, var * (count / max(count - 1, 1)))
        return y

    def _update_average(self, average, value):
        kept = self.momentum * average[...]
        average[...] = kept + (1 - self.momentum) * value


def _normalize(x, scale, bias, mean, var, epsilon):
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)


# The gradients spelled out: the backward pass keeps x alone, in its own type, and reads it twice.
# JAX's own rules keep x and its centred values in float32, and read them five times.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize_batch(x, scale, bias, epsilon, axis_name):
    """Normalises x by the statistics of the batch on all devices.

    Returns:
      The result, and the mean and biased variance [features], which carry no gradient.
    """
    mean, var = _statistics(x, axis_name)
    return _normalize(x, scale, bias, mean, var, epsilon), mean, var


def _forward(x, scale, bias, epsilon, axis_name):
    y, mean, var = _normalize_batch.fun(x, scale, bias, epsilon, axis_name)
    return (y, mean, var), (x, scale, mean, var)


def _backward(epsilon, axis_name, residuals, cotangents):
    """Ioffe and Szegedy 2015, section 3, with sums over all devices."""
    x, scale, mean, var = residuals
    y_grad = cotangents[0].astype(jnp.float32)
    deviation = jax.lax.rsqrt(var + epsilon)
    normalized = (x.astype(jnp.float32) - mean) * deviation
    axes = tuple(range(x.ndim - 1))
    sums = jnp.stack([jnp.sum(y_grad, axes), jnp.sum(y_grad * normalized, axes)])
    bias_grad, scale_grad = sums  # this device's, as those of all parameters
    if not _alone(axis_name):
        sums = jnp.sum(jax.lax.all_gather(sums, axis_name), 0)
    y_mean, product_mean = sums / _count(x, axis_name)
    x_grad = (y_grad - y_mean - normalized * product_mean) * (scale * deviation)
    return x_grad.astype(x.dtype), scale_grad, bias_grad


_normalize_batch.defvjp(_forward, _backward)


def _statistics(x, axis_name):
    """Mean and biased variance [features] of the batch on all devices."""
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    # Squares of centred values: the difference of two large means would lose the digits.
    var = jnp.mean(jnp.square(x - mean), axes)
    statistics = checkpoint_name(jnp.stack([mean, var]), STATISTICS)
    if _alone(axis_name):
        return statistics
    # One exchange, where the mean over all devices and then the variance would be two. Variances
    # around each device's own mean combine as in Chan et al. 1979.
    statistics = jax.lax.all_gather(statistics, axis_name, axis=1)
    means, variances = checkpoint_name(statistics, STATISTICS)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances, 0) + jnp.mean(jnp.square(means - mean), 0)


def _alone(axis_name):
    """Whether there is one device, with which nothing is exchanged: the same numbers for less."""
    return axis_name is None or jax.lax.axis_size(axis_name) == 1


def _count(x, axis_name):
    """Values of each feature in the batch on all devices."""
    count = x.size // x.shape[-1]
    return count if axis_name is None else count * jax.lax.axis_size(axis_name)
