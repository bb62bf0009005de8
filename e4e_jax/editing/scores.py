"""Files of scores: what is known of images, by name or in the order of their codes."""

from collections.abc import Sequence

import numpy as np

from e4e_jax.runtime.files import read_arrays
from e4e_jax.runtime.tables import read_table


def read_scores(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Attribute -> scores [N] in the order of names; NaN where a name has none.

    Args:
      path: a .npz of arrays [N] in this order, or a .csv of columns name, ATTRIBUTE, ... with a
        header.
      names: of the images, [N].

    Raises:
      FileNotFoundError, ValueError: the file is missing, damaged or about other images; in one
        sentence.
    """
    if path.lower().endswith(".npz"):
        scores = read_arrays(path, "scores")
        if not scores:
            raise ValueError(f"{path} has no scores; expected arrays [{len(names)}].")
        for key, values in scores.items():
            if values.shape != (len(names),) or values.dtype.kind not in "biuf":
                raise ValueError(
                    f"{path}: {key} is {values.dtype} of shape {list(values.shape)}; expected "
                    f"numbers of shape [{len(names)}], one for each of the latents."
                )
            if np.isinf(values).any():
                raise ValueError(f"{path}: {key} holds infinity; expected numbers, or NaN.")
        return {key: values.astype(np.float64) for key, values in scores.items()}
    columns, known = read_table(path, "scores")
    if known.keys().isdisjoint(names):
        raise ValueError(
            f"{path} and the latents have no name in common, {next(iter(known))!r} and "
            f"{names[0]!r} for instance."
        )
    table = np.array([known.get(name, [np.nan] * len(columns)) for name in names])
    return dict(zip(columns, table.T, strict=True))
