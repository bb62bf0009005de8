"""Names that files hold, and the files that results go to."""

import os

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from e4e_jax.data import names
from e4e_jax.data.sources import ImageFolder


@pytest.mark.parametrize(
    "name, fault",
    [
        ("", "is empty"),
        ("/tmp/y/z.png", "is an absolute path"),
        ("C:/x.png", "is an absolute path"),
        ("c:x.png", "is an absolute path"),
        ("../../x.png", "leads out of its folder"),
        ("a/../../x.png", "leads out of its folder"),
        ("..", "leads out of its folder"),
        ("a//b.png", "has an empty part"),
        ("a/", "has an empty part"),
        ("./a.png", "has an empty part"),
        ("..\\..\\x.png", "holds a backslash"),
        ("a\nb.png", "holds control characters"),
        ("a\0b.png", "holds control characters"),
        ("a\x1b[2J.png", "holds control characters"),
        ("a\udcff.png", "holds control characters"),
        ("é" * 128, "is longer than 255 bytes"),
        ("a/" * 600 + "b", "is longer than"),
    ],
)
def test_names_of_files_are_not_trusted(name, fault):
    with pytest.raises(ValueError, match=f"^latents.npz holds the name .*{fault}") as caught:
        names.check_names(["good.png", name], "latents.npz")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_equal_names_are_refused_and_others_are_not():
    with pytest.raises(ValueError, match="x.npz holds the name 'a' twice"):
        names.check_names(["a", "b", "a"], "x.npz")
    good = [
        "a.png",
        "more/c.png",
        ".a",
        "...",
        "a b\u202fc é 脸 👩‍🚀.png",
        "a..b",
        "ab:c",
        "x" * 255,
    ]
    names.check_names(good, "x.npz")


def test_every_input_gets_a_file_of_its_own():
    inputs = ["a/b.jpg", "grid.png", "more/grid.png", "x.jpg", "x.jpg.png", "x.png"]
    files = names.settle(inputs, reserved=["grid.png"])
    assert files == [
        "a/b.png", "grid.png.png", "more/grid.png", "x.jpg.png", "x.jpg.png.png", "x.png.png",
    ]  # fmt: skip
    assert names.settle(["b.jpg", "b.png"]) == ["b.jpg.png", "b.png.png"]


@pytest.mark.parametrize(
    "inputs",
    [
        ["A.png", "a.png", "a.PNG", "A.jpg"],
        ["é.png", "e\u0301.png", "É.jpg"],
        ["x.png", "x.png/y.jpg", "x/y.png", "x"],  # a folder with the name of a file
        ["latents.npz/x.png", ".parts/x.png", "Grid.PNG", "grid.jpg", "grid.png/x.png"],
        ["x.png", "x.generator/y.png", "x.noise.npz/y.png"],
        ["y" * 250 + ".jpg", "y" * 250 + ".png", "y" * 251 + ".png", "é" * 125 + ".png"],
        ["/".join(["d" * 200] * 5) + f"/{i}.png" for i in range(2)],
        [f"x{'.png' * i}" for i in range(1, 12)],
    ],
)
def test_odd_names_do_not_collide(inputs):
    reserved = ["grid.png", "latents.npz", ".parts"]
    beside = [".noise.npz", ".generator"]
    files = names.settle(inputs, reserved=reserved, beside=beside)
    written = [
        *reserved,
        *files,
        *(os.path.splitext(file)[0] + ending for file in files for ending in beside),
    ]
    keys = [names._key(path) for path in written]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert not {other for other in keys if other.startswith(f"{key}/")}
    assert all(len(part.encode()) <= 230 for file in files for part in file.split("/"))
    assert all(len(file.encode()) < 1024 and file.endswith(".png") for file in files)
    names.check_names(files, "files")


def test_files_of_earlier_runs_stay():
    first = names.settle(["x.jpg"])
    assert first == ["x.png"]
    kept = {"x.jpg": "x.png", "gone.jpg": "x.png.png"}
    assert names.settle(["x.jpg", "x.png"], kept=kept)[0] == "x.png"
    assert names.settle(["x.png"], kept=kept)[0] not in kept.values()
    inputs = [f"{i}.jpg" for i in range(3)]
    kept = dict(zip(inputs, names.settle(inputs), strict=True))
    more = sorted([*inputs, "0.png", "1.jpeg"])
    assert set(kept.items()) <= set(zip(more, names.settle(more, kept=kept), strict=True))


PART = st.text("xXé.~-", min_size=1, max_size=4) | st.sampled_from(
    ["grid", "latents.npz", "x.generator", "x.noise.npz", "x.png", "y" * 250, "x" * 199]
)
NAME = st.builds(
    lambda parts, extension: "/".join(parts) + extension,
    st.lists(PART, min_size=1, max_size=3),
    st.sampled_from([".png", ".PNG", ".jpg", ""]),
).filter(lambda name: names._fault(name) is None)


@hypothesis.given(st.lists(NAME, min_size=1, max_size=12, unique=True), st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_any_names_get_files_that_neither_collide_nor_change(inputs, data):
    reserved, beside = ["grid.png", "latents.npz"], [".noise.npz", ".generator"]
    earlier = data.draw(st.lists(st.sampled_from(inputs), unique=True))
    kept = dict(zip(earlier, names.settle(earlier, reserved=reserved, beside=beside), strict=True))
    files = names.settle(inputs, kept=kept, reserved=reserved, beside=beside)
    names.check_names(files, "files")
    assert kept.items() <= dict(zip(inputs, files, strict=True)).items()
    stems = [os.path.splitext(file)[0] for file in files]
    written = [*reserved, *files, *(stem + ending for stem in stems for ending in beside)]
    keys = {names._key(path) for path in written}
    assert len(keys) == len(written)
    assert not any(above in keys for key in keys for above in names._above(key))
    assert max(len(part.encode()) for path in written for part in path.split("/")) <= 255


def test_composed_names_can_be_read_again():
    labels = ["a to b 0", "a to b 0", "a to b 0 (2)", "x" * 300, "x" * 301, "d/" * 600 + "e"]
    found = names.distinct(labels)
    names.check_names(found, "latents.npz")
    assert found[:3] == ["a to b 0", "a to b 0 (2)", "a to b 0 (2) (2)"]


def test_labels_of_files_lead_nowhere():
    labels = ["smile", "smile", "../../x", "a.b", "A_B", "y" * 300, "n\nm"]
    found = names.file_labels(labels)
    assert found[:4] == ["smile", "smile-2", "______x", "a_b"] and found[4] == "A_B-2"
    assert not any(set("/\\.\n") & set(label) for label in found)
    assert len({label.casefold() for label in found}) == len(labels)
    assert max(map(len, found)) < 50


def test_links_in_the_output_folder_are_not_followed(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(elsewhere)
    (out / "file").write_text("")
    (out / "a.png").mkdir()
    for file, fault in (
        ("sub/x.png", "sub is a symbolic link"),
        ("sub/deep/x.png", "sub is a symbolic link"),
        ("file/x.png", "file is a file, where a folder is to be"),
    ):
        with pytest.raises(ValueError, match=fault):
            names.check_places(out, [file])
        with pytest.raises(ValueError, match=fault):
            names.place(out, file)
    with pytest.raises(ValueError, match="a.png is a folder, where a file is to be written"):
        names.check_places(out, ["b.png", "a.png"])
    assert not list(elsewhere.iterdir())
    (tmp_path / "linked").symlink_to(out)  # the folder itself may be a link
    assert names.place(tmp_path / "linked", "new/x.png") == tmp_path / "linked/new/x.png"
    assert (out / "new").is_dir()


def test_files_with_odd_names_are_read_under_readable_ones(tmp_path):
    image = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
    for name in (b"a\nb.png", b"M\xfcller.png", "Müller.png".encode(), b"a\\b.png", b"C:x.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            image.save(file, "PNG")
    (tmp_path / "a%0Ab.png").write_bytes((tmp_path / "C:x.png").read_bytes())  # as that of another
    source = ImageFolder(tmp_path)
    assert {"a%0Ab.png", "M%FCller.png", "Müller.png", "a%5Cb.png", "C%3Ax.png"} < {*source.names}
    names.check_names(source.names, "folder")
    assert source.names == sorted(source.names) and len(source) == 6
    assert all(source[i].shape == (2, 2, 3) for i in range(6))
