"""The terms of the encoder's objective: functions of one contract, `Loss`.

`training/registry.py` names them; `config.objective` gives each a weight.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from e4e_jax.training import losses


class Loss(Protocol):
    """A term of the encoder's objective: what is wrong with a batch of inversions, as a number.

    Options that its section in `config.objective` holds are passed on by keyword.

    Args:
      target: the images [B, H, W, 3] in [-1, 1].
      inversion: what the generator draws of the codes, [B, H, W, 3]; not clipped.
      codes: w_plus [B, L, D] of the encoder, `latent_avg` added.
      stage: e4e's progressive stage, a traced int32 scalar: deltas 1 to `stage` are open; L - 1
        where all are.
      networks: frozen ones by name: "generator", "discriminator" (of codes, where the adversarial
        loss is on) and the networks of all terms, such as "perceptual" and "identity".

    Returns:
      A scalar, the mean over these B examples, which are one device's; without the weight.
    """

    def __call__(
        self,
        target: jax.Array,
        inversion: jax.Array,
        codes: jax.Array,
        stage: jax.Array,
        networks: Mapping[str, Any],
        /,
    ) -> jax.Array: ...


def l2(
    target: jax.Array, inversion: jax.Array, codes: jax.Array, stage: jax.Array, networks: Any
) -> jax.Array:
    """Mean squared error of the images."""
    return losses.l2(inversion, target)


def perceptual(
    target: jax.Array,
    inversion: jax.Array,
    codes: jax.Array,
    stage: jax.Array,
    networks: Any,
    *,
    network: str = "perceptual",
) -> jax.Array:
    """Perceptual distance of the images (LPIPS, Zhang et al. 2018, arXiv 1801.03924).

    The network has `features(images)` and `distance(features, features) -> [B]`.
    """
    look = networks[network]
    features = jax.lax.stop_gradient(look.features(target))
    return jnp.mean(look.distance(look.features(inversion), features))


def identity(
    target: jax.Array,
    inversion: jax.Array,
    codes: jax.Array,
    stage: jax.Array,
    networks: Any,
    *,
    network: str = "identity",
) -> jax.Array:
    """1 - cosine similarity of the images' embeddings (ArcFace on faces, MoCo v2 elsewhere).

    The network has `embed(images) -> [B, E]`.
    """
    look = networks[network]
    embedding = jax.lax.stop_gradient(look.embed(target))
    return losses.cosine_identity(look.embed(inversion), embedding)


def adversarial(
    target: jax.Array, inversion: jax.Array, codes: jax.Array, stage: jax.Array, networks: Any
) -> jax.Array:
    """Non-saturating loss of each active layer's code before the latent discriminator.

    With it on, the step trains that discriminator (Tov et al. 2021, section 4.2).
    """
    logits = networks["discriminator"](codes)  # [B, L]
    return losses.active_layers_mean(jax.nn.softplus(-logits), stage)


def delta_norm(
    target: jax.Array, inversion: jax.Array, codes: jax.Array, stage: jax.Array, networks: Any
) -> jax.Array:
    """L2 norms of the active deltas, summed over them (Tov et al. 2021, section 4.1)."""
    return losses.delta_norm(codes, stage)


def w_norm(
    target: jax.Array, inversion: jax.Array, codes: jax.Array, stage: jax.Array, networks: Any
) -> jax.Array:
    """L2 norm of all styles' offsets from the average code (pSp, arXiv 2008.00951, section 3.2)."""
    return losses.w_norm(codes - networks["generator"].latent_avg[...])
