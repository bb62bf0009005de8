"""Every tensor is used once or left out by rule; DST appears whole or not at all."""

import re

import numpy as np
import published
import published_stylegan2 as rosinality
import pytest
import torch

from convert_weights import export
from convert_weights.__main__ import main
from e4e_jax import bundle


def generator_state(seed=0):
    generator = rosinality.Generator(8, 6, 2, lambda r: 4)
    return published.randomize(generator, seed).state_dict()


def fails(capsys, *arguments):
    """The one sentence on the screen."""
    assert main([str(argument) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("convert_weights: ") and error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_all_that_is_wrong_is_listed(tmp_path, capsys):
    state = generator_state()
    del state["conv1.activate.bias"], state["to_rgbs.0.conv.weight"]
    state["convs.0.noise.weight"] = torch.zeros(2)
    state["convs.1.activate.bias"] = torch.zeros(4, dtype=torch.int32)
    state["to_rgbs.0.upsample.kernel"] = torch.ones(4, 4)
    state["a.b"], state["convs.9.x"] = torch.zeros(1), torch.zeros(1)
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    error = fails(capsys, tmp_path / "g.pt", tmp_path / "b")
    for part in (
        "g.pt: 2 missing: g_ema/conv1.activate.bias, g_ema/to_rgbs.0.conv.weight",
        "2 unexpected: g_ema/a.b, g_ema/convs.9.x",
        "3 misshapen:",
        "g_ema/convs.0.noise.weight is float32 [2], expected floats [1]",
        "g_ema/convs.1.activate.bias is int32 [4], expected floats [4]",
        "g_ema/to_rgbs.0.upsample.kernel is not the [1, 3, 3, 1] filter",
    ):
        assert part in error
    assert not (tmp_path / "b").exists()


def test_a_tensor_that_sizes_are_read_from_is_named_when_missing(tmp_path, capsys):
    for name in ("conv1.conv.weight", "convs.0.conv.weight", "style.1.weight"):
        state = generator_state()
        del state[name]
        torch.save({"g_ema": state}, tmp_path / "g.pt")
        error = fails(capsys, tmp_path / "g.pt", tmp_path / "b")
        assert f"g_ema/{name}" in error and "missing" in error


def test_channels_that_no_configuration_has(tmp_path, capsys):
    wide = rosinality.Generator(16, 6, 2, {4: 4, 8: 2, 16: 4}.get)
    torch.save({"g_ema": wide.state_dict()}, tmp_path / "g.pt")
    error = fails(capsys, tmp_path / "g.pt", tmp_path / "b")
    assert "has channels {4: 4, 8: 2, 16: 4}" in error


def test_unknown_contents_and_wrong_formats(tmp_path, capsys):
    torch.save({"a": torch.zeros(2), "b": 3}, tmp_path / "a.pt")
    error = fails(capsys, tmp_path / "a.pt", tmp_path / "b")
    assert "its 1 tensors (a, ...) are of no layout that is known" in error
    error = fails(capsys, tmp_path / "a.pt", tmp_path / "b", "--format", "rosinality")
    assert "there is no g_ema/convs.0.conv.weight" in error
    assert "mean, comp and std" in fails(
        capsys, tmp_path / "a.pt", tmp_path / "b", "--format", "directions"
    )
    for name, content, sentence in [
        ("text.pt", b"hello", "it begins with b'hello'"),
        ("empty.pt", b"", "it is empty; download it again"),
        ("none.pt", None, "cannot be opened: No such file"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert sentence in fails(capsys, tmp_path / name, tmp_path / "b")
    assert "a folder; give a file of it, 'a.pt'" in fails(capsys, tmp_path, tmp_path / "b")


def test_an_existing_destination_is_kept(tmp_path, capsys):
    torch.save({"g_ema": generator_state()}, tmp_path / "g.pt")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    source, destination = tmp_path / "g.pt", tmp_path / "b"
    assert "exists already" in fails(capsys, source, destination)
    assert "it is no bundle" in fails(capsys, source, destination, "--overwrite")
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"
    assert "is a source" in fails(capsys, source, source, "--overwrite")

    assert main([str(source), str(tmp_path / "c")]) == 0
    torch.save({"g_ema": generator_state(1)}, source)
    assert main([str(source), str(tmp_path / "c"), "--overwrite"]) == 0
    kernel = bundle.load_network(tmp_path / "c", "generator").synthesis.constant[...]
    expected = generator_state(1)["input.input"][0].permute(1, 2, 0)
    np.testing.assert_array_equal(kernel, expected)


def test_a_failed_write_leaves_nothing(tmp_path, capsys, monkeypatch):
    torch.save({"g_ema": generator_state()}, tmp_path / "g.pt")
    torch.save(torch.zeros(1, 4), tmp_path / "d.pt")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_write_arrays", full)
    monkeypatch.setattr(np.lib.format, "write_array", full)
    assert "No space left" in fails(capsys, tmp_path / "g.pt", tmp_path / "b")
    assert "No space left" in fails(capsys, tmp_path / "d.pt", tmp_path / "d.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.pt", "g.pt"]

    monkeypatch.undo()
    assert main([str(tmp_path / "g.pt"), str(tmp_path / "b")]) == 0

    def torn(_, path):
        open(path, "w").write("half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", torn)
    error = fails(capsys, tmp_path / "b", tmp_path / "back.pt", "--to", "pytorch")
    assert "back.pt cannot be written: PytorchStreamWriter failed" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "d.pt", "g.pt"]


def test_files_are_read_without_pytorch_and_for_writing_the_extra_is_named(
    tmp_path, capsys, monkeypatch
):
    torch.save({"g_ema": generator_state()}, tmp_path / "g.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert main([str(tmp_path / "g.pt"), str(tmp_path / "b")]) == 0
    error = fails(capsys, tmp_path / "b", tmp_path / "c.pt", "--to", "pytorch")
    assert "pip install 'e4e-jax[convert]'" in error


def test_bundles_without_a_published_layout(tmp_path, capsys):
    opened = bundle.load_bundle("toy/features")
    with pytest.raises(ValueError, match=re.escape("a bundle of kind 'toy_features'")):
        export.export(opened)
    error = fails(capsys, tmp_path / "none", tmp_path / "c.pt", "--to", "pytorch")
    assert "there is no" in error
    error = fails(capsys, "toy", tmp_path / "x", tmp_path / "c.pt", "--to", "pytorch")
    assert "takes one bundle" in error
