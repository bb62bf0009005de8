"""python -m e4e_jax directions, on a tiny random generator."""

import numpy as np
import pytest
from flax import nnx
from helpers import randomize

import e4e_jax
from e4e_jax import bundle
from e4e_jax.__main__ import main
from e4e_jax.editing.files import load_directions
from e4e_jax.inversion.folder import save_latents
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig


def run(out, inverter, *flags):
    return main(["directions", str(out), f"--model={inverter}", *flags])


@pytest.fixture
def scored(inverter, tmp_path):
    """Codes of the generator and the direction along which they are scored."""
    model = e4e_jax.load(inverter)
    rng = np.random.default_rng(0)
    w = np.asarray(model.map(rng.normal(size=(1000, 8))))
    save_latents(tmp_path / "latents.npz", [f"{i}.png" for i in range(1000)], model.broadcast(w))
    truth = rng.normal(size=8)
    return tmp_path / "latents.npz", w @ truth, truth


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_scores_become_a_direction(suffix, inverter, scored, tmp_path, capsys):
    latents, scores, truth = scored
    path = tmp_path / f"scores.{suffix}"
    if suffix == "npz":
        np.savez(path, brightness=scores)
    else:
        order = np.random.default_rng(1).permutation(1000)  # names, not rows, belong together
        rows = ["name,brightness", *(f"{i}.png,{scores[i]}" for i in order)]
        path.write_text("\n".join(rows) + "\n")
    out = tmp_path / "found.npz"
    assert run(out, inverter, f"--latents={latents}", f"--scores={path}") == 0
    assert "brightness:" in capsys.readouterr().out
    direction = load_directions(out)["brightness"]
    model = e4e_jax.load(inverter)
    w = np.asarray(model.map(np.random.default_rng(2).normal(size=(500, 8))))
    assert np.corrcoef(w @ direction, w @ truth)[0, 1] > 0.8
    length = np.linalg.norm(direction)  # one standard deviation of the codes along it
    assert abs(np.std(w @ direction) / length**2 - 1) < 0.2


def test_ganspace_and_sefa(inverter, tmp_path, capsys):
    assert run(tmp_path / "g.npz", inverter, "--method=ganspace", "--count=3", "--samples=100") == 0
    output = capsys.readouterr().out
    assert "ganspace_0: standard deviation" in output
    shares = [float(line.split()[-4].rstrip("%")) for line in output.splitlines()[:3]]
    assert sum(shares) < 99  # of the variance in all eight dimensions
    found = load_directions(tmp_path / "g.npz")
    assert set(found) == {"ganspace_mean", "ganspace_0", "ganspace_1", "ganspace_2"}
    assert run(tmp_path / "s.npz", inverter, "--method=sefa", "--count=2") == 0
    assert set(load_directions(tmp_path / "s.npz")) == {"sefa_0", "sefa_1"}


def test_stylespace_channels_are_listed(inverter, scored, tmp_path, capsys):
    latents, scores, _ = scored
    np.savez(tmp_path / "scores.npz", brightness=scores)
    flags = ["--method=stylespace", f"--latents={latents}", f"--scores={tmp_path}/scores.npz"]
    out = tmp_path / "channels.csv"
    assert run(out, inverter, *flags, "--count=3") == 0
    header, *rows = out.read_text().splitlines()
    assert header == "attribute,layer,channel,mean" and len(rows) == 3
    _, layer, channel, mean = rows[0].split(",")
    assert f"brightness: style:{layer}:{channel}={float(mean):.2g} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "interfacegan needs scores"),
        (["--scores=x.csv"], "expected --latents=latents.npz"),
        (["--method=stylespace"], "expected a name in .csv"),
        (["--method=sefa", "--count=9"], "--count is 9; expected 1 to 8"),
        (["--method=ganspace", "--count=0"], "--count is 0; expected 1 to 8"),
        (["--network=toy/generator"], "gives no scores of attributes"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, inverter, tmp_path, capsys):
    assert run(tmp_path / "out.npz", inverter, *flags) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1, error
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "has no scores"),
        ("name,smile\n0.png,1\n1.png\n", "line 3: expected a name and 1 numbers"),
        ("name,smile\n0.png,high\n", "line 2: expected a name and 1 numbers"),
        ("name,smile\nother.png,1\n", "have no name in common"),
    ],
)
def test_bad_csv_files(text, sentence, inverter, scored, tmp_path, capsys):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    assert run(tmp_path / "out.npz", inverter, f"--latents={scored[0]}", f"--scores={path}") == 1
    assert sentence in capsys.readouterr().err


def test_a_class_conditional_generator_needs_a_class_where_w_is_drawn(tmp_path, capsys):
    config = GeneratorConfig(8, 8, 8, 2, channel_base=64, channel_max=8, num_classes=3)
    generator = randomize(Generator(config, rngs=nnx.Rngs(0)))
    path = tmp_path / "classes"
    bundle.save_bundle(path, "generator", {"generator": generator})
    ganspace = ["--method=ganspace", "--count=2", "--samples=100"]
    assert run(tmp_path / "g.npz", path, *ganspace) == 1
    assert "has 3 classes; expected a label (of commands: --class)" in capsys.readouterr().err
    assert run(tmp_path / "g.npz", path, *ganspace, "--class=3") == 1
    assert "class 3 is asked for and the generator has 3 classes" in capsys.readouterr().err
    assert run(tmp_path / "g.npz", path, *ganspace, "--class=1") == 0
    mean = load_directions(tmp_path / "g.npz")["ganspace_mean"]
    z = np.random.default_rng(0).normal(size=(4000, 8))
    w = np.asarray(e4e_jax.load(path).map(z, 1))
    assert np.abs(mean - w.mean(axis=0)).max() < 0.1 * w.std(axis=0).max()
    assert run(tmp_path / "s.npz", path, "--method=sefa", "--count=2") == 0  # of all classes alike


def test_codes_and_scores_that_do_not_fit(inverter, scored, tmp_path, capsys):
    scores = tmp_path / "scores.npz"
    latents = tmp_path / "other.npz"
    np.savez(scores, brightness=np.arange(30.0))
    for codes, sentence in (
        (np.ones((30, 6, 5)), "holds codes [30, 6, 5]; expected [N, L, 8], as this generator"),
        (np.ones((0, 6, 8)), "holds codes [0, 6, 8]; expected [N, L, 8]"),
        (np.ones((30, 6, 8)), "brightness: the codes are all the same"),
    ):
        save_latents(latents, [f"{i}.png" for i in range(len(codes))], codes)
        flags = (f"--latents={latents}", f"--scores={scores}")
        assert run(tmp_path / "out.npz", inverter, *flags) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    for arrays, sentence in (
        ({}, "scores.npz has no scores; expected arrays [1000]."),
        ({"age": np.full(1000, np.inf)}, "age holds infinity; expected numbers, or NaN"),
        ({"age": np.array(["x"] * 1000)}, "age is <U1 of shape [1000]; expected numbers of shape"),
    ):
        np.savez(scores, **arrays)
        flags = (f"--latents={scored[0]}", f"--scores={scores}")
        assert run(tmp_path / "out.npz", inverter, *flags) == 1
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
