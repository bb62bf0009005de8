import numpy as np
import pytest

from e4e_jax.data.sheets import sheet


def test_cells_are_large_enough_to_see_and_columns_have_names():
    colours = np.array([[0, 0, 0], [80, 160, 240], [250, 120, 10]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 48, 60, 3))
    plain = sheet(images, 2)
    assert plain.dtype == np.uint8 and plain.shape == (2 * 144, 2 * 180, 3)
    for i, colour in enumerate([*colours, [255, 255, 255]]):  # the cell left over is white
        row, column = divmod(i, 2)
        cell = plain[row * 144 : row * 144 + 144, column * 180 : column * 180 + 180]
        assert (cell == colour).all()

    labelled = sheet(images, 2, ["input", "inversion"])
    heading = labelled[: -len(plain)]
    np.testing.assert_array_equal(labelled[-len(plain) :], plain)
    for half in np.split(heading, 2, axis=1):
        dark = np.argwhere(half.min(axis=-1) < 128)
        assert len(dark) > 20
        (top, left), (bottom, right) = dark.min(0), dark.max(0)
        assert top > 0 and bottom < len(half) - 1  # whole letters
        assert abs(left + right - 180) <= 4  # in the middle


def test_large_images_stay_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 130, 3), np.uint8)
    np.testing.assert_array_equal(sheet(images, 2), np.concatenate(images, axis=1))


@pytest.mark.parametrize("text", ["a" * 300, "wide " * 50, "", "\n", "smile\n=1", "ÄÖÜ żółw 顔"])
def test_any_text_stays_within_its_column(text):
    images = np.zeros((3, 64, 64, 3), np.uint8)
    found = sheet(images, 3, ["", text, ""])
    heading = found[:-128]
    assert found.shape[1] == 3 * 128 and 8 < len(heading) < 40
    assert (heading[:, :128] == 255).all() and (heading[:, 256:] == 255).all()


def test_a_text_for_each_column():
    with pytest.raises(ValueError, match="2 labels for 3 columns"):
        sheet(np.zeros((3, 8, 8, 3), np.uint8), 3, ["a", "b"])


def test_letters_without_freetype(monkeypatch):
    from PIL import ImageFont

    def without(size=None):
        if size is not None:
            raise ImportError("The _imagingft C module is not installed")
        return ImageFont.load_default_imagefont()

    monkeypatch.setattr(ImageFont, "load_default", without)
    found = sheet(np.zeros((1, 64, 64, 3), np.uint8), 1, ["input 顔"])
    assert found.shape[1] == 128 and (found[:-128].min(axis=-1) < 128).sum() > 20
