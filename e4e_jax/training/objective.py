"""What an encoder is trained for: the section `objective` of a config, read and checked.

Needs nothing but Python, as `config_table` does.
"""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from e4e_jax.runtime.registry import perhaps
from e4e_jax.training.registry import LOSSES

# Networks that fields of the config name; the losses of these names look through them.
ROLES = ("perceptual", "identity")
_OF_THE_STEP = ("loss", "discriminator", "stage")  # what else the step reports


@dataclasses.dataclass(frozen=True)
class Term:
    """A term of the objective.

    Attributes:
      name: what the logs call it.
      weight: not 0.
      loss: a name of `LOSSES`, or an import path.
      options: keyword arguments of the loss.
    """

    name: str
    weight: float
    loss: str
    options: Mapping[str, Any]

    @property
    def network(self) -> str | None:
        """What the loss looks through: one of `ROLES`, a bundle, or nothing of its own."""
        return self.options.get("network", self.loss if self.loss in ROLES else None)


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """The objective. configs/common.py has the published numbers.

    Attributes:
      terms: the losses that are on, in the order in which they are added up.
      progressive_start: step that opens the first delta; None opens all from the start.
      progressive_every: steps until the next delta opens.
      r1_gamma, r1_every: gradient penalty of the latent discriminator, and how often.
      w_pool_size: codes kept in each W pool, per device; 0 for none.
    """

    terms: tuple[Term, ...]
    progressive_start: int | None
    progressive_every: int
    r1_gamma: float
    r1_every: int
    w_pool_size: int

    @property
    def weights(self) -> dict[str, float]:
        """name -> weight of the terms."""
        return {term.name: term.weight for term in self.terms}

    @property
    def networks(self) -> tuple[str, ...]:
        """What the losses look through beside the generator: some of `ROLES`, and bundles."""
        return tuple(dict.fromkeys(term.network for term in self.terms if term.network))

    @property
    def is_adversarial(self) -> bool:
        """Whether a discriminator of codes is trained along."""
        return any(term.loss == "adversarial" for term in self.terms)


SETTINGS = tuple(f.name for f in dataclasses.fields(EncoderOptions) if f.name != "terms")


def read_objective(section: Mapping[str, Any]) -> EncoderOptions:
    """The objective that a config's section describes.

    Beside `SETTINGS` it holds terms. One of `LOSSES` is a weight by its name, `l2 = 1.0`; any other
    is a section: `{"loss": a name or an import path, "weight": 0.1}`, where further fields are
    options of the loss, and `"network"` the bundle that it looks through. 0 switches a term off.

    Raises:
      ValueError: a term is neither; in one sentence.
    """
    terms = [_read_term(name, section[name]) for name in section if name not in SETTINGS]
    order = [*LOSSES]
    terms.sort(key=lambda t: (order.index(t.name) if t.name in order else len(order), t.name))
    return EncoderOptions(
        terms=tuple(term for term in terms if term.weight),
        **{name: section[name] for name in SETTINGS},
    )


def _read_term(name: str, value: Any) -> Term:
    field = f"config.objective.{name:.200}"
    if name in LOSSES:
        return Term(name, _weight(field, value), name, {})
    if name in _OF_THE_STEP:
        raise ValueError(f"{field} has a name that logs need; expected another one.")
    if not hasattr(value, "items"):
        raise ValueError(
            f"{field} is no field that encoder runs have{perhaps(name, [*LOSSES, *SETTINGS])}; "
            "expected a loss of the table, or a section with a loss and a weight."
        )
    options = value.to_dict() if hasattr(value, "to_dict") else dict(value)
    loss = options.pop("loss", None)
    if not isinstance(loss, str):
        raise ValueError(
            f"{field}.loss is {loss!r:.80}; expected one of {', '.join(LOSSES)}, or any "
            "package.module:object."
        )
    try:
        LOSSES.check(loss)
    except ValueError as error:
        raise ValueError(f"{field}.loss: {error}") from None
    weight = _weight(f"{field}.weight", options.pop("weight", None))
    network = options.get("network", "x")
    if not isinstance(network, str) or not network:
        raise ValueError(
            f"{field}.network is {network!r:.80}; expected a bundle, or one of {', '.join(ROLES)}."
        )
    return Term(name, weight, loss, options)


def _weight(field, value) -> float:
    known = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or value < 0:
        raise ValueError(f"{field} is {value!r:.80}; expected a number from 0.")
    return float(value)
