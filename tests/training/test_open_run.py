"""Runs looked into from outside: which checkpoint is read, what it gives, what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import randomize

from configs import toy
from e4e_jax import bundle
from e4e_jax.__main__ import main
from e4e_jax.metrics.cache import identify_network
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.training import checkpoint_reader
from e4e_jax.training.checkpoints import Checkpoints
from e4e_jax.training.export import export_run, open_model, open_run
from e4e_jax.training.work_directory import note_config

ABOUT = {"trained_on": {"images": "built-in toy faces", "size": [8, 8], "count": 10}}


def make_encoder(seed):
    backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
    config = EncoderConfig(
        num_styles=4, style_dim=8, image_size=(8, 8), backbone=backbone, coarse=1, middle=2
    )
    return randomize(Encoder(config, rngs=nnx.Rngs(0)), seed)


def state_of(seed):
    """A run's state, as far as a bundle needs it, and something else."""
    _, params, batch_stats = nnx.split(make_encoder(seed), nnx.Param, nnx.BatchStat)
    rest = {"key": jax.random.key(seed), "step": np.int32(seed)}
    return jax.tree.map(jax.numpy.asarray, {"encoder": params, "batch_stats": batch_stats} | rest)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A work directory with the checkpoints 10 and 20, and the generator that its config names."""
    folder = tmp_path_factory.mktemp("run")
    shape = GeneratorConfig(8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)
    networks = {"generator": randomize(Generator(shape, rngs=nnx.Rngs(0)))}
    bundle.save_bundle(folder / "generator", "generator", networks)
    config = toy.get_config()
    config.data.image_size = (8, 8)
    config.generator = str(folder / "generator")
    config.encoder.widths, config.encoder.depths = (16, 16, 16, 16), (1, 1, 1, 1)
    config.encoder.coarse, config.encoder.middle = 1, 2
    workdir = folder / "workdir"
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, state_of(step))
    note_config(str(workdir), config, ABOUT)
    return workdir


@pytest.fixture
def workdir(made, tmp_path):
    """One of one's own."""
    return shutil.copytree(made, tmp_path / "workdir")


def arrays(network):
    return jax.tree.leaves(jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(network))))


def assert_same(a, b):
    for x, y in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("step, flags", [(20, []), (10, ["--step=10"])])
def test_the_newest_checkpoint_or_that_of_a_step_becomes_a_bundle(
    made, tmp_path, capsys, step, flags
):
    before = sorted(path for path in made.rglob("*"))
    assert main(["export", str(made), str(tmp_path / "out"), *flags]) == 0
    assert capsys.readouterr().out.startswith(f"inverter of step {step} (encoder, generator): ")
    opened = bundle.load_bundle(tmp_path / "out")
    assert opened.kind == "inverter" and opened.metadata == {**ABOUT, "step": step}
    assert_same(opened.networks["encoder"], make_encoder(step))
    assert_same(opened.networks["generator"], bundle.load_network(made.parent / "generator"))
    assert before == sorted(path for path in made.rglob("*"))  # the run's folder is as it was

    assert main(["export", str(made), str(tmp_path / "out")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_checkpoint_that_the_run_removes_meanwhile(workdir, monkeypatch):
    """The run has written a newer one by then, and that is taken."""
    hidden, shown = workdir / "20", workdir / "checkpoints" / "20"
    shown.rename(hidden)
    real, tries = checkpoint_reader._read, []

    def read(folder, template):
        tries.append(folder.name)
        if folder.name == "10":
            hidden.rename(shown)
            shutil.rmtree(folder)
        return real(folder, template)

    monkeypatch.setattr(checkpoint_reader, "_read", read)
    assert_same(open_run(workdir).networks["encoder"], make_encoder(20))
    assert tries == ["10", "20"]


def test_a_damaged_checkpoint_is_passed_over_unless_it_was_asked_for(workdir, caplog):
    (file,) = (workdir / "checkpoints" / "20" / "run").glob("metadata")
    file.write_text("{}")
    opened = open_run(workdir)
    assert opened.metadata["step"] == 10 and "20 is damaged" in caplog.text
    with pytest.raises(ValueError, match="checkpoints/20 is damaged"):
        open_run(workdir, 20)
    shutil.rmtree(workdir / "checkpoints" / "10")
    with pytest.raises(ValueError, match="checkpoints/20 is damaged"):
        open_run(workdir)


def test_what_is_not_there_is_named(workdir, tmp_path, capsys):
    def sentence(path, *flags):
        assert main(["export", str(path), str(tmp_path / "out"), *flags]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not (tmp_path / "out").exists()
        return error

    assert "is no work directory of a run" in sentence(tmp_path)
    assert "no checkpoint of step 15 in" in (text := sentence(workdir, "--step=15"))
    assert "expected one of 10, 20." in text
    (workdir.parent / "generator").mkdir()
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace('"generator": "', '"generator": "/nowhere'))
    assert "there is no /nowhere" in sentence(workdir)
    (workdir / "config.json").unlink()
    assert "workdir has no config.json, which train.py writes at its start" in sentence(workdir)
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").mkdir()
    (workdir / "config.json").write_text(text)
    assert "there is no checkpoint in" in sentence(workdir)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"encoder": {"widths": [16, 16, 16, 32]}}, "is of another configuration .* float32"),
        ({"encoder": {"widths": [16, 16, 16, 10**9]}}, "config.encoder.widths is .*; expected"),
        ({"encoder": {"deep": {"er": 1}}}, "config.encoder.deep.er is no field"),
        ({"task": "os:system"}, "os:system"),
        ({"task": 3}, "config.task is 3; expected"),
        ({"seed": None}, "config.seed is None; expected"),
        (None, "holds no config of a run"),
        ("{", "is no readable .json file of a run's config"),
        ("[" * 10**5, "is no readable .json file"),
    ],
)
def test_the_config_of_a_work_directory_is_not_trusted(workdir, change, words):
    noted = json.loads((workdir / "config.json").read_text())
    for name, value in (change or {}).items() if isinstance(change, dict) else ():
        if isinstance(value, dict):
            noted["config"][name] |= value
        else:
            noted["config"][name] = value
    text = change if isinstance(change, str) else json.dumps(noted if change else [noted])
    (workdir / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        open_run(workdir)
    assert "\n" not in str(error.value)


def test_a_run_as_a_model(workdir, tmp_path):
    """Of the newest checkpoint or another; without a config, as of old, the bundle of its end."""
    model, same, other = (open_model(workdir, step) for step in (None, 20, 10))
    assert [m.metadata["step"] for m in (model, same, other)] == [20, 20, 10]
    key, same_key, other_key = (identify_network(m.encoder) for m in (model, same, other))
    assert key == same_key != other_key
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    assert np.abs(model.encode(images) - other.encode(images)).max() > 1e-3

    export_run(workdir, workdir / "bundle", 10)
    assert open_model(workdir).metadata["step"] == 20
    (workdir / "config.json").unlink()
    assert open_model(workdir).metadata["step"] == 10
    with pytest.raises(ValueError, match="step 10 is asked for and .* is a bundle"):
        open_model(workdir / "bundle", 10)
