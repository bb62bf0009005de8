"""Sides in processes of their own: what one allocates or sets up changes nothing for another."""

import contextlib
import gc
import multiprocessing
import traceback

from benchmarks import machine, sides, timing
from e4e_jax.runtime import tuning

SETTINGS = ("own", "all", "none")


class WorkerError(RuntimeError):
    """A side could not be built or run."""


class Worker:
    """One side of a case, built in a new process.

    Attributes:
      results, compile_seconds, compiled, counted: as those of `sides.Side`.
    """

    def __init__(self, make_case, case: str, side: str, flags):
        """Starts the process and waits until the side is ready.

        Args:
          make_case: (name of a case, flags) -> `common.Case`; a function of a module.
          case: its name.
          side: one of its builders.
          flags: of the command line.

        Raises:
          WorkerError: the side could not be built.
        """
        context = multiprocessing.get_context("spawn")
        self._name = f"{side} of {case}"
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, make_case, case, side, flags)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.results, self.compile_seconds, self.compiled, self.counted = self._receive()

    def run(self) -> float:
        """One call; returns its seconds."""
        return self._ask("run")

    def peak_bytes(self) -> int:
        """The peak of memory in the calls so far, see `machine.PeakMemory`."""
        return self._ask("peak")

    def close(self) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()

    def _ask(self, what):
        with contextlib.suppress(BrokenPipeError):  # which `_receive` reports
            self._pipe.send(what)
        return self._receive()

    def _receive(self):
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerError(
                f"the process of {self._name} ended with exit code {self._process.exitcode}"
                + (": was memory short?" if self._process.exitcode == -9 else ".")
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(pipe, make_case, case, side, flags):
    """The program of the process: builds, then answers until the other end is closed."""
    try:
        if is_tuned(side, flags.settings):
            tuning.tune(memory_first=flags.training)
        sides.set_precision(flags.precision)
        memory = machine.PeakMemory()
        built = make_case(case, flags).builders[side]()
        pipe.send((built.results, built.compile_seconds, built.compiled, built.counted))
        built.results.clear()  # only the comparison needs them
        gc.collect()
        if flags.training and is_tuned(side, flags.settings):
            tuning.settle_memory()
        memory.start()
        run = timing.timed(built.run)
        answers = {"run": run, "peak": lambda: memory.read(torch_side=sides.is_torch(side))}
        while True:
            pipe.send(answers[pipe.recv()]())
    except EOFError:
        pass  # nobody asks any more
    except Exception as error:
        known = isinstance(error, (ValueError, OSError))
        pipe.send(WorkerError(f"{error}" if known else f"{side}: {traceback.format_exc()}"))


def is_tuned(side: str, settings: str) -> bool:
    """Whether the process of a side gets what `e4e_jax.runtime.tuning` sets.

    Args:
      side: its name.
      settings: "own" (ours does, as our programs do, and PyTorch does not), "all" or "none".
    """
    return settings == "all" or (settings == "own" and not sides.is_torch(side))
