"""How a program runs and ends: one sentence for a mistake, one line for Ctrl-C, and exit codes.

A program's first lines are

    from e4e_jax.runtime import program

    if __name__ == "__main__":
        program.begin("train.py")

and all other imports come below them, so that Ctrl-C is one line while these run, too. Its last
line is `program.end(main())`, and `main` calls `run`.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Modules that take their time are imported where they are needed: until `begin` has been called,
# Ctrl-C shows a stack.

FAILED = 1
# What ends a program, as a shell numbers it.
_SIGNALS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "ended by SIGTERM")}

# Seconds until a program that a signal has reached is ended from outside: one that does not
# notice, since it compiles, say, and one that notices and tidies up.
_UNNOTICED, _TIDYING = 1.0, 10.0

# Seconds within which signals of one kind are one: `timeout` sends each to the process and again
# to its group.
TOGETHER = 0.5


class Failure(Exception):
    """What ends a program with its message, one sentence, and the code `exit_code`."""

    exit_code = FAILED


def run(name: str, body: Callable[[], int | None], *, several_lines: bool = False) -> int:
    """Calls `body`; what is wrong with the user's input becomes one sentence on stderr.

    Args:
      name: of the program, which its messages begin with.
      body: returns the exit code; anything else is 0.
      several_lines: whether messages may have several lines, each of which gets the name.

    Returns:
      The exit code: that of `body`; of `Failure` and `SystemExit`; 1 for ValueError, OSError,
      ImportError and too little memory; 130 for Ctrl-C. Other errors are faults of ours and
      pass as they are.
    """
    try:
        code = body()
        return code if isinstance(code, int) else 0
    except SystemExit as error:
        if isinstance(error.code, str):
            _say(name, error.code)
            return FAILED
        return error.code or 0
    except BaseException as error:
        if _interrupts.received or isinstance(error, KeyboardInterrupt):
            if _interrupts.received:
                return _interrupts.code  # `end` has the last word
            _say(name, str(error) or "interrupted")
            return _SIGNALS[signal.SIGINT][0]
        if isinstance(error, BrokenPipeError):  # `... | head`
            _drop_output()
            return FAILED
        if not (reason := _explain(error)):
            raise
        import logging

        logging.getLogger(__name__).debug("What failed:", exc_info=True)
        for line in reason.splitlines() if several_lines else [reason]:
            _say(name, line)
        return getattr(error, "exit_code", FAILED)


def begin(name: str) -> None:
    """From here on Ctrl-C and SIGTERM end this process with one line and the code 130 or 143.

    They raise KeyboardInterrupt where the main thread is. If it does not get there within a
    second, since it compiles, or tidies up for more than ten, the process is ended; so it is by a
    second signal. Nothing that an interrupted library has to say is shown.
    """
    _interrupts.watch(name)
    if _is_one_of_several(sys.argv, os.environ):
        # Where a host ends, the native libraries of the others have pages to say about it, and we
        # one sentence, see `watch`. JAX reads this when it is imported; 1 is what it leaves to
        # the processes that it starts.
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def end(code: int) -> None:
    """Ends the process with what `run` returned."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    if _interrupts.received:
        _interrupts.end_process()
    _interrupts.ending = True  # a signal now is no error to tidy up after
    sys.exit(code)


@contextlib.contextmanager
def signals_are_taken() -> Iterator[None]:
    """While the block runs, SIGTERM and the first Ctrl-C are its own handlers', not `begin`'s."""
    _interrupts.taken = {signal.SIGTERM: math.inf, signal.SIGINT: 1}
    try:
        yield
    finally:
        _interrupts.taken = {}


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes and threads that are started in the block get no Ctrl-C; this process still does.

    A terminal sends it to all processes, and those that work for this one would each have
    something to say.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Interrupts:
    """The signals of this process, see `begin`.

    Python's own handlers run where the main thread is, once it comes back from native code. A
    thread learns of a signal at once, through a socket, and ends the process if need be.
    """

    def __init__(self):
        self.name = "e4e-jax"
        self.received = False
        self.code, self._text = _SIGNALS[signal.SIGINT]
        self.taken = {}  # signal -> how many of them are left to others
        self.ending = False
        self._noticed = threading.Event()
        self._lost = threading.Event()
        self._once = threading.Lock()
        self._main = threading.main_thread().ident or 0

    def watch(self, name):
        self.name = name
        ours = [n for n in _SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
        for number in ours:  # those that a shell has switched off for a background job stay off
            signal.signal(number, self._notice)
        for hook in ("excepthook", "unraisablehook"):
            setattr(sys, hook, self._silenced(hook, getattr(sys, hook)))
        threading.excepthook = self._silenced("thread", threading.excepthook)

        import socket  # Windows takes no pipe

        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):  # a child's signals are not ours
            os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._wait, args=(reader,), daemon=True).start()

    def end_process(self):
        """Says the line and is gone: what a library does at exit could fail, or wait."""
        if self._once.acquire(blocking=False):
            with contextlib.suppress(OSError, ValueError):
                # A terminal has echoed ^C.
                start = "\n" if sys.stderr.isatty() else ""
                os.write(2, f"{start}{self.name}: {self._text}.\n".encode())
            os._exit(self.code)

    def _notice(self, number, frame):
        """Python's handler, in the main thread."""
        del frame
        self._noticed.set()
        repeated = self.received
        if repeated and time.monotonic() - self._since < TOGETHER:
            return
        self._receive(number)
        if repeated or self.ending:
            self.end_process()
        raise KeyboardInterrupt

    def _receive(self, number):
        if not self.received:
            self.received = True
            self._since = time.monotonic()
            self.code, self._text = _SIGNALS[number]
            if "logging" in sys.modules:
                sys.modules["logging"].disable()

    def _wait(self, reader):
        """The thread: every signal is a byte."""
        ours, last = False, {}
        while data := reader.recv(64):
            for number in data:
                if number not in _SIGNALS or signal.getsignal(number) is signal.SIG_IGN:
                    continue
                now = time.monotonic()
                if now - last.get(number, -math.inf) < TOGETHER:
                    continue
                last[number] = now
                if self.taken.get(number, 0) > 0:
                    self.taken[number] -= 1
                    continue
                if ours:
                    self._receive(number)
                    self.end_process()
                ours = True
                threading.Thread(target=self._end_late, args=(number,), daemon=True).start()

    def _end_late(self, number):
        if self._noticed.wait(_UNNOTICED):
            deadline = time.monotonic() + _TIDYING
            if self._lost.wait(_TIDYING):  # the exception went where nobody can catch it: again
                import ctypes

                self._lost.clear()
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._main), ctypes.py_object(KeyboardInterrupt)
                )
                self._lost.wait(max(deadline - time.monotonic(), 0.0))
        self._receive(number)
        self.end_process()

    def _silenced(self, name, hook):
        def silenced(*details):
            if not self.received:
                hook(*details)
            elif name == "excepthook":
                self.end_process()
            elif name == "unraisablehook" and details[0].exc_type is KeyboardInterrupt:
                self._lost.set()

        return silenced


_interrupts = _Interrupts()


def _is_one_of_several(arguments, environment):
    """Whether this process was probably started as one of several hosts."""
    names = {"COORDINATOR_ADDRESS", "JAX_COORDINATOR_ADDRESS"}
    launched = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return (
        any(a.lstrip("-").startswith("coordinator") for a in arguments)
        or bool(names & environment.keys())
        or any(environment.get(name, "1") != "1" for name in launched)
    )


def _explain(error) -> str | None:
    """What to say of an error that is no fault of ours, else None."""
    text = str(error).strip()
    if isinstance(error, MemoryError):
        return "there is not enough memory" + (f" ({text.rstrip('.')})." if text else ".")
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in text:
        reason = text.removeprefix("RESOURCE_EXHAUSTED:").strip().splitlines()[0]
        return f"there is not enough memory on the device ({reason.rstrip('.')})."
    if isinstance(error, Failure | ValueError | OSError | ImportError):
        return text or type(error).__name__
    return None


def _say(name, text):
    with contextlib.suppress(OSError):
        print(f"{name}: {' '.join(text.split())}", file=sys.stderr)


def _drop_output():
    """Lets the interpreter flush its output at exit without an error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
