"""Flags of the two programs: their own config and another, and what is said of bad ones."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from configs.command_line import define_config, read_flags

ROOT = pathlib.Path(__file__).parents[1]


def fails(program, *flags):
    """The one line that a program writes before it ends with exit code 1."""
    command = [sys.executable, ROOT / program, *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
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


@pytest.mark.parametrize(
    "text, words",
    [
        ("def get_config():\n    return undefined\n", "line 2: NameError: name 'undefined' is not"),
        ("def get_config(:\n", "line 1: SyntaxError"),
        ("x = 1\n", "has no function get_config()"),
        ("def get_config():\n    return 3\n", "gives no ConfigDict"),
        (
            "from configs import toy\ndef get_config():\n    return toy.get_config().typo.x\n",
            "line 3: AttributeError",
        ),
        (None, "which is no file; expected a config's"),
    ],
)
def test_mistakes_in_a_config_are_placed(text, words, tmp_path, monkeypatch):
    path = tmp_path / "odd.py"
    if text is None:
        os.mkfifo(path)  # nothing would ever be read from it
    else:
        path.write_text(text)
    given = ["train.py", f"--config={path}"]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # else the last one goes on
    values = flags.FlagValues()
    define_config("What to train", values)
    with pytest.raises(ValueError) as caught:
        read_flags(given, values)
    assert words in str(caught.value) and "\n" not in str(caught.value)
