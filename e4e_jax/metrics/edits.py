"""Edits of one strength, as metrics make them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from e4e_jax import api, bundle
from e4e_jax.editing.edits import Edit, Latents
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.written import WrittenEdit
from e4e_jax.models.stylegan2 import Generator, StyleCodes


@dataclasses.dataclass(frozen=True)
class NamedEdit:
    """An edit of one strength.

    Attributes:
      name: as it was written, such as "smile=1".
      edit: what moves the codes.
      strength: in the edit's units.
    """

    name: str
    edit: Edit
    strength: float

    def apply(self, generator: Generator, latents: Latents) -> Latents:
        """The latents after the edit; traceable."""
        return self.edit.apply(generator, latents, self.strength)

    def undo(self, generator: Generator, latents: Latents) -> Latents:
        """The latents before the edit, if it `can_be_undone`; traceable."""
        return self.edit.apply(generator, latents, -self.strength)

    def can_be_undone(self, model: api.GeneratorModel) -> bool:
        """Whether it leads from w_plus to w_plus, and its opposite leads back."""
        codes = model.latent_avg[None]
        edited = self.apply(model.generator, codes)
        if isinstance(edited, StyleCodes):
            return False
        back = self.undo(model.generator, edited)
        if isinstance(back, StyleCodes):
            return False
        difference = jnp.abs(back - codes)
        return bool(jnp.all(difference <= 1e-3 * (1 + jnp.abs(codes))))

    def key(self) -> Any:
        """What the edit does, for the cache; None where only its own code knows."""
        if not type(self.edit).__module__.startswith("e4e_jax."):
            return None
        fields = {name: np.asarray(value).tolist() for name, value in vars(self.edit).items()}
        return {"kind": type(self.edit).__qualname__, "strength": self.strength} | fields


def keys(edits: Sequence[NamedEdit]) -> Any:
    """What some edits do, for the cache; None where one of them is not known."""
    found = [edit.key() for edit in edits]
    return None if None in found else found


def name_edits(
    written: Iterable[WrittenEdit],
    directions: Mapping[str, np.ndarray] | Iterable[str],
    model: api.GeneratorModel,
) -> tuple[NamedEdit, ...]:
    """Edits as on a command line, one for each strength.

    Args:
      written: what `parse_edit` has read.
      directions: by name, or files of them; empty for the model's own.
      model: whose codes move.

    Raises:
      ValueError: there is no such edit; in one sentence.
    """
    named = dict(directions) if isinstance(directions, Mapping) else {}
    for file in () if isinstance(directions, Mapping) else directions:
        named |= load_directions(bundle.resolve(file))
    found = [(edit, model.resolve_edit(edit, named or None)) for edit in written]
    return tuple(
        NamedEdit(f"{edit.label}={strength:g}", resolved, strength)
        for edit, resolved in found
        for strength in edit.strengths
    )
