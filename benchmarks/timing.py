"""Alternating timing: what else the machine does meets every side alike."""

import dataclasses
import statistics
import time
from collections.abc import Callable

# After its work OpenMP's threads spin for some milliseconds, on cores that the next side needs.
_PAUSE = 0.02


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one side's calls, in the order of the rounds."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest call."""
        return min(self.seconds), max(self.seconds)


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `function`, whose work has ended when it returns: its seconds."""

    def run():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return run


def alternate(
    functions: dict[str, Callable[[], float]], *, repeats: int, warmup: int = 1
) -> dict[str, Timing]:
    """Times functions in turns: A, B, A, B, ...

    Args:
      functions: name -> function that returns the seconds it took, see `timed`.
      repeats: timed rounds.
      warmup: rounds before, that are not timed.

    Returns:
      Name -> timing.

    Raises:
      ValueError: fewer than one round.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected at least 1.")
    seconds = {name: [] for name in functions}
    for i in range(warmup + repeats):
        for name, function in functions.items():
            time.sleep(_PAUSE)
            elapsed = function()
            if i >= warmup:
                seconds[name].append(elapsed)
    return {name: Timing(values) for name, values in seconds.items()}
