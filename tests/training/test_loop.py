"""Whole runs of train.py, tiny: stopped, killed, resumed, and given bad input."""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx
from tiny_run import STEPS, make_folder

import e4e_jax
from configs import toy_features, toy_generator
from e4e_jax import bundle
from e4e_jax.data import pipeline  # noqa: F401 - Grain's flags must be there to be kept
from e4e_jax.data.registry import build_source
from e4e_jax.editing.files import load_directions
from e4e_jax.toy.faces import FACTORS
from e4e_jax.training import loop
from e4e_jax.training.export import open_run

eval_program = importlib.import_module("eval")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a generator, a feature network and a config, all tiny and random."""
    path = tmp_path_factory.mktemp("run")
    make_folder(path)
    return path


@pytest.fixture(autouse=True)
def interrupts():
    """A shell starts what runs in the background with Ctrl-C switched off, and so its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(folder, workdir, *flags, devices=1):
    command = [sys.executable, "train.py", f"--config={folder}/tiny.py", f"--workdir={workdir}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # As users have it, but for this module alone: a run that goes on finds its step compiled.
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "true"
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
    environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("count=4", f"count={devices}")
    return subprocess.Popen(
        [*command, *flags], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for_checkpoint(workdir, step):
    """Returns as soon as the checkpoint of `step`, or a later one, is complete."""
    folder = workdir / "checkpoints"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if folder.exists() and any(
            n.name.isdigit() and int(n.name) >= step for n in folder.iterdir()
        ):
            return
        time.sleep(0.01)
    raise TimeoutError(f"no checkpoint of step {step} in {folder}")


def parameters(network):
    return jax.tree.leaves(jax.tree.map(np.asarray, nnx.state(network, nnx.Param)))


def assert_exported(workdir):
    """What is read from the last checkpoint is the bundle of the run's end; its networks."""
    written, opened = bundle.load_bundle(workdir / "bundle"), open_run(workdir)
    assert opened.kind == written.kind and opened.metadata.items() <= written.metadata.items()
    states = ({n: nnx.state(x) for n, x in b.networks.items()} for b in (opened, written))
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    return written.networks


def weights(workdir):
    network = bundle.load_network(workdir / "bundle", "encoder")
    return jax.tree.leaves(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(network))))


def test_killed_and_stopped_runs_end_with_the_same_weights_bit_for_bit(folder, tmp_path):
    """Between the cuts and the end lie stage changes (steps 15, 25, 35) and R1 (every 4th)."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = start(folder, whole)
    code, output = finish(uninterrupted)
    assert code == 0, output

    process = start(folder, cut)
    wait_for_checkpoint(cut, 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = start(folder, cut)
    wait_for_checkpoint(cut, 20)
    assert open_run(cut).metadata["step"] >= 20  # while the run goes on
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 0, output
    assert "Going on from" in output and "Stopped at step" in output
    code, output = finish(start(folder, cut))
    assert code == 0, output

    for a, b in zip(weights(whole), weights(cut), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_exported(cut)
    for name in ("inversions.png", "bundle/bundle.json"):
        assert (cut / name).exists() and str(cut / name).removesuffix("/bundle.json") in output
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == STEPS
    validation = {
        name.removeprefix("validation/"): value
        for name, value in last.items()
        if name.startswith("validation/")
    }
    assert list(validation) == ["l2", *(f"{n}@{folder}/features" for n in ("perceptual", "id"))]
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for i in range(6):  # those that can be read; the config takes so many
        (held_out / f"{i}.png").symlink_to(folder / "images" / f"{i}.png")
    figures = evaluate(whole, f"--images={held_out}", f"--metrics={','.join(validation)}")
    assert figures == pytest.approx(validation, rel=1e-6)


def evaluate(workdir, *flags):
    """The figures of eval.py, run in this process."""
    given = ["eval.py", f"--checkpoint={workdir}", f"--out={workdir}/out", "--cache=", *flags]
    # config_flags looks for its fields in sys.argv.
    with flagsaver.flagsaver(), mock.patch.object(sys, "argv", given):
        eval_program.parse_flags(given)
        eval_program.main(given[:1])
    figures = json.loads((workdir / "out" / "metrics.json").read_text())["figures"]
    return {figure["name"]: figure["value"] for figure in figures}


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_code_130(folder, tmp_path):
    """While the step compiles, when it comes at once, and later, when the run saves."""
    process = start(folder, tmp_path / "run", "--config.data.workers=2")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130 and output.splitlines()[-1] == "train.py: interrupted."
    assert "Traceback" not in output and "Exception" not in output

    process = start(folder, tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", 10)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130 and "train.py: Stopped at step " in output.splitlines()[-1]
    assert "Traceback" not in output and "Exception" not in output


@pytest.mark.slow
def test_a_run_goes_on_on_more_and_on_fewer_devices(folder, tmp_path):
    for steps, devices in ((60, 1), (65, 2), (70, 1)):
        code, output = finish(
            start(folder, tmp_path, f"--config.total_steps={steps}", devices=devices)
        )
        assert code == 0, output
        if steps > 60:
            assert "goes on on" in output and "fake_pool, real_pool dealt anew" in output
    assert weights(tmp_path)


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--config.batchsize=3", "batchsize"),
        ("--config.generator=nowhere", "there is no nowhere"),
        ("--config.data.path=nowhere", "nowhere"),
        ("--config.encoder.kind=e5e", "e5e"),
        ("--config.remat=decoder", "remat is 'decoder'; expected one of none, encoder"),
        ("--config.optimizer.schedule=cosinus", "cosinus"),
        ("--config.optimizer.name=sdg", "sdg"),
        ("--config.task=paint", "paint"),
        ("--config.batch_size=four", "four"),
    ],
)
def test_bad_configs_get_one_sentence_and_exit_code_1(folder, tmp_path, flag, words):
    code, output = finish(start(folder, tmp_path / "run", flag))
    lines = [line for line in output.splitlines() if line.startswith("train.py: ")]
    assert code == 1, output
    assert len(lines) == 1 and words in lines[0], output
    assert "Traceback" not in output


def test_a_loss_that_turns_nan_stops_the_run(folder, tmp_path):
    flags = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.schedule=constant",
             "--config.optimizer.schedule_options={}")  # fmt: skip
    code, output = finish(start(folder, tmp_path / "run", *flags))
    assert code == 1, output
    assert "at step" in output and "checkpoint" in output and "Traceback" not in output


def test_generator_and_features_runs_leave_bundles(folder, tmp_path, capsys, monkeypatch):
    settled = []
    monkeypatch.setattr(loop.tuning, "settle_memory", lambda: settled.append(True))
    config = toy_generator.get_config()
    config.batch_size, config.total_steps, config.fid_samples = 4, 3, 100
    config.validation_batch_size = 4
    config.data.image_size, config.data.num_validation = (8, 8), 10
    config.generator.w_dim = config.generator.z_dim = 16  # more than there are factors
    config.generator.channel_base, config.generator.channel_max = 64, 8
    config.features = config.discriminator_features = str(folder / "features")
    loop.train(config, str(tmp_path / "generator"))
    generator = bundle.load_network(str(tmp_path / "generator" / "bundle"), "generator")
    assert generator.config.resolution == 8
    assert float(abs(generator.latent_avg[...]).max()) > 0
    found = load_directions(tmp_path / "generator" / "directions.npz")
    assert set(found) == set(FACTORS) and found["smile"].shape == (16,)

    last = json.loads((tmp_path / "generator" / "metrics.jsonl").read_text().splitlines()[-1])
    fid = f"fid100_full@{folder}/features"
    figures = evaluate(
        tmp_path / "generator", "--config=configs/toy_generator.py", f"--metrics={fid}",
        "--config.data.num_validation=10", "--batch_size=4",
    )  # fmt: skip
    assert figures[fid] == pytest.approx(last[f"validation/{fid}"], rel=1e-6)
    kept = assert_exported(tmp_path / "generator")
    assert list(kept) == ["generator", "generator_raw", "discriminator"]

    config.start, config.total_steps = str(tmp_path / "generator" / "bundle"), 1
    config.optimizer.learning_rate = config.discriminator_optimizer.learning_rate = 0.0
    config.generator.w_dim = 32  # of a new generator only
    loop.train(config, str(tmp_path / "more"))
    more = assert_exported(tmp_path / "more")
    for name in ("generator_raw", "discriminator"):  # where the first run had come to
        for a, b in zip(*map(parameters, (kept[name], more[name])), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b, raw in zip(
        *map(parameters, (kept["generator"], more["generator"], more["generator_raw"])), strict=True
    ):  # the average of the first run, and one step on
        np.testing.assert_allclose(b, a + (raw - a) * (1 - 0.5 ** (4 / 5000)), atol=1e-6)
    config.start = "toy/generator"
    with pytest.raises(ValueError, match="draws 64x64; expected .* 8x8"):
        loop.train(config, str(tmp_path / "wrong"))

    config = toy_features.get_config()
    config.batch_size, config.total_steps, config.validation_batch_size = 4, 3, 4
    config.data.num_validation, config.features.embedding_dim = 6, 8
    config.features.widths, config.features.depths = (16, 16, 16, 16), (1, 1, 1, 1)
    config.optimizer.schedule_options.warmup_steps = 1
    loop.train(config, str(tmp_path / "features"))
    network = bundle.load_network(str(tmp_path / "features" / "bundle"))
    assert network(np.zeros((2, 64, 64, 3), np.float32)).shape == (2, 11)
    assert_exported(tmp_path / "features")
    last = json.loads((tmp_path / "features" / "metrics.jsonl").read_text().splitlines()[-1])
    metric = f"factors@{tmp_path}/features/bundle"
    report = e4e_jax.evaluate(None, build_source(config.data, held_out=True), [metric], cache="")
    for factor in FACTORS:
        expected = report[f"{metric} {factor}"]
        assert last[f"validation/factors@toy_features {factor}"] == pytest.approx(expected, 1e-6)
    error = np.mean(report.per_image[f"{metric} error"])
    assert last["validation/error"] == pytest.approx(error, 1e-6)

    assert len(settled) == 3  # once in each run
    output = capsys.readouterr().out
    assert "untrained generator" in output and "R2 on 6 held-out images" in output
