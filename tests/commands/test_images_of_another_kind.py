"""Commands say what a model was trained on where images look like something else."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from e4e_jax import bundle
from e4e_jax.__main__ import main
from e4e_jax.data.images import save_png
from e4e_jax.inversion.domain import HELD_OUT, TRAINED_ON
from e4e_jax.toy.faces import ToyFaces


def noted(inverter, path, l2):
    networks = bundle.load_bundle(inverter).networks
    about = {"images": "grey walls", "size": [16, 16]}
    held_out = {"count": 512, "l2_mean": l2, "l2_largest": l2}
    bundle.save_bundle(path, "inverter", networks, {TRAINED_ON: about, HELD_OUT: held_out})
    return path


@pytest.mark.parametrize(
    "command, flags",
    [
        ("invert", []),
        ("invert", ["--refine=1"]),
        ("edit", ["--edits", "sefa_0=1"]),
        ("interpolate", []),
    ],
)
def test_images_of_another_kind_are_named(command, flags, inverter, images, tmp_path, capsys):
    for model, said in [(noted(inverter, tmp_path / "strict", 1e-4), True),
                        (noted(inverter, tmp_path / "lax", 1e3), False)]:  # fmt: skip
        out = tmp_path / f"out of {model.name}"
        assert main([command, str(images), str(out), f"--model={model}", *flags]) == 0
        error = capsys.readouterr().err
        sentence = "6 of 6 images (a.png, b.jpg, b.png, ...) look like something else than what"
        assert (sentence in error) == said, error
        assert ("(grey walls, 16x16): inversions" in error) == said


def test_styles_mixed_of_one_folder_are_said_once(inverter, images, tmp_path, capsys):
    model = noted(inverter, tmp_path / "model", 1e-4)
    assert main(["mix", str(images), str(images), str(tmp_path / "out"), f"--model={model}"]) == 0
    assert capsys.readouterr().err.count("something else") == 1


def test_the_shipped_inverter_knows_faces_from_photographs_and_drawings(tmp_path, capsys):
    faces = tmp_path / "faces"
    faces.mkdir()
    for seed in (0, 5):
        for i, face in enumerate(ToyFaces(4, seed=seed, start=10**9).read_many(range(4))):
            save_png(faces / f"{seed}-{i}.png", face)
    assert main(["invert", str(faces), str(tmp_path / "a")]) == 0
    assert "something else" not in capsys.readouterr().err

    rng = np.random.default_rng(0)
    others = {"noise.png": rng.integers(0, 256, (64, 64, 3), np.uint8)}
    scene = np.linspace([90, 140, 220], [60, 110, 40], 200)[:, None].repeat(300, 1)  # sky to grass
    scene[110:150, 60:240] = [150, 20, 30]
    others["scene.png"] = scene.astype(np.uint8)
    drawing = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(drawing).ellipse([40, 30, 210, 230], outline="black", width=4)
    others["drawing.png"] = np.asarray(drawing)
    folder = tmp_path / "others"
    folder.mkdir()
    for name, image in others.items():
        save_png(folder / name, image)
    (faces / "0-0.png").rename(folder / "face.png")
    assert main(["invert", str(folder), str(tmp_path / "b")]) == 0
    error = capsys.readouterr().err
    assert "3 of 4 images (drawing.png, noise.png, scene.png) look like something else" in error
    assert "(built-in toy faces, 64x64)" in error
