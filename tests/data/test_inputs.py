"""Sketches and maps of labels, from files to what an encoder reads."""

import io
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from e4e_jax.data.images import ImageError, to_float
from e4e_jax.data.inputs import decode_labels, input_source, label_colours, to_input
from e4e_jax.data.sources import ImageFiles
from e4e_jax.models.encoder import EncoderConfig
from e4e_jax.models.irse import IRSEConfig

RNG = np.random.default_rng(0)


def config(channels, **changes):
    backbone = IRSEConfig(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), in_channels=channels)
    return EncoderConfig(image_size=(16, 16), backbone=backbone, **changes)


def read(path, config):
    """What an encoder of this configuration takes of a file, [H, W, C]."""
    return np.asarray(to_input(to_float(input_source(ImageFiles([path]), config)[0])[None], config))


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def with_palette(labels):
    image = Image.fromarray(labels, "P")
    image.putpalette([level for i in range(256) for level in (255 - i, i, 7)])
    return image


def test_what_is_read_follows_from_the_channels_and_the_bundle():
    assert [config(n).reads for n in (1, 3, 19)] == ["grey", "rgb", "labels"]
    assert config(3, reads="labels").image_channels == 3
    assert config(6, iterative=True).reads == "rgb"
    for changes, sentence in (
        ({"channels": 4, "reads": "rgb"}, "an encoder of rgb has 4 channels; expected 3"),
        ({"channels": 300}, "an encoder of labels has 300 channels; expected 256 at most"),
        ({"channels": 3, "reads": "depth"}, "reads is 'depth'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            config(**changes)


def test_a_photograph_stays_as_it_is(tmp_path):
    image = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png", config(3))[0], to_float(image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_sketch_is_grey_from_0_to_1(mode, tmp_path):
    image = RNG.integers(0, 256, (16, 16) + (3,) * (mode == "RGB"), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", config(1))
    # The published code: mode L, and ToTensor, which divides by 255.
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("L"), np.float32) / 255
    assert found.shape == (1, 16, 16, 1)
    np.testing.assert_allclose(found[0, ..., 0], expected, rtol=1e-6)


def test_a_map_of_labels_is_one_hot(tmp_path):
    labels = RNG.integers(0, 19, (16, 16)).astype(np.uint8)
    grey = Image.fromarray(labels)
    for name, image in (
        ("grey", grey),
        ("palette", with_palette(labels)),
        ("rgb", grey.convert("RGB")),
        ("wide", Image.fromarray(labels.astype(np.uint16))),
    ):
        image.save(tmp_path / f"{name}.png")
        found = read(tmp_path / f"{name}.png", config(19))
        np.testing.assert_array_equal(found[0], np.eye(19, dtype=np.float32)[labels])
    # Three classes are no colours.
    few = labels % 3
    Image.fromarray(few).save(tmp_path / "few.png")
    found = read(tmp_path / "few.png", config(3, reads="labels"))
    np.testing.assert_array_equal(found[0], np.eye(3, dtype=np.float32)[few])


def test_labels_of_another_size_take_the_nearest_pixel(tmp_path):
    labels = np.kron(RNG.integers(0, 19, (16, 16)), np.ones((3, 3))).astype(np.uint8)
    with_palette(labels).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", config(19))
    np.testing.assert_array_equal(found[0], np.eye(19, dtype=np.float32)[labels[1::3, 1::3]])


def test_grey_pngs_of_few_bits_hold_class_numbers():
    rows = b"".join(b"\0" + bytes([16 * (2 * i) + 2 * i + 1] * 4) for i in range(8))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 4, 0, 0, 0, 0)),  # 8x8, 4 bits, grey
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )
    expected = 2 * np.arange(8)[:, None] + np.arange(8) % 2
    np.testing.assert_array_equal(decode_labels(data, 16), expected)
    packed = png(with_palette(expected.astype(np.uint8)), bits=4)
    np.testing.assert_array_equal(decode_labels(packed, 16), expected)
    one_bit = png(Image.fromarray(expected % 2 == 1))
    np.testing.assert_array_equal(decode_labels(one_bit, 2), expected % 2)


def test_files_that_hold_no_labels_are_one_sentence(tmp_path):
    labels = np.full((16, 16), 19, np.uint8)
    Image.fromarray(labels).save(tmp_path / "high.png")
    with pytest.raises(ImageError, match=r"high.png holds class 19; expected 0 to 18, for the .*"):
        read(tmp_path / "high.png", config(19))
    Image.fromarray(labels).save(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="a.jpg .* JPEG changes class numbers"):
        read(tmp_path / "a.jpg", config(19))
    Image.fromarray(RNG.integers(0, 19, (16, 16, 3), np.uint8)).save(tmp_path / "colours.png")
    with pytest.raises(ImageError, match="colours.png .* it is in colours, expected class numbers"):
        read(tmp_path / "colours.png", config(19))
    (tmp_path / "broken.png").write_bytes((tmp_path / "colours.png").read_bytes()[:60])
    with pytest.raises(ImageError, match="broken.png cannot be decoded"):
        read(tmp_path / "broken.png", config(19))


def test_every_class_has_a_colour_and_other_colours_have_no_class():
    assert len(np.unique(label_colours(256), axis=0)) == 256
    assert not label_colours(1).any()
    strange = to_float(np.full((1, 16, 16, 3), 77, np.uint8))
    assert not np.any(to_input(strange, config(19)))
    # From bfloat16, in which images may come, too.
    colours = to_float(label_colours(256).reshape(1, 16, 16, 3))
    classes = np.argmax(to_input(jax.numpy.asarray(colours), config(256)), axis=-1)
    np.testing.assert_array_equal(classes.reshape(-1), np.arange(256))
