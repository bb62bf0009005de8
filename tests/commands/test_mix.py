"""python -m e4e_jax mix, on a tiny random inverter."""

import numpy as np
import pytest
from helpers import sheet_cells

import e4e_jax
from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image, to_float, to_uint8
from e4e_jax.data.sheets import sheet
from e4e_jax.inversion.folder import load_latents, save_latents


def run(sources, destinations, out, inverter, *flags):
    paths = [str(path) for path in (sources, destinations, out)]
    return main(["mix", *paths, f"--model={inverter}", "--batch_size=4", *flags])


@pytest.fixture
def latents(tmp_path):
    rng = np.random.default_rng(0)
    codes = {"sources": rng.normal(size=(3, 6, 8)), "kept": rng.normal(size=(2, 6, 8))}
    for name, array in codes.items():
        save_latents(tmp_path / f"{name}.npz", [f"{name[0]}{i}" for i in range(len(array))], array)
    return codes["sources"].astype(np.float32), codes["kept"].astype(np.float32)


def test_every_source_with_every_destination(inverter, latents, tmp_path, capsys):
    sources, kept = latents
    out = tmp_path / "out"
    paths = tmp_path / "sources.npz", tmp_path / "kept.npz"
    assert run(*paths, out, inverter, "--layers=1-3") == 0
    assert "3 sources (top row), 2 destinations (left column)" in capsys.readouterr().out
    names, codes = load_latents(out / "latents.npz")
    assert names[:4] == [*(f"k0 with s{i} @1-3" for i in range(3)), "k1 with s0 @1-3"]
    grid = sheet_cells(out / "grid.png", 3, 4)
    assert (grid[0, 0] == 255).all()
    model = e4e_jax.load(inverter)

    def drawn(code):
        return sheet(to_uint8(model.synthesize(code[None])), 1).astype(int)

    for row in range(3):
        for column in range(4):
            if row == column == 0:
                continue
            expected = sources[column - 1] if row == 0 else kept[row - 1].copy()
            if row and column:
                expected[1:4] = sources[column - 1][1:4]
                np.testing.assert_array_equal(codes[3 * (row - 1) + column - 1], expected)
            assert np.abs(grid[row, column].astype(int) - drawn(expected)).max() <= 2


def test_images_are_inverted_first(inverter, images, latents, tmp_path):
    out = tmp_path / "out"
    assert run(images / "a.png", tmp_path / "kept.npz", out, inverter) == 0
    (code,) = e4e_jax.load(inverter).encode(to_float(decode_image(images / "a.png"))[None])
    names, codes = load_latents(out / "latents.npz")
    assert names == ["k0 with a.png @0-3", "k1 with a.png @0-3"]
    for mixed, kept in zip(codes, latents[1], strict=True):
        np.testing.assert_allclose(mixed[:4], code[:4], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(mixed[4:], kept[4:])


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--layers=4"], "--layers is '4'; expected FIRST-LAST"),
        (["--layers=4-6"], "the layers are 4 to 6; expected layers in order, 0 to 5"),
        (["--batch_size=0"], "--batch_size is 0"),
        (["--model=toy/features"], "has no generator"),
        (["--model=toy"], "holds codes [3, 6, 8]; expected [N, 10, 64]"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, inverter, latents, tmp_path, capsys):
    paths = tmp_path / "sources.npz", tmp_path / "kept.npz"
    assert run(*paths, tmp_path / "out", inverter, *flags) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_the_codes_that_are_read_stay(inverter, latents, tmp_path, capsys):
    (tmp_path / "sources.npz").rename(tmp_path / "latents.npz")
    before = (tmp_path / "latents.npz").read_bytes()
    assert run(tmp_path / "kept.npz", tmp_path / "latents.npz", tmp_path, inverter) == 1
    assert "latents.npz would be replaced" in capsys.readouterr().err
    assert (tmp_path / "latents.npz").read_bytes() == before
