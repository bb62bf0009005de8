import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from e4e_jax.data.images import (
    ImageError,
    decode_image,
    extensions,
    image_grid,
    resize_image,
    save_png,
    to_float,
    to_uint8,
)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_grey():
    decoded = decode_image(encode(Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8))))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[..., 1], [[0, 100], [200, 255]])
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_bilevel():
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode_image(encode(image)), [[[0, 0, 0], [255, 255, 255]]])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(format):
    values = np.array([[0, 128, 129, 257], [30000, 32768, 65406, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(values), format))
    np.testing.assert_array_equal(decoded[..., 0], np.rint(values / 257.0).astype(np.uint8))
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 1])


def test_big_endian_16_bit_grey(tmp_path):
    (tmp_path / "grey.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0x80, 0x00, 0xFF, 0xFF]))
    decoded = decode_image(tmp_path / "grey.pgm")
    np.testing.assert_array_equal(decoded[0, :, 0], [128, 255])


def test_palette():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    image.putdata([0, 1, 2])
    np.testing.assert_array_equal(
        decode_image(encode(image)), [[[10, 20, 30], [200, 100, 50], [0, 0, 255]]]
    )


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette_with_transparency_is_composited_on_white(format):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    decoded = decode_image(encode(image, format, transparency=0))
    np.testing.assert_array_equal(decoded, [[[255, 255, 255], [200, 100, 50]]])


def test_transparent_colour_of_rgb():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    decoded = decode_image(encode(image, transparency=(1, 2, 3)))
    np.testing.assert_array_equal(decoded, [[[255, 255, 255], [4, 5, 6]]])


def test_alpha_is_composited_on_white():
    pixels = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 51]]], np.uint8)
    decoded = decode_image(encode(Image.fromarray(pixels)))
    np.testing.assert_array_equal(decoded[0, :2], [[100, 0, 200], [255, 255, 255]])
    blend = [0.2 * 100 + 0.8 * 255, 0.8 * 255, 0.2 * 200 + 0.8 * 255]
    np.testing.assert_allclose(decoded[0, 2], blend, atol=1)


def test_grey_with_alpha():
    image = Image.merge("LA", [Image.new("L", (1, 1), 40), Image.new("L", (1, 1), 0)])
    np.testing.assert_array_equal(decode_image(encode(image)), [[[255, 255, 255]]])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    # Full cyan, full magenta, full black, and paper.
    inks = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0)]
    expected = [(0, 255, 255), (255, 0, 255), (0, 0, 0), (255, 255, 255)]
    for ink, colour in zip(inks, expected, strict=True):
        decoded = decode_image(encode(Image.new("CMYK", (16, 16), ink), format))
        np.testing.assert_allclose(decoded[8, 8], colour, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    # How a camera that writes this tag stores the upright picture.
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    np.testing.assert_array_equal(decode_image(encode(image, exif=exif)), upright)


def test_path_and_bytes_agree(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    content = encode(image, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(content)
    from_path = decode_image(str(tmp_path / "photo.jpg"))
    assert from_path.shape == (5, 7, 3)
    np.testing.assert_array_equal(from_path, decode_image(content))


@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it reads over
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_truncation_is_an_image_error(tmp_path, format):
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    content = encode(Image.fromarray(pixels), format)
    path = tmp_path / "cut.img"
    for length in np.linspace(0, len(content) * 0.9, 25).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match="cut.img cannot be decoded as an image: .+") as caught:
            decode_image(path)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it reads over
@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_damaged_files_decode_or_raise_image_error(format):
    rng = np.random.default_rng(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    content = encode(image, format, **({"exif": exif} if format not in ("GIF", "BMP") else {}))
    for _ in range(100):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
        try:
            assert decode_image(damaged.tobytes()).shape[2] == 3
        except ImageError:
            pass


def test_other_errors_are_one_sentence(tmp_path):
    with pytest.raises(ImageError, match=r"gone.png cannot be decoded as an image: No such file"):
        decode_image(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ImageError, match="text.png .*: it is not in a known image format"):
        decode_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match="example 3 of faces .*known image format"):
        decode_image(b"", name="example 3 of faces")
    with pytest.raises(ImageError, match="float pixels"):
        decode_image(encode(Image.new("F", (2, 2)), "TIFF"))


def test_decompression_bomb_is_refused(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(60000, 60000))
    with pytest.raises(
        ImageError, match="bomb.png cannot be decoded .*decompression bomb"
    ) as caught:
        decode_image(tmp_path / "bomb.png")
    assert "\n" not in str(caught.value)


def test_resize_is_antialiased_bilinear():
    pixels = np.random.default_rng(3).integers(0, 256, (64, 48, 3), np.uint8)
    resized = resize_image(pixels, (16, 12))
    assert resized.shape == (16, 12, 3) and resized.dtype == np.uint8
    # Antialiasing: a triangle of half-width 4 around the centre of each output pixel.
    weights = np.maximum(
        0, 1 - np.abs((np.arange(64) + 0.5) - (np.arange(16)[:, None] * 4 + 2)) / 4
    )
    weights /= weights.sum(1, keepdims=True)
    rows = np.einsum("oh,hwc->owc", weights, pixels)
    expected = np.einsum("ow,hwc->hoc", weights[:12, :48] / weights[:12, :48].sum(1)[:, None], rows)
    np.testing.assert_allclose(resized, expected, atol=1.01)
    assert resize_image(pixels, (64, 48)) is pixels


def test_range_conversion():
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(values)
    assert floats.dtype == np.float32 and floats[0] == -1 and floats[-1] == 1
    np.testing.assert_array_equal(to_uint8(floats), values)
    np.testing.assert_array_equal(to_uint8(np.array([-7.0, 7.0, 0.0])), [0, 255, 128])


def test_image_grid():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 4, 3), np.uint8)
    grid = image_grid(images, columns=2)
    assert grid.shape == (4, 8, 3)
    np.testing.assert_array_equal(grid[::2, ::4, 0], [[0, 1], [2, 255]])
    np.testing.assert_array_equal(grid[1::2, 3::4, 2], [[0, 1], [2, 255]])


def test_save_png(tmp_path):
    image = np.random.default_rng(4).integers(0, 256, (5, 6, 3), np.uint8)
    save_png(tmp_path / "grid.png", image)
    np.testing.assert_array_equal(decode_image(tmp_path / "grid.png"), image)
    with pytest.raises(ImageError, match="grid.png cannot be written: the image is float64"):
        save_png(tmp_path / "grid.png", image / 255.0)
    with pytest.raises(ImageError, match="x.png cannot be written: No such file or directory"):
        save_png(tmp_path / "missing" / "x.png", image)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="folder.png cannot be written: Is a directory"):
        save_png(tmp_path / "folder.png", image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "grid.png"]


@pytest.mark.parametrize("dtype", [np.int32, ">i4", np.int16, np.uint32, ">u2", np.uint16])
def test_integers_of_a_tiff_are_scaled_by_what_they_show(dtype):
    """32-bit and signed ones: NumPy's default, ImageJ; 16 bits without a sign are 16 bits."""
    eight = np.arange(256).reshape(16, 16)
    is_plain = np.dtype(dtype).kind == "u" and np.dtype(dtype).itemsize == 2
    for values, expected in (
        (eight, eight / 257 if is_plain else eight),
        (eight // 200, eight // 200 / 257 if is_plain else eight // 200),
        (eight * 128, eight * 128 / 257),
    ):
        decoded = decode_image(tiff(values.astype(dtype)))
        np.testing.assert_array_equal(decoded[..., 0], np.rint(expected).astype(np.uint8))
        np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize(
    "values", [[-1, 100], [0, 65536], [-32768, 32767], [0, 2**31 - 1]], ids=str
)
def test_integers_without_a_known_range_are_refused(values):
    with pytest.raises(ImageError, match="integers from .* have no known range"):
        decode_image(tiff(np.array([values], np.int32)))
    if min(values) < 0 and max(values) < 2**15:
        with pytest.raises(ImageError, match="integers from .* have no known range"):
            decode_image(tiff(np.array([values], np.int16)))


def tiff(values):
    """A TIFF of one integer for each pixel, of any type and byte order, as other programs write."""
    values = np.asarray(values)
    order = ">" if values.dtype.byteorder == ">" else "<"
    bits, kind = 8 * values.dtype.itemsize, 2 if values.dtype.kind == "i" else 1
    data = values.tobytes()
    entries = [  # tag, type (3 is 16 bits, 4 is 32), value
        (256, 4, values.shape[1]), (257, 4, values.shape[0]), (258, 3, bits), (259, 3, 1),
        (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, values.shape[0]), (279, 4, len(data)),
        (339, 3, kind),
    ]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data))
    table = struct.pack(order + "H", len(entries))
    for tag, size, value in entries:
        packed = struct.pack(order + ("H" if size == 3 else "I"), value).ljust(4, b"\0")
        table += struct.pack(order + "HHI", tag, size, 1) + packed
    return head + data + table + bytes(4)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    for name in ("pipe.png", "folder.png", "broken.png"):
        with pytest.raises(ImageError, match=f"{name} cannot be decoded as an image: "):
            decode_image(tmp_path / name)
    with pytest.raises(ImageError, match="no regular file"):
        decode_image("/dev/zero")


def test_programs_in_postscript_are_not_run():
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(ImageError, match="not in a known image format"):
        decode_image(script)
    assert {".avif", ".jpg", ".mpo", ".jp2", ".tiff"} <= {*extensions(), ".avif"}
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf"} & {*extensions()}


@pytest.mark.skipif(not features.check("avif"), reason="Pillow is built without AVIF")
def test_avif():
    pixels = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    decoded = decode_image(encode(Image.fromarray(pixels), "AVIF"))
    assert ".avif" in extensions() and np.abs(decoded.astype(int) - pixels).max() <= 3
