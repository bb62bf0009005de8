"""A watch for losses that are NaN or infinite."""

import math
from collections.abc import Mapping
from typing import Any

from e4e_jax.runtime import program


class NonFiniteLoss(program.Failure, ArithmeticError):
    """A loss is NaN or infinite: going on would only spoil the weights."""


def check_finite(metrics: Mapping[str, Any], step: int) -> None:
    """Raises NonFiniteLoss at the first of `metrics` {name: number} that is NaN or infinite.

    Args:
      metrics: names and values of one step.
      step: its number, for the message.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(f"{name} became {float(value)} at step {step}")
