"""What the commands make of names, files and strengths that are not as they should be."""

import os

import numpy as np
import pytest
from PIL import Image

from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image
from e4e_jax.data.sheets import SMALLEST_CELL
from e4e_jax.editing.files import save_directions
from e4e_jax.inversion.folder import load_latents, save_latents


@pytest.fixture
def latents(tmp_path):
    path = tmp_path / "codes" / "latents.npz"
    path.parent.mkdir()
    codes = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    save_latents(path, ["a.png", "b.png"], codes)
    return path


def run(command, inverter, *arguments):
    return main([command, *map(str, arguments), f"--model={inverter}"])


@pytest.mark.parametrize("bad", [["../../x.png", "{}/z.png"], ["a", "a"]])
def test_names_of_latents_are_not_trusted(bad, inverter, latents, tmp_path, capsys):
    arrays = dict(np.load(latents))
    arrays["names"] = np.array([name.format(tmp_path) for name in bad])
    np.savez(latents, **arrays)
    scores = tmp_path / "scores.npz"
    np.savez(scores, smile=[0.0, 1.0])
    before, out = sorted(tmp_path.rglob("*")), tmp_path / "deep" / "er" / "out"
    for command, *arguments in (
        ("edit", latents, out, "--edits", "sefa_0=1"),
        ("mix", latents, latents, out),
        ("interpolate", latents, out, "--frames=2"),
        ("directions", f"{out}.npz", f"--latents={latents}", f"--scores={scores}"),
    ):
        assert run(command, inverter, *arguments) == 1
        error = capsys.readouterr().err
        assert "latents.npz holds the name" in error and error.count("\n") == 1, error
        assert sorted(tmp_path.rglob("*")) == before


def test_codes_that_are_not_finite_are_refused(inverter, latents, tmp_path, capsys):
    arrays = dict(np.load(latents))
    arrays["codes"][1, 2, 3] = np.nan
    np.savez(latents, **arrays)
    assert run("edit", inverter, latents, tmp_path / "out", "--edits", "sefa_0=1") == 1
    assert "the codes of b.png are not finite numbers" in capsys.readouterr().err


def test_links_in_out_are_not_followed(inverter, latents, tmp_path, capsys):
    save_latents(latents, ["more/a.png", "b.png"], load_latents(latents)[1])
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept.png").write_bytes(b"kept")
    (out / "more").symlink_to(elsewhere)
    assert run("edit", inverter, latents, out, "--edits", "sefa_0=1") == 1
    assert "more is a symbolic link" in capsys.readouterr().err
    (out / "more").unlink()
    for name in ("b.png", "grid.png", "sheets.json"):
        (out / name).symlink_to(elsewhere / "kept.png")
    assert run("edit", inverter, latents, out, "--edits", "sefa_0=1") == 0
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [b"kept"]
    assert decode_image(out / "more" / "a.png").shape[2] == 3


def test_damaged_images_are_left_out_and_named(inverter, images, latents, tmp_path, capsys):
    (images / os.fsdecode(b"br\xf6ken\n.png")).write_bytes(b"")
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:60])
    edited, mixed = tmp_path / "edited", tmp_path / "mixed"
    assert run("edit", inverter, images, edited, "--edits", "sefa_0=1") == 0
    output = capsys.readouterr().out
    assert "6 images, from left to right" in output and output.count("left out: ") == 2
    assert "br%F6ken%0A.png" in output and "cut.png" in output
    assert len(load_latents(edited / "latents.npz")[0]) == 6
    assert run("mix", inverter, latents, images, mixed) == 0
    assert "2 sources (top row), 6 destinations" in capsys.readouterr().out
    strict = tmp_path / "strict"
    flags = "--max_bad_images=1", "--edits", "sefa_0=1"
    assert run("edit", inverter, images, strict, *flags) == 1
    assert "2 bad images were met where --max_bad_images allows 1" in capsys.readouterr().err
    assert run("edit", inverter, images / "cut.png", strict, "--edits", "sefa_0=1") == 1
    assert "none of the 1 images at" in capsys.readouterr().err and not strict.exists()


def test_every_image_has_a_strip_of_its_own(inverter, tmp_path, capsys):
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, kind in (("x.jpg", "JPEG"), ("x.png", "PNG"), ("x.jpg.png", "PNG")):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        image.save(folder / name, kind)
    flags = "--edits", "sefa_0=1", "sefa_0=2", "--gif"
    assert run("edit", inverter, folder / "x.jpg", out, *flags) == 0
    first = decode_image(out / "x.png")
    assert run("edit", inverter, folder, out, *flags) == 0
    assert "3 images" in capsys.readouterr().out
    strips = {path.name: decode_image(path) for path in out.glob("x*.png")}
    assert set(strips) == {"x.png", "x.png.png", "x.jpg.png"}
    assert (strips["x.png"] == first).all()  # which stays where it was
    originals = [strip[-SMALLEST_CELL:, :SMALLEST_CELL] for strip in strips.values()]
    assert not any((a == b).all() for i, a in enumerate(originals) for b in originals[:i])
    assert len(list(out.glob("*.gif"))) == 6
    # An image of pictures is none: neither command takes the other's folder.
    assert run("invert", inverter, out, tmp_path / "again") == 1
    assert "contains no images, but" in capsys.readouterr().err
    assert run("invert", inverter, folder, out) == 1
    assert "sheets.json lists what other commands made" in capsys.readouterr().err
    (tmp_path / "inverted").mkdir()
    (tmp_path / "inverted" / "inversion.json").write_text("{}")
    for command, *given in (("edit", "--edits", "sefa_0=1"), ("interpolate",)):
        assert run(command, inverter, folder, tmp_path / "inverted", *given) == 1
        assert "holds inversions" in capsys.readouterr().err


def test_labels_of_directions_lead_nowhere(inverter, latents, tmp_path):
    save_directions(tmp_path / "d.npz", {"../../../evil": np.ones(8, np.float32)})
    out = tmp_path / "deep" / "er" / "out"
    flags = f"--directions={tmp_path}/d.npz", "--edits", "../../../evil=1", "--gif"
    before = {*tmp_path.iterdir()}
    assert run("edit", inverter, latents, out, *flags) == 0
    assert {*tmp_path.iterdir()} - before == {tmp_path / "deep"}
    assert len(list(out.glob("*.gif"))) == 2 and len(list((tmp_path / "deep").rglob("*"))) == 9


def test_extreme_edits_are_said_and_impossible_ones_refused(inverter, latents, tmp_path, capsys):
    save_directions(tmp_path / "d.npz", {"large": np.full(8, 1e33, np.float32)})
    out = tmp_path / "out"
    assert run("edit", inverter, latents, out, "--edits", "sefa_0=1e6", "style:0:1=1e6") == 0
    first, second = capsys.readouterr().err.splitlines()
    assert "the edit sefa_0=1e+06 leads to codes" in first and "times as far" in first
    assert "the edit style:0:1=1e+06 moves a channel by more than 100" in second
    flags = f"--directions={tmp_path}/d.npz", "--edits", "large=1e6"
    assert run("edit", inverter, latents, tmp_path / "no", *flags) == 1
    error = capsys.readouterr().err
    assert "large=1e+06 leads to codes that are not finite numbers" in error
    assert error.count("\n") == 1 and not (tmp_path / "no").exists()


def test_pipes_and_devices_are_not_waited_for(inverter, images, tmp_path, capsys, caplog):
    os.mkfifo(images / "pipe.png")
    (images / "broken.png").symlink_to(images / "nowhere.png")
    assert run("invert", inverter, images, tmp_path / "out") == 0
    assert "6 images inverted" in capsys.readouterr().out
    assert "named pipes (pipe.png)" in caplog.text and "broken links (broken.png)" in caplog.text
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    for command, *arguments in (
        ("invert", images / "pipe.png", tmp_path / "no"),
        ("edit", pipe, tmp_path / "no", "--edits", "sefa_0=1"),
        ("edit", images, tmp_path / "no", f"--directions={pipe}", "--edits", "sefa_0=1"),
        ("directions", tmp_path / "no.npz", f"--latents={pipe}", f"--scores={pipe}"),
        ("directions", tmp_path / "no.npz", f"--latents={tmp_path}/out/latents.npz",
         f"--scores={pipe}"),
    ):  # fmt: skip
        assert run(command, inverter, *arguments) == 1
        error = capsys.readouterr().err
        assert "pipe" in error and error.count("\n") == 1, error
