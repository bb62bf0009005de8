"""python -m e4e_jax invert, on a tiny random inverter."""

import json

import numpy as np
import pytest
from helpers import drawn_face, needs_dlib, relative_error, run_two_processes, sheet_cells
from PIL import Image

import e4e_jax
from e4e_jax import bundle
from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image, save_png, to_float, to_uint8
from e4e_jax.inversion.align import crop_face, find_faces
from e4e_jax.inversion.folder import load_latents


def run(images, out, inverter, *flags):
    return main(["invert", str(images), str(out), f"--model={inverter}", "--batch_size=4", *flags])


def test_every_image_gets_its_code_and_its_inversion(inverter, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(images, out, inverter) == 0
    assert "6 images inverted" in capsys.readouterr().out
    names, codes = load_latents(out / "latents.npz")
    assert names == sorted(["a.png", "b.jpg", "b.png", "grey.png", "large.png", "more/c.png"])
    files = ["a.png", "b.jpg.png", "b.png.png", "grey.png", "large.png", "more/c.png"]
    model = e4e_jax.load(inverter)
    for name, file, code in zip(names, files, codes, strict=True):
        image = Image.fromarray(decode_image(images / name)).resize((16, 16), Image.BILINEAR)
        expected = model.encode(to_float(np.asarray(image))[None])
        assert relative_error(code[None], expected) < 1e-5
        drawn = to_uint8(model.synthesize(expected))[0].astype(int)
        assert np.abs(decode_image(out / file) - drawn).max() <= 1
    assert sheet_cells(out / "grid.png", 3, 4).shape == (3, 4, 128, 128, 3)
    assert not (out / ".parts").exists()


TWO_HOSTS = """
import sys
from e4e_jax.__main__ import main
sys.exit(main(["invert", *sys.argv[1:], "--batch_size=2"]))
"""


@pytest.mark.slow
def test_two_hosts_share_the_files(inverter, images, tmp_path):
    (images / "a.png").write_bytes(b"no image")
    arguments = str(images), str(tmp_path / "out"), f"--model={inverter}"
    first, second = run_two_processes(TWO_HOSTS, *arguments)
    assert "5 images inverted" in first and "images inverted" not in second
    assert "left out: " in first + second
    assert run(images, tmp_path / "alone", inverter) == 0
    (names, codes), (expected_names, expected) = (
        load_latents(tmp_path / folder / "latents.npz") for folder in ("out", "alone")
    )
    assert names == expected_names and relative_error(codes, expected) < 1e-5
    assert (tmp_path / "out" / "grid.png").exists() and not (tmp_path / "out" / ".parts").exists()


def test_it_goes_on_where_it_stopped(inverter, images, tmp_path, capsys):
    out = tmp_path / "out"
    hidden = images.parent / "a.png"
    (images / "a.png").rename(hidden)
    assert run(images, out, inverter) == 0
    before = dict(zip(*load_latents(out / "latents.npz"), strict=True))
    hidden.rename(images / "a.png")
    capsys.readouterr()
    assert run(images, out, inverter) == 0
    assert "1 images inverted, 5 were there already" in capsys.readouterr().out
    after = dict(zip(*load_latents(out / "latents.npz"), strict=True))
    assert set(after) == {*before, "a.png"}
    for name, code in before.items():
        np.testing.assert_array_equal(after[name], code)


def test_other_settings_do_not_mix(inverter, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(images / "a.png", out, inverter) == 0
    assert run(images / "a.png", out, inverter, "--refine=2") == 1
    error = capsys.readouterr().err
    assert "holds inversions made with method 'encoder'" in error and "Traceback" not in error


@pytest.mark.parametrize("method", ["w", "w_plus", "pti"])
def test_refinement_gets_closer(method, inverter, images, tmp_path):
    for steps, out in [(0, tmp_path / "plain"), (30, tmp_path / "refined")]:
        assert run(images / "a.png", out, inverter, f"--refine={steps}", f"--method={method}") == 0
    target = decode_image(images / "a.png").astype(float)
    errors = [
        np.mean((decode_image(tmp_path / name / "a.png") - target) ** 2)
        for name in ("plain", "refined")
    ]
    assert errors[1] < errors[0]
    extra = {"w": "a.noise.npz", "pti": "a.generator"}
    if method in extra:
        assert (tmp_path / "refined" / extra[method]).exists()


def test_an_image_that_cannot_be_decoded_is_named(inverter, images, tmp_path, capsys):
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:60])
    assert run(images, tmp_path / "out", inverter) == 0
    captured = capsys.readouterr()
    assert "left out:" in captured.out and "broken.png" in captured.out
    names, _ = load_latents(tmp_path / "out" / "latents.npz")
    assert len(names) == 6
    assert run(images, tmp_path / "strict", inverter, "--max_bad_images=0") == 1


def test_where_no_image_can_be_decoded_nothing_is_called_done(inverter, images, tmp_path, capsys):
    broken = images / "broken.png"
    broken.write_bytes((images / "a.png").read_bytes()[:60])
    assert run(broken, tmp_path / "out", inverter) == 1
    captured = capsys.readouterr()
    assert "none of the 1 images at" in captured.err.splitlines()[-1]
    assert "codes:" not in captured.out


@pytest.mark.parametrize(
    "change, sentence",
    [
        (("images", "nowhere"), "there are no images at nowhere"),
        (("--model", "toy/generator"), "has no encoder"),
        (("--batch_size", "0"), "--batch_size is 0; expected at least 1"),
        (("--iterations", "3"), "the encoder is not iterative"),
    ],
)
def test_mistakes_are_one_sentence(change, sentence, inverter, images, tmp_path, capsys):
    option, value = change
    arguments = {"images": str(images), "--model": str(inverter)} | {option: value}
    path = arguments.pop("images")
    flags = [f"{name}={value}" for name, value in arguments.items()]
    assert main(["invert", path, str(tmp_path / "out"), *flags]) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1, error


def test_settings_are_written_beside_the_result(inverter, images, tmp_path):
    assert run(images / "a.png", tmp_path / "out", inverter) == 0
    settings = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert settings["method"] == "encoder" and settings["iterations"] == 1


@needs_dlib
def test_faces_are_aligned_first_and_said_where_there_are_none(inverter, tmp_path, capsys):
    folder = tmp_path / "photographs"
    folder.mkdir()
    save_png(folder / "face.png", drawn_face())
    save_png(folder / "wall.png", np.full((100, 100, 3), 99, np.uint8))
    assert run(folder, tmp_path / "out", inverter, "--align") == 0
    output = capsys.readouterr().out
    assert "left out: wall.png: no face was found" in output and "1 images inverted" in output
    (name,), codes = load_latents(tmp_path / "out" / "latents.npz")
    (points,) = find_faces(drawn_face())
    aligned = crop_face(drawn_face(), points, 16)
    expected = e4e_jax.load(inverter).encode(to_float(aligned)[None])
    assert name == "face.png" and relative_error(codes, expected) < 1e-5


@needs_dlib
def test_an_encoder_of_faces_warns_of_what_is_not_aligned(inverter, tmp_path, capsys):
    opened = bundle.load_bundle(inverter)
    options = {"options": {"dataset_type": "ffhq_encode"}}
    bundle.save_bundle(tmp_path / "faces", "inverter", opened.networks, options)
    save_png(tmp_path / "face.png", drawn_face())
    assert run(tmp_path / "face.png", tmp_path / "out", tmp_path / "faces") == 0
    assert "face.png show no face where this encoder expects it" in capsys.readouterr().err


def test_inputs_are_never_written_over(inverter, images, tmp_path, capsys):
    before = {path: path.read_bytes() for path in images.rglob("*.*")}
    assert run(images, images, inverter) == 1
    assert "is one of the images to read" in capsys.readouterr().err
    assert (
        main(["edit", str(images), str(images), f"--model={inverter}", "--edits", "sefa_0=1"]) == 1
    )
    assert "is one of the images to read" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in images.rglob("*.*")} == before


def test_an_image_named_as_the_grid_keeps_its_own_inversion(inverter, images, tmp_path):
    (images / "a.png").rename(images / "grid.png")
    assert run(images, tmp_path / "out", inverter) == 0
    assert decode_image(tmp_path / "out" / "grid.png.png").shape == (16, 16, 3)
