"""Every comparison runs from its command line to its JSON; how fast anything is, is not tested."""

import argparse
import json
import math
import os
import signal

import numpy as np
import pytest

from benchmarks import common, encode, machine, metrics, peers, sides, synthesis, train_step
from benchmarks.published_code import checkouts

SIDE_NUMBERS = ("median_seconds", "seconds_per_image", "ratio_to_ours", "compile_seconds")


@pytest.fixture(autouse=True)
def keep_precision():
    """The benchmarks set JAX's precision for the whole process."""
    import jax

    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.fixture(autouse=True)
def quick_ceilings(monkeypatch):
    monkeypatch.setattr(machine, "ceilings", lambda precision: {"flops": 1e9, "bytes": 1e9})


def run(module, tmp_path, *arguments):
    """Runs a benchmark; returns its JSON, after checks that hold for all."""
    path = tmp_path / "result.json"
    arguments = ["--small", "--repeats=2", *arguments, f"--json={path}"]
    returned = module.main(arguments)
    result = json.loads(path.read_text())
    assert result == json.loads(json.dumps(returned))
    assert result["machine"]["cores"] >= 1
    for case in result["cases"]:
        assert list(case["sides"])[0] == "ours"
        for row in case["sides"].values():
            assert all(math.isfinite(row[key]) and row[key] > 0 for key in SIDE_NUMBERS)
            assert len(row["seconds"]) == 2
            assert 0 < row["peak_bytes"] < 2**32
            assert all(error < 1e-3 for key, error in row["errors"].items() if key != "gradient")
        ours = case["sides"]["ours"]
        assert ours["ratio_to_ours"] == 1
        assert ours["counted"]["flops"] > 0 and ours["cost_analysis"]["bytes"] > 0
    return result


def test_synthesis(tmp_path, capsys):
    result = run(synthesis, tmp_path, "--cases", "16x2")
    assert [case["images"] for case in result["cases"]] == [2]
    assert list(result["cases"][0]["sides"]) == ["ours", "pytorch"]
    output = capsys.readouterr().out
    assert "16x2" in output and "pytorch" in output and "float32" in output


def test_encode(tmp_path):
    result = run(encode, tmp_path, "--cases", "64x1")
    assert [case["case"] for case in result["cases"]] == ["64x1"]
    assert set(result["cases"][0]["sides"]["pytorch"]["errors"]) == {"codes"}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lpips-64x1", "arcface-48x1", "inception-64x1"])
def test_metrics(case, tmp_path):
    result = run(metrics, tmp_path, "--cases", case)
    assert [found["case"] for found in result["cases"]] == [case]
    assert len(result["cases"][0]["sides"]["pytorch"]["errors"]) == 1


@pytest.mark.slow
def test_train_step(tmp_path):
    result = run(train_step, tmp_path, "--cases", "256x2")
    errors = result["cases"][0]["sides"]["pytorch"]["errors"]
    terms = {"l2", "perceptual", "identity", "adversarial", "delta_norm"}
    assert set(errors) == terms | {"gradient", "gradient norms"}
    assert errors["gradient"] < 1e-2


@pytest.mark.slow
def test_recomputing_steps_stand_beside_the_one_that_keeps_everything(tmp_path):
    result = run(train_step, tmp_path, "--cases", "256x1", "--remat", "generator", "all")
    compared = result["cases"][0]["sides"]
    assert list(compared) == ["ours", "remat=generator", "remat=all"]
    assert compared["remat=all"]["errors"]["gradient"] < 1e-4


def test_without_pytorch_ours_is_timed_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "has_torch", lambda: False)
    result = run(synthesis, tmp_path, "--cases", "8x1", "16x2")
    assert [case["case"] for case in result["cases"]] == ["8x1", "16x2"]
    assert [list(case["sides"]) for case in result["cases"]] == [["ours"], ["ours"]]
    assert "PyTorch is not installed" in capsys.readouterr().out


def test_sides_are_those_of_the_flags_and_of_the_clones(tmp_path, monkeypatch):
    """Published code that has no bfloat16 stands beside it in what it has on the device."""
    paths = {}
    for name in ("e4e", "stylegan2-ada"):
        marker = tmp_path / name / checkouts.CHECKOUTS[name].marker
        marker.parent.mkdir(parents=True)
        marker.write_text("")
        paths[name] = str(tmp_path / name)
    calls = []
    published = {name: calls.append for name in paths}

    def builders(precision, beside, clones=("e4e", "stylegan2-ada")):
        peer = [paths[name] for name in clones]
        flags = argparse.Namespace(beside=beside, peer=peer, precision=precision, small=False)
        return common.with_torch(flags, {"ours": None}, calls.append, published)

    cpu = ["ours", "e4e float32", "stylegan2-ada float32"]
    assert list(builders("float32", [])) == list(builders("bfloat16", [])) == cpu
    monkeypatch.setattr(peers, "on_gpu", lambda: True)
    found = builders("bfloat16", ["pytorch", "torch.compile"])
    assert list(found) == [
        *("ours", "pytorch", "torch.compile"),
        *("e4e tf32", "stylegan2-ada float16"),
    ]
    for name in list(found)[1:]:
        found[name]()
    assert calls == [False, True, paths["e4e"], paths["stylegan2-ada"]]
    with pytest.raises(ValueError, match="two clones of e4e"):
        builders("float32", [], ("e4e", "e4e"))


def test_published_code_that_does_not_compile_is_one_sentence(monkeypatch):
    monkeypatch.setattr(checkouts, "prepare", lambda *_, **__: None)
    message = "^the code at clone cannot be used: Error building extension 'fused'$"
    with pytest.raises(ValueError, match=message), peers.importing("e4e", "clone"):
        raise RuntimeError("Error building extension 'fused'\nand what the compiler said")


def test_different_functions_are_not_timed():
    def side(value):
        return sides.Side(lambda: None, {"image": np.full((2, 2), value)}, 0.0)

    with pytest.raises(common.Mismatch, match="not the same function"):
        common._compare(side(1.0), side(1.01), "pytorch", "float32")
    assert common._compare(side(1.0), side(1.0 + 1e-6), "pytorch", "float32")["image"] < 2e-6
    with pytest.raises(common.Mismatch, match="not finite"):
        common._compare(side(np.nan), side(1.0), "pytorch", "float32")


def killed_case(case, flags):
    return common.Case(case, 1, {"ours": lambda: os.kill(os.getpid(), signal.SIGKILL)})


def test_a_side_that_the_system_kills_is_named(capsys):
    with pytest.raises(SystemExit):
        common.run("synthesis", "", ["8x1"], killed_case, ["--repeats=1"])
    assert "ours of 8x1 ended with exit code -9: was memory short?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--cases", "256"], "expected SIDExBATCH"),
        (["--cases", "100x1"], "resolution is 100"),
        (
            ["--cases", "8x1", "--peer", "nowhere"],
            "'nowhere'; expected a clone of omertov/encoder4editing or NVlabs/",
        ),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit):
        synthesis.main(["--small", *arguments])
    assert message in capsys.readouterr().err.splitlines()[-1]
