"""Batch normalisation as PyTorch computes it, synchronised over devices."""

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

    def __init__(self, features, *, axis_name=None, momentum=0.9, epsilon=1e-5):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.axis_name = axis_name
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False

    def __call__(self, x):
        """x [..., features] -> the same shape and type; statistics are float32."""
        values = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._batch_statistics(values)
        factor = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return ((values - mean) * factor + self.bias[...]).astype(x.dtype)

    def _batch_statistics(self, x):
        """Mean and biased variance [features] over all devices; updates the running averages."""
        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        mean = jnp.mean(x, axes)
        # Squares of centred values: the difference of two large means would lose the digits.
        var = jnp.mean(jnp.square(x - mean), axes)
        statistics = checkpoint_name(jnp.stack([mean, var]), STATISTICS)
        mean, var = statistics
        if self.axis_name is not None:
            count *= jax.lax.axis_size(self.axis_name)
            # One exchange, where the mean over all devices and then the variance would be two.
            # Variances around each device's own mean combine as in Chan et al. 1979.
            statistics = jax.lax.all_gather(statistics, self.axis_name, axis=1)
            means, variances = checkpoint_name(statistics, STATISTICS)
            mean = jnp.mean(means, 0)
            var = jnp.mean(variances, 0) + jnp.mean(jnp.square(means - mean), 0)

        unbiased = var * (count / max(count - 1, 1))
        self._update_average(self.mean, mean)
        self._update_average(self.var, unbiased)
        return mean, var

    def _update_average(self, average, value):
        kept = self.momentum * average[...]
        average[...] = kept + (1 - self.momentum) * jax.lax.stop_gradient(value)
