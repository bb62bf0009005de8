"""Latent editing consistency (LEC; Tov et al. 2021, arXiv 2102.02766, section 5.2)."""

import jax.numpy as jnp
import numpy as np


def editing_distances(encode, synthesize, codes, edit, undo):
    """How far codes are from themselves after edit, synthesis, encoding and the edit undone.

    Args:
      encode: images as `synthesize` makes them -> codes.
      synthesize: codes -> images of the size that `encode` reads.
      codes: w_plus [B, L, D], what `encode` makes of the images.
      edit: codes -> codes.
      undo: its inverse.

    Returns:
      [B]: Euclidean length of the difference of all layers; less is better.
    """
    returned = undo(encode(synthesize(edit(codes))))
    return jnp.sqrt(jnp.sum(jnp.square(returned - codes), axis=(1, 2)))


def mean_without_outliers(distances) -> float:
    """The mean of the distances from the 1st to the 99th percentile, both included.

    As in the published code, where however it is means of batches that are sorted out.
    """
    distances = np.asarray(distances, np.float64)
    low = np.percentile(distances, 1, method="lower")
    high = np.percentile(distances, 99, method="higher")
    return float(distances[(distances >= low) & (distances <= high)].mean())
