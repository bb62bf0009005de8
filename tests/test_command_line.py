"""Flags of the two programs: their own config and another, and what is said of bad ones."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def fails(program, *flags):
    """The one line that a program writes before it ends with exit code 1."""
    command = [sys.executable, ROOT / program, *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(program)]
    return line


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
@pytest.mark.parametrize("config", [(), ("--config=configs/ffhq.py",)])
def test_a_misspelt_field(program, config):
    message = fails(program, *config, "--config.batchsize=3")
    assert message.startswith(f'{program}: the config has no field batchsize. Did you mean "batch_')
    message = fails(program, *config, "--config.optimizer.momentum=3")
    assert message.startswith(f"{program}: the config has no field momentum.")


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--config=configs/nothing.py", "No such file or directory: 'configs/nothing.py'"),
        ("--config.batch_size=four", "invalid literal"),
        ("--config.name.first=x", "does not fit the config"),
        ("--batch=3", "Unknown command line flag 'batch'"),
    ],
)
def test_other_bad_flags(flag, words):
    assert words in fails("train.py", flag)
