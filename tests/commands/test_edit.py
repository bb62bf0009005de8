"""python -m e4e_jax edit, on a tiny random inverter."""

import numpy as np
import pytest
from helpers import relative_error, sheet_cells
from PIL import Image

import e4e_jax
from e4e_jax.__main__ import main
from e4e_jax.data.images import to_uint8
from e4e_jax.data.sheets import sheet
from e4e_jax.editing.files import save_directions
from e4e_jax.editing.stylespace import channel_deviations
from e4e_jax.inversion.folder import load_latents, save_latents
from e4e_jax.models.stylegan2 import StyleCodes


@pytest.fixture
def directions(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "directions.npz"
    arrays = {"all": rng.normal(size=8), "layered": rng.normal(size=(6, 8)), "wrong": np.ones(5)}
    save_directions(path, {name: array.astype(np.float32) for name, array in arrays.items()})
    return path


def run(source, out, inverter, *flags):
    return main(["edit", str(source), str(out), f"--model={inverter}", "--batch_size=4", *flags])


def test_codes_move_along_the_direction(inverter, directions, tmp_path, capsys):
    model = e4e_jax.load(inverter)
    codes = np.random.default_rng(0).normal(size=(5, 6, 8)).astype(np.float32)
    names = [f"{i}.png" for i in range(5)]
    save_latents(tmp_path / "latents.npz", names, codes)
    out = tmp_path / "out"
    flags = [f"--directions={directions}", "--edits", "all=-2,3", "layered@1-2=1"]
    assert run(tmp_path / "latents.npz", out, inverter, *flags) == 0
    assert "inversion | all=-2 | all=3 | layered@1-2=1" in capsys.readouterr().out

    arrays = np.load(directions)
    layered = np.zeros((6, 8), np.float32)
    layered[1:3] = arrays["layered"][1:3]
    expected = [codes - 2 * arrays["all"], codes + 3 * arrays["all"], codes + layered]
    saved_names, saved = load_latents(out / "latents.npz")
    assert saved_names[:6] == [f"{i}.png all=-2" for i in range(5)] + ["0.png all=3"]
    assert relative_error(saved, np.concatenate(expected)) < 1e-6
    for i, name in enumerate(names):
        strip = sheet_cells(out / name, 1, 4)[0]
        for cell, c in zip(strip, [codes, *expected], strict=True):
            drawn = sheet(to_uint8(model.synthesize(c[i : i + 1])), 1).astype(int)
            assert np.abs(cell - drawn).max() <= 2
    assert sheet_cells(out / "grid.png", 5, 4).shape == (5, 4, 128, 128, 3)


def test_codes_of_nvidia_s_projector_are_taken_and_those_of_pytorch_explained(
    inverter, directions, tmp_path, capsys
):
    codes = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
    (tmp_path / "anna").mkdir()
    np.savez(tmp_path / "anna" / "projected_w.npz", w=codes)
    out, flags = tmp_path / "out", [f"--directions={directions}", "--edits", "all=3"]
    assert run(tmp_path / "anna" / "projected_w.npz", out, inverter, *flags) == 0
    names, edited = load_latents(out / "latents.npz")
    assert names == ["anna_projected_w all=3"] and (out / "anna_projected_w.png").exists()
    expected = codes + 3 * np.load(directions)["all"]
    assert relative_error(edited, expected) < 1e-6
    (tmp_path / "latents.pt").touch()
    assert run(tmp_path / "latents.pt", out, inverter, *flags) == 1
    assert "`python -m convert_weights" in capsys.readouterr().err


def test_images_are_inverted_first_and_animated(inverter, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(images, out, inverter, "--edits", "sefa_0=-2:2:4", "--gif") == 0
    assert "6 images, from left to right: input | inversion" in capsys.readouterr().out
    assert sheet_cells(out / "more" / "c.png", 1, 6).shape == (1, 6, 128, 128, 3)
    with Image.open(out / "a.sefa_0.gif") as animation:
        assert animation.n_frames == 6  # four there, two back


def test_a_coordinate_is_set_as_the_published_code_does(inverter, tmp_path, capsys):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(2, 6, 8)).astype(np.float32)
    save_latents(tmp_path / "latents.npz", ["a", "b"], codes)
    mean, step = rng.normal(size=(2, 8)).astype(np.float32)
    save_directions(tmp_path / "pca.npz", {"pca_mean": mean, "pca_0": step})
    flags = [f"--directions={tmp_path}/pca.npz", "--edits", "pca_0@1-2:=3"]
    assert run(tmp_path / "latents.npz", tmp_path / "out", inverter, *flags) == 0
    assert "inversion | pca_0@1-2:=3" in capsys.readouterr().out
    _, found = load_latents(tmp_path / "out" / "latents.npz")
    coordinates = (codes[:, 0] - mean) @ step / (step @ step)
    expected = codes.copy()
    expected[:, 1:3] += ((3 - coordinates)[:, None] * step)[:, None]
    assert relative_error(found, expected) < 1e-6


def test_a_channel_of_stylespace_moves(inverter, tmp_path, capsys):
    model = e4e_jax.load(inverter)
    codes = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    save_latents(tmp_path / "latents.npz", ["a.png", "b.png"], codes)
    assert (
        run(tmp_path / "latents.npz", tmp_path / "out", inverter, "--edits", "style:2:5=0,4") == 0
    )
    assert "codes:" not in capsys.readouterr().out
    ((plain, unmoved, moved),) = sheet_cells(tmp_path / "out" / "a.png", 1, 3)
    assert np.abs(plain - unmoved).max() <= 2 < np.abs(plain - moved).max()

    generator = model.generator
    deviation = channel_deviations(generator)[2][5]
    styles = generator.synthesis.styles(codes)
    styles[2] = styles[2].at[:, 5].add(4 * deviation)
    expected = generator.synthesis(StyleCodes(codes, tuple(styles)))
    expected = sheet(to_uint8(expected)[:1], 1).astype(int)
    assert np.abs(moved - expected).max() <= 2


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--edits", "nothing=1"], "there is no direction nothing"),
        (["--edits", "wrong=1"], "has shape [5]"),
        (["--edits", "style:9:0=1"], "this generator has 5 convolutions"),
        (["--edits", "style:0:99=1"], "and 8 channels in that one"),
        (["--edits", "sefa_0=1", "--directions=nowhere.npz"], "there is no nowhere.npz"),
        (["--edits", "sefa_0=1", "--model=toy/features"], "has no generator"),
        (["--edits", "sefa_0=1", "--model=toy/generator"], "the model has no encoder"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, inverter, images, directions, tmp_path, capsys):
    if "wrong=1" in flags:
        flags = [*flags, f"--directions={directions}"]
    assert run(images, tmp_path / "out", inverter, *flags) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1, error


def test_codes_of_another_generator(inverter, tmp_path, capsys):
    save_latents(tmp_path / "latents.npz", ["a"], np.ones((1, 18, 512)))
    assert run(tmp_path / "latents.npz", tmp_path / "out", inverter, "--edits", "sefa_0=1") == 1
    error = capsys.readouterr().err
    assert "holds codes [1, 18, 512]; expected [N, 6, 8]" in error
