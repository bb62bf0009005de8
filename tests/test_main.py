import json

import pytest

from e4e_jax.__main__ import main


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
