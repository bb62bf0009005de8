"""python -m e4e_jax interpolate, on a tiny random inverter."""

import numpy as np
import pytest
from helpers import relative_error, sheet_cells
from PIL import Image

import e4e_jax
from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image, to_float, to_uint8
from e4e_jax.data.sheets import sheet
from e4e_jax.inversion.folder import load_latents, save_latents


def run(inputs, out, inverter, *flags):
    paths = [str(path) for path in (*inputs, out)]
    return main(["interpolate", *paths, f"--model={inverter}", "--batch_size=4", *flags])


@pytest.fixture
def latents(tmp_path):
    codes = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    save_latents(tmp_path / "codes.npz", ["a", "b", "c"], codes)
    return codes


def test_a_row_of_frames_for_each_pair(inverter, latents, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([tmp_path / "codes.npz"], out, inverter, "--frames=5", "--gif") == 0
    assert "2 rows of 5 frames, through a | b | c" in capsys.readouterr().out
    names, codes = load_latents(out / "latents.npz")
    assert names[:2] == ["a to b 0", "a to b 0.25"] and names[-1] == "b to c 1"
    share = np.linspace(0, 1, 5)[:, None, None]
    expected = [a + share * (b - a) for a, b in zip(latents[:-1], latents[1:], strict=True)]
    assert relative_error(codes, np.concatenate(expected)) < 1e-6
    grid = sheet_cells(out / "grid.png", 2, 5)
    drawn = to_uint8(e4e_jax.load(inverter).synthesize(codes))
    drawn = sheet(drawn, 1).astype(int).reshape(grid.shape)
    assert np.abs(grid - drawn).max() <= 2
    with Image.open(out / "interpolation.gif") as animation:
        assert animation.n_frames == 9 + 7  # b once; there and back again


def test_two_images_are_inverted_first(inverter, images, tmp_path):
    pair = [images / "a.png", images / "b.png"]
    assert run(pair, tmp_path / "out", inverter, "--frames=2") == 0
    names, codes = load_latents(tmp_path / "out" / "latents.npz")
    assert names == ["a.png to b.png 0", "a.png to b.png 1"]
    inputs = np.stack([to_float(decode_image(path)) for path in pair])
    assert relative_error(codes, e4e_jax.load(inverter).encode(inputs)) < 1e-5
    assert not (tmp_path / "out" / "interpolation.gif").exists()


@pytest.mark.parametrize(
    "name, flags, sentence",
    [
        ("codes.npz", ["--frames=1"], "--frames is 1; expected at least 2"),
        ("one.npz", [], "one.npz is one image; expected two or more"),
        ("nowhere.npz", [], "there is no file of latents at"),
    ],
)
def test_mistakes_are_one_sentence(name, flags, sentence, inverter, latents, tmp_path, capsys):
    save_latents(tmp_path / "one.npz", ["a"], latents[:1])
    assert run([tmp_path / name], tmp_path / "out", inverter, *flags) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()
