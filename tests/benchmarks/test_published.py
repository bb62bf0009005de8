"""The program around the rows; the rows themselves need clones of the public repositories."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import published
from benchmarks.published_code import checkouts, trial

ROOT = pathlib.Path(__file__).parents[2]


def checkout(path, name):
    """An empty clone with the file by which it is known."""
    marker = path / checkouts.CHECKOUTS[name].marker
    marker.parent.mkdir(parents=True)
    marker.write_text("")
    return str(path)


def test_rows_without_a_checkout_are_left_out_and_said_so(tmp_path, capsys, monkeypatch):
    measured = []

    def measure(name, path, small):
        measured.append((name, path, small))
        return {"errors": {"codes": 2.5e-6, "image": 1e-7}, "same_bits": True}

    monkeypatch.setattr(published, "_measure", measure)
    path, clone = tmp_path / "result.json", checkout(tmp_path / "clone", "psp")
    published.main([f"--psp={clone}", "--rows", "e4e", "psp", "--small", f"--json={path}"])
    assert measured == [("psp", clone, True)]
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[1].split() == "e4e left out: --e4e names no clone of omertov/encoder4editing".split()
    )
    assert lines[2].split() == ["psp", "codes", "2.5e-06"]
    assert lines[3].split() == ["psp", "image", "1.0e-07"]
    assert lines[4].endswith("same bits")
    result = json.loads(path.read_text())
    assert result["rows"]["psp"]["errors"]["codes"] == 2.5e-6
    assert list(result["rows"]) == ["psp"] and not result["failed"]


def test_rows_that_need_torchvision_are_left_out_without_it(tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchvision" else find(name)
    )
    clone = checkout(tmp_path, "e4e")
    result = published.main([f"--e4e={clone}", "--rows", "moco"])
    assert result["rows"] == {} and result["failed"] == {}
    assert "left out: torchvision is not installed" in capsys.readouterr().out


def test_weights_that_do_not_come_back_are_seen():
    assert "DIFFERS" in published.table("psp", {"errors": {}, "same_bits": False})[0]
    assert published.table("moco", {"errors": {"vectors": 0.0}, "same_bits": None}) == [
        f"{'moco':20}{'vectors':42}  0.0e+00"
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "there is no checkout to run beside; expected one or more of --e4e, "),
        (
            ["--stylegan3=nowhere"],
            "--stylegan3 is 'nowhere', which holds no training/networks_stylegan2.py; expected a "
            "clone of NVlabs/stylegan3.",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        published.main(arguments)
    assert exit_.value.code == 1
    assert message in capsys.readouterr().err


def test_a_row_that_fails_names_what_failed(tmp_path, capsys):
    clone = checkout(tmp_path, "rosinality")  # without model.py
    with pytest.raises(SystemExit) as exit_:
        published.main([f"--rosinality={clone}", "--rows", "rosinality"])
    assert exit_.value.code == 1
    assert "failed: ModuleNotFoundError: No module named 'model'" in capsys.readouterr().out


def test_modules_of_a_checkout_are_imported_as_they_are(tmp_path):
    """CUDA operators are replaced, "cuda" is the CPU, and missing packages do no harm."""
    (tmp_path / "model.py").write_text(
        "import matplotlib\nimport pkg_resources\nimport torch\n"
        "from op import FusedLeakyReLU, conv2d_gradfix, upfirdn2d\n"
        "layer = FusedLeakyReLU(2, bias=True).to('cuda').cuda()\n"
        "x = layer(torch.full((1, 2, 3, 3), -1.0).to('cuda'))\n"
        "print(round(float(x[0, 0, 0, 0]), 5), x.double().dtype)\n"
        "print(layer.to(torch.float64).bias.dtype)\n"
    )
    program = (
        "import pathlib, sys\nfrom benchmarks.published_code import checkouts\n"
        f"checkouts.prepare('e4e', {str(tmp_path)!r})\nimport model"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )
    assert done.stdout.split() == ["-0.28284", "torch.float64", "torch.float64"], done.stderr


def test_largest_error():
    published_output = np.array([[1.0, -4.0], [0.0, 2.0]], np.float32)
    ours = published_output + np.array([[0.0, 0.5], [-0.25, 0.0]], np.float32)
    assert trial.largest_error(ours, published_output) == 0.125
    with pytest.raises(ValueError, match=r"shape \(1, 2\), the published output \(2, 2\)"):
        trial.largest_error(ours[:1], published_output)
    with pytest.raises(ValueError, match="not finite"):
        trial.largest_error(ours, np.full((2, 2), np.nan))


def test_random_weights_are_never_0_or_1():
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.PReLU(8)]
    network = trial.randomize(torch.nn.Sequential(*layers))
    tensors = [t for t in network.state_dict().values() if t.is_floating_point()]
    assert len(tensors) == 7
    assert all(float(torch.minimum(t.abs(), (t - 1).abs()).min()) > 1e-6 for t in tensors)
    assert float(network[1].running_var.min()) > 0.5 and not network.training


def test_same_bits():
    before = {"state": {"a": torch.ones(2), "b": torch.zeros(1)}, "average": torch.ones(3)}
    after = {"state": {"a": torch.ones(2), "b": torch.zeros(1)}, "average": torch.ones(3)}
    assert trial.same_bits(before, after, "state", "average")
    after["state"]["a"] = torch.tensor([1.0, 1.0 + 2**-23])
    assert not trial.same_bits(before, after, "state", "average")
    del after["state"]["a"]
    assert not trial.same_bits(before, after, "state")
