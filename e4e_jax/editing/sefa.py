"""Closed-form factorisation of latent semantics (SeFa; Shen and Zhou 2021, arXiv 2007.06600)."""

import numpy as np

from e4e_jax.models.stylegan2 import Generator


def sefa_directions(generator: Generator, count: int) -> np.ndarray:
    """The directions of w that move the modulation of all convolutions the most.

    These are the eigenvectors of A·Aᵀ with the largest eigenvalues, where A [D, ΣC_in] holds the
    modulation weights of all layers side by side, each column normalised.

    Args:
      generator: any StyleGAN2 generator.
      count: how many directions, at most D.

    Returns:
      [count, D] float32 unit vectors, the strongest first.
    """
    synthesis = generator.synthesis
    weights = np.concatenate(
        [
            np.asarray(layer.modulation.weight[...], np.float64)
            for layers in (synthesis.convs, synthesis.to_rgbs)
            for layer in layers
        ],
        axis=1,
    )  # [D, ΣC_in]
    weights /= np.linalg.norm(weights, axis=0, keepdims=True)
    _, vectors = np.linalg.eigh(weights @ weights.T)  # ascending eigenvalues, in columns
    return vectors[:, ::-1].T[:count].astype(np.float32)
