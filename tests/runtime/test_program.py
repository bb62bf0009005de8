"""How programs end: mistakes in one sentence, signals in one line, wherever they arrive."""

import signal
import subprocess
import sys
import time

import pytest

from e4e_jax.runtime import program

PREAMBLE = """
from e4e_jax.runtime import program
program.begin("demo")
import hashlib, sys, threading, time
def ready():
    print("ready", flush=True)
def rest():  # a signal that comes just before a sleep is noticed after it
    for _ in range(6000):
        time.sleep(0.01)
def native():  # does not come back for minutes, whatever arrives
    hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)
def ready_in_native():
    entered = threading.Event()
    threading.Thread(target=lambda: [entered.wait(), ready()], daemon=True).start()
    sys.setswitchinterval(1000)  # the thread runs once native code has let go of the lock
    entered.set()
    native()
"""


class JaxRuntimeError(RuntimeError):
    """Named as JAX's own is."""


class Odd(program.Failure):
    exit_code = 7


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("x is 3;\n  expected 4."), 1, "demo: x is 3; expected 4.\n"),
        (FileNotFoundError("there is no y."), 1, "demo: there is no y.\n"),
        (OSError(), 1, "demo: OSError\n"),
        (ImportError("needs torch."), 1, "demo: needs torch.\n"),
        (MemoryError(), 1, "demo: there is not enough memory.\n"),
        (MemoryError("1 TiB."), 1, "demo: there is not enough memory (1 TiB).\n"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"), 1,
            "demo: there is not enough memory on the device (Out of memory allocating 9 bytes).\n",
        ),
        (Odd("host 1 ended."), 7, "demo: host 1 ended.\n"),
        (KeyboardInterrupt(), 130, "demo: interrupted\n"),
        (KeyboardInterrupt("Stopped at step 3."), 130, "demo: Stopped at step 3.\n"),
        (SystemExit(2), 2, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("no"), 1, "demo: no\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence_and_a_code(capsys, monkeypatch, error, code, said):
    monkeypatch.setattr(program, "_drop_output", lambda: None)

    def body():
        raise error

    assert program.run("demo", body) == code
    assert capsys.readouterr() == ("", said)


def test_codes_lines_and_faults_of_ours(capsys):
    assert program.run("demo", lambda: None) == program.run("demo", dict) == 0
    assert program.run("demo", lambda: 3) == 3

    def two_lines():
        raise ValueError("there is no a\nthere is no b")

    assert program.run("demo", two_lines, several_lines=True) == 1
    assert capsys.readouterr().err == "demo: there is no a\ndemo: there is no b\n"
    for fault in (TypeError, KeyError, RuntimeError, AssertionError):

        def body(fault=fault):
            raise fault("ours")

        with pytest.raises(fault):
            program.run("demo", body)


@pytest.fixture(autouse=True)
def interrupts():
    """A shell starts what runs in the background with Ctrl-C switched off, and so its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(code):
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


MOMENTS = {
    "while modules load": "ready(); time.sleep(60)",
    "in a program": "program.end(program.run('demo', lambda: [ready(), time.sleep(60)]))",
    "in native code": "program.end(program.run('demo', ready_in_native))",
    "where it is caught": """
def body():
    ready()
    try:
        time.sleep(60)
    except BaseException as error:
        raise RuntimeError("of a library") from error
program.end(program.run("demo", body))
""",
    "where it is swallowed": """
def body():
    ready()
    for seconds in (60, 1):
        try:
            time.sleep(seconds)
        except BaseException:
            pass
program.end(program.run("demo", body))
""",
    "where nobody can catch it": """
class Slow:
    def __del__(self):
        time.sleep(0.2)
def body():
    ready()
    while True:
        Slow()
program.end(program.run("demo", body))
""",
    "while threads end": """
threading.Thread(target=lambda: [time.sleep(0.2), ready(), time.sleep(60)]).start()
program.end(program.run("demo", lambda: None))
""",
    "with threads that go on": """
def fail():
    while not program._interrupts.received:
        time.sleep(0.01)
    raise ValueError("since others end")
def body():
    threading.Thread(target=fail).start()
    threading.Thread(target=time.sleep, args=(60,)).start()
    ready()
    try:
        time.sleep(60)
    finally:
        time.sleep(1)
program.end(program.run("demo", body))
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_is_one_line_and_code_130(moment):
    process = start(MOMENTS[moment])
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output, errors) == (130, "", "demo: interrupted.\n")


def test_a_program_tidies_up_and_a_second_interrupt_does_not_wait():
    code = """
def body():
    try:
        ready()
        rest()
    finally:
        print("tidied", flush=True)
        {then}
program.end(program.run("demo", body))
"""
    for then in ("pass", "rest()", "native()"):
        process = start(code.format(then=then))
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "tidied\n"
        if then != "pass":
            time.sleep(program.TOGETHER + 0.1)
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
        assert (process.returncode, output, errors) == (130, "", "demo: interrupted.\n")


@pytest.mark.parametrize("native", [False, True])
def test_sigterm_tidies_up_too_and_twice_at_once_is_once(native):
    """`timeout` sends it to the process, and again to its group."""
    code = """
program.TOGETHER = 60
def body():
    try:
        ready_in_native() if NATIVE else [ready(), rest()]
    finally:
        time.sleep(0.2)
        print("tidied")
program.end(program.run("demo", body))
"""
    process = start(code.replace("NATIVE", str(native)))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (143, "demo: ended by SIGTERM.\n")
    assert output == ("" if native else "tidied\n")


def test_signals_that_a_block_takes_are_left_to_it():
    code = """
import signal
got = []
before = signal.signal(signal.SIGTERM, lambda *_: got.append("term"))
with program.signals_are_taken():
    ready()
    for number in (1, 2):
        while len(got) < number:
            time.sleep(0.01)
        print(number, flush=True)
    time.sleep(1.5)  # longer than an unnoticed signal is waited for
signal.signal(signal.SIGTERM, before)
print("went on", flush=True)
program.end(program.run("demo", lambda: time.sleep(60)))
"""
    process = start(code)
    for number in (1, 2):
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{number}\n"
        time.sleep(program.TOGETHER + 0.1)
    assert process.stdout.readline() == "went on\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143


def test_what_is_started_for_the_program_gets_no_interrupt():
    with program.without_interrupts():
        command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(1)"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 0
    process.stdout.close()
