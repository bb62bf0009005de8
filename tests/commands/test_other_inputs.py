"""The commands with encoders of sketches and of maps of labels."""

import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error
from PIL import Image

import e4e_jax
from e4e_jax import bundle
from e4e_jax.__main__ import main
from e4e_jax.data.images import decode_image
from e4e_jax.data.inputs import label_colours
from e4e_jax.data.sheets import sheet
from e4e_jax.inversion.folder import load_latents
from e4e_jax.metrics import passes
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig

CLASSES = 5


@pytest.fixture(scope="module", params=["grey", "labels"])
def given(request, inverter, tmp_path_factory):
    """A bundle, a folder of three files for it (one damaged), and what the encoder reads of two."""
    folder = tmp_path_factory.mktemp(request.param)
    channels = 1 if request.param == "grey" else CLASSES
    config = EncoderConfig(
        num_styles=6, style_dim=8, image_size=(16, 16), coarse=1, middle=2,
        backbone=IRSEConfig((16, 16, 16, 16), (1, 1, 1, 1), channels),
    )  # fmt: skip
    networks = {
        "encoder": randomize(Encoder(config, rngs=nnx.Rngs(1))),
        "generator": bundle.load_network(inverter, "generator"),
    }
    bundle.save_bundle(folder / "bundle", "inverter", networks)
    (folder / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256 if channels == 1 else channels, (2, 16, 16))
    for i, image in enumerate(pixels.astype(np.uint8)):
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
    (folder / "images" / "broken.png").write_bytes(b"no image")
    if channels == 1:
        return folder, pixels[..., None].astype(np.float32) / 255
    return folder, np.eye(channels, dtype=np.float32)[pixels]


def test_invert_feeds_them_as_published(given, tmp_path, capsys):
    folder, expected = given
    flags = [str(tmp_path / "out"), f"--model={folder}/bundle", "--batch_size=4"]
    assert main(["invert", str(folder / "images"), *flags]) == 0
    output = capsys.readouterr().out
    assert "2 images inverted" in output and "broken.png" in output
    names, codes = load_latents(tmp_path / "out" / "latents.npz")
    model = e4e_jax.load(folder / "bundle")
    assert names == ["0.png", "1.png"]
    assert relative_error(codes, model.encode(expected)) < 1e-5
    read = model.read_input(folder / "images" / "1.png")
    np.testing.assert_allclose(read[0], expected[1], rtol=1e-6)
    assert main(["invert", str(folder / "images"), *flags, "--refine=3"]) == 1
    assert f"--refine works on photographs, and {folder}/bundle reads" in capsys.readouterr().err

    (folder / "images" / "broken.png").unlink(missing_ok=True)
    flags[0] = str(tmp_path / "edited")
    assert main(["edit", str(folder / "images"), *flags, "--edits", "sefa_0=1"]) == 0
    strip = decode_image(tmp_path / "edited" / "0.png")
    shown = np.repeat(expected[0] * 255, 3, -1) if model.reads == "grey" else (
        label_colours(CLASSES)[expected[0].argmax(-1)]
    )  # fmt: skip
    first_column = sheet(np.rint(shown).astype(np.uint8)[None], 1)
    assert (strip[-len(first_column) :, : first_column.shape[1]] == first_column).all()


def test_another_range_or_shape_is_one_sentence(given):
    folder, expected = given
    model = e4e_jax.load(folder / "bundle")
    with pytest.raises(ValueError, match=r"images are from -1 to 1; expected .* from 0 to 1"):
        model.encode(2 * expected - 1)
    if model.reads == "labels":
        with pytest.raises(ValueError, match="pixels without a class"):
            model.encode(np.zeros_like(expected))
    with pytest.raises(ValueError, match="images has shape"):
        model.encode(np.zeros((1, 16, 16, 3), np.float32))
    with pytest.raises(ValueError, match="which its images cannot be compared with; expected"):
        passes.inversion_functions(model)  # of eval.py
