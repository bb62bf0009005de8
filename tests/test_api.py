"""The library as one calls it, beside what the commands write."""

import jax
import numpy as np
import pytest
from helpers import relative_error, sheet_cells

import e4e_jax
from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image, to_uint8
from e4e_jax.data.sheets import sheet
from e4e_jax.inversion.folder import load_latents
from e4e_jax.models.stylegan2 import StyleCodes
from e4e_jax.toy.faces import FACTORS


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "faces"
    assert main(["toy", str(folder), "--count=2"]) == 0
    return folder


@pytest.fixture(scope="module")
def model():
    return e4e_jax.load("toy")


@pytest.fixture(scope="module")
def codes(model, faces):
    paths = sorted(faces.iterdir())
    return np.concatenate([model.encode(model.read_input(path)) for path in paths])


def test_the_library_does_what_the_commands_do(faces, tmp_path):
    """Line by line what one writes, beside the files of the commands and of eval.py's engine."""
    model = e4e_jax.load("toy")
    images = model.read_input(faces / "face0000.png")
    inverted = model.invert(images)
    edited = model.edit(inverted.codes, "smile=1", "glasses=0.5")
    pictures = model.synthesize(edited)
    report = e4e_jax.evaluate(model, str(faces), metrics=["l2"], cache="", progress=None)

    assert images.shape == (1, 64, 64, 3) and images.dtype == np.float32
    assert inverted.codes.shape == edited.shape == (1, 10, 64)
    assert inverted.images.shape == pictures.shape == (1, 64, 64, 3)

    arguments = [str(faces / "face0000.png"), str(tmp_path / "out")]
    assert main(["invert", *arguments]) == 0
    written = decode_image(tmp_path / "out" / "face0000.png")
    assert np.abs(to_uint8(inverted.images)[0].astype(int) - written).max() <= 1
    _, codes = load_latents(tmp_path / "out" / "latents.npz")
    assert relative_error(inverted.codes, codes) < 1e-5
    steps = tmp_path / "smile"
    latents = str(tmp_path / "out" / "latents.npz")
    assert main(["edit", latents, str(steps), "--edits", "smile=1"]) == 0
    flags = ["--edits", "glasses=0.5"]
    assert main(["edit", f"{steps}/latents.npz", str(tmp_path / "both"), *flags]) == 0
    ((_, cell),) = sheet_cells(next((tmp_path / "both").glob("face*.png")), 1, 2)
    expected = sheet(to_uint8(pictures), 1).astype(int)
    assert np.abs(cell - expected).max() <= 1

    every = np.concatenate([model.read_input(path) for path in sorted(faces.iterdir())])
    error = np.mean((np.clip(model.invert(every).images, -1, 1) - every) ** 2)
    assert abs(report["l2"] / error - 1) < 1e-4


def test_edits_in_python_are_those_of_the_command_line(model, faces, codes, tmp_path):
    texts = ["smile=1", "age@4-7=-0.5", "sefa_0=3", "style:3:12=5"]
    assert codes.shape == (2, 10, 64)
    edited = [model.edit(codes, text) for text in texts]
    assert [isinstance(e, StyleCodes) for e in edited] == [False, False, False, True]

    assert main(["edit", str(faces), str(tmp_path / "out"), "--edits", *texts]) == 0
    names, saved = load_latents(tmp_path / "out" / "latents.npz")
    assert names[:2] == ["face0000.png smile=1", "face0001.png smile=1"]
    assert relative_error(np.concatenate(edited[:3]), saved) < 1e-5
    pictures = [model.draw(latents) for latents in (codes, *edited)]
    for i, path in enumerate(sorted(faces.iterdir())):
        cells = [decode_image(path), *(picture[i] for picture in pictures)]
        ((*found,),) = sheet_cells(tmp_path / "out" / path.name, 1, 6)
        for cell, expected in zip(found, cells, strict=True):
            assert np.abs(cell - sheet(expected[None], 1).astype(int)).max() <= 1


def test_edits_follow_one_another(model, codes):
    both = model.edit(codes, "smile=1", "glasses=0.5")
    expected = codes + model.directions["smile"] + 0.5 * model.directions["glasses"]
    assert relative_error(both, expected) < 1e-6
    moved = model.edit(codes, "style:3:12=5", "smile=1")
    images = model.synthesize(moved)
    assert images.shape == (2, 64, 64, 3)
    other = model.synthesize(model.edit(codes, "smile=1", "style:3:12=5"))
    assert np.abs(np.asarray(images) - other).max() < 1e-3
    own = {"wider": np.ones(64, np.float32)}
    assert relative_error(model.edit(codes, "wider=2", directions=own), codes + 2) < 1e-6


def test_edits_are_resolved_and_programs_compiled_once(model, codes, monkeypatch, caplog):
    model.synthesize(model.edit(codes, "style:3:12=1", "sefa_1=1"))
    for name in ("sefa_directions", "channel_deviations"):
        monkeypatch.setattr(f"e4e_jax.editing.written.{name}", None)
    with jax.log_compiles():
        model.synthesize(model.edit(codes, "style:3:12=2", "sefa_1=-1"))
        assert not [record for record in caplog.records if "ompil" in record.getMessage()]
        jax.jit(lambda x: x + 2)(0)
        assert "ompil" in caplog.text  # it would have been seen


def test_directions_lie_beside_the_bundle(model, faces, tmp_path):
    assert set(model.directions) == set(FACTORS)
    assert e4e_jax.load("toy/generator").directions.keys() == model.directions.keys()


@pytest.mark.parametrize(
    "edits, sentence",
    [
        (["smile=1,2"], "the edit smile=1,2 has 2 strengths; expected one"),
        (["frown=1"], "there is no direction frown; expected one of yaw"),
        (["smile"], "is not understood"),
    ],
)
def test_mistakes_are_one_sentence(edits, sentence, model, codes):
    with pytest.raises(ValueError, match=sentence):
        model.edit(codes, *edits)


def test_codes_that_do_not_fit(model, codes):
    with pytest.raises(ValueError, match=r"codes has shape \(2, 64\); expected \[any, 10, 64\]"):
        model.edit(codes[:, 0], "smile=1")
    moved = model.edit(codes, "style:3:12=5")
    with pytest.raises(ValueError, match="there are 3 styles; expected 9"):
        model.synthesize(moved._replace(styles=moved.styles[:3]))
