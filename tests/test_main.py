import argparse
import json

import pytest

from e4e_jax.__main__ import COMMANDS, main
from e4e_jax.commands import numbers


def test_info_prints_the_json_of_a_bundle(capsys):
    assert main(["info", "toy/generator"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["kind"] == "generator"
    assert description["networks"]["generator"]["resolution"] == 64
    assert description["value_ranges"] == {"images": [-1, 1]}
    assert "jax" in description["versions"]


def test_info_of_no_bundle_is_one_sentence(tmp_path, capsys):
    for path, sentence in [(tmp_path, "is no bundle"), (tmp_path / "none", "there is no")]:
        assert main(["info", str(path)]) == 1
        captured = capsys.readouterr()
        assert sentence in captured.err and captured.err.count("\n") == 1
        assert captured.out == ""


def test_a_command_is_needed(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_every_number_that_a_command_takes_has_a_range():
    for add_command in COMMANDS:
        parser = argparse.ArgumentParser()
        add_command(parser.add_subparsers())
        (commands,) = parser._subparsers._group_actions
        for command in commands.choices.values():
            assert all(a.type in (int, None, str) for a in command._actions)
            numeric = {a.dest for a in command._actions if a.type is int}
            assert numeric <= numbers.RANGES.keys()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["toy", "x", "--count=0"], "--count is 0; expected at least 1."),
        (["toy", "x", "--size=999999999"], "--size is 999999999; expected at most 8,192."),
        (["interpolate", "x", "y", "--frames=1"], "--frames is 1; expected at least 2."),
        (["invert", "x", "y", "--iterations=0"], "--iterations is 0; expected at least 1."),
        (["invert", "x", "y", "--refine=-1"], "--refine is -1; expected at least 0."),
        (["edit", "x", "y", "--edits", "a=1", "--batch_size=0"], "--batch_size is 0; expected at"),
        (["directions", "x.npz", "--samples=-5"], "--samples is -5; expected at least 1."),
        (
            ["mix", "x", "y", "z", "--layers=\u0663-4"],
            "--layers is '\u0663-4'; expected FIRST-LAST",
        ),
        (["mix", "x", "y", "z", "--layers=0-" + "9" * 5000], "expected FIRST-LAST such as 0-3."),
    ],
)
def test_numbers_are_looked_at_first(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
