import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from e4e_jax.data import outputs
from e4e_jax.data.images import ImageError
from e4e_jax.data.sources import ImageFiles, ImageFolder, open_images


def write_image(path, value, size=(2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def test_image_folder_is_sorted_and_recursive(tmp_path):
    write_image(tmp_path / "b.png", 1)
    write_image(tmp_path / "a" / "z.PNG", 2)
    write_image(tmp_path / "a" / "deep" / "é ü.webp", 3)
    write_image(tmp_path / ".hidden" / "x.png", 4)
    (tmp_path / "._b.png").write_bytes(b"left by another system")
    (tmp_path / "notes.txt").write_text("not an image")
    source = ImageFolder(tmp_path)
    assert source.names == ["a/deep/é ü.webp", "a/z.PNG", "b.png"]
    assert len(source) == 3
    assert source[1].shape == (2, 3, 3) and source[1].dtype == np.uint8
    assert [int(source[i].mean()) for i in range(3)] == [3, 2, 1]
    assert ImageFolder(str(tmp_path), recursive=False).names == ["b.png"]
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2], source[2])


def test_image_folder_follows_links_once(tmp_path):
    write_image(tmp_path / "elsewhere" / "1.png", 1)
    root = tmp_path / "root"
    write_image(root / "2.png", 2)
    os.symlink(tmp_path / "elsewhere", root / "linked")
    os.symlink(root, root / "loop")
    os.symlink(root / "2.png", root / "3.png")
    assert ImageFolder(root).names == ["2.png", "3.png", "linked/1.png"]


def test_image_folder_errors_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="^.*gone does not exist, expected a folder of im"):
        ImageFolder(tmp_path / "gone")
    (tmp_path / "file.png").write_text("")
    with pytest.raises(FileNotFoundError, match="^.*file.png is not a folder"):
        ImageFolder(tmp_path / "file.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="^.*empty contains no images, expected files ending in"):
        ImageFolder(tmp_path / "empty")
    with pytest.raises(ImageError, match="file.png cannot be decoded"):
        ImageFolder(tmp_path)[0]


def test_what_is_no_image_is_passed_over_and_named(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "faces"
    write_image(folder / "a.png", 1)
    write_image(folder / "folder.png" / "b.JPG", 2)
    write_image(folder / "c.tga", 3)
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", "IMG_3.HEIC", "IMG_4.HEIC", "notes.txt"):
        (folder / name).write_bytes(b"something")
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to(folder / "gone.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)  # the address of a socket is short
        listening.bind("socket.png")
    assert ImageFolder(folder).names == ["a.png", "c.tga", "folder.png/b.JPG"]
    (line,) = caplog.messages
    assert (
        "5 of kinds that Pillow does not read here (IMG_1.HEIC, IMG_2.HEIC, IMG_3.HEIC and 2 m"
        in line
    )
    for reason in (
        "1 named pipes (pipe.png)",
        "1 sockets (socket.png)",
        "broken links (broken.png",
    ):
        assert reason in line
    caplog.clear()
    found = open_images(f"{folder}/*.png")
    assert [path.name for path in found.paths] == ["a.png"]
    (line,) = caplog.messages
    for reason in ("named pipes", "sockets", "broken links", "1 folders (", "folder.png)"):
        assert reason in line
    for name, kind in (("pipe.png", "named pipes"), ("broken.png", "broken links")):
        with pytest.raises(ValueError, match=f"{name} is one of {kind}; expected an image file"):
            open_images(folder / name)
    caplog.clear()
    assert open_images(f"{folder}/**").names == ["a.png", "c.tga", "folder.png/b.JPG"]


def test_sheets_of_our_own_are_no_images(tmp_path, caplog):
    out = tmp_path / "out"
    for name in ("grid.png", "a.png", "more/c.png", "more/grid.png"):
        write_image(out / name, 1)
    for name in ("latents.npz", "more/c.noise.npz", "more/c.generator/arrays.bin"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"")
    assert len(ImageFolder(out)) == 4  # a folder of anybody's
    caplog.clear()
    (out / "inversion.json").write_text("{}")
    assert ImageFolder(out).names == ["a.png", "more/c.png", "more/grid.png"]
    assert ImageFolder(tmp_path).names == ["out/a.png", "out/more/c.png", "out/more/grid.png"]
    assert open_images(f"{out}/*.png").names == ["a.png"]
    assert open_images(out / "grid.png").names == ["grid.png"]  # whoever names it means it
    assert not caplog.messages

    edited = tmp_path / "edited"
    sheets = {"a.png": "a.jpg", "more/c.png": "more/c.png", "a.smile.gif": None, "grid.png": None}
    outputs.start_sheets(edited, sheets)
    for name in (*sheets, "mine.png"):
        write_image(edited / name, 1)
    assert ImageFolder(edited).names == ["mine.png"]
    (edited / "mine.png").unlink()
    for folder in (edited, edited / "more"):
        with pytest.raises(
            ValueError, match="contains no images, but [14] sheets that e4e_jax made"
        ):
            ImageFolder(folder)
    assert outputs.sheet_names(edited, ["a.png", "a.jpg"]) == ["a.png.png", "a.png"]
    for damaged in ("", "[]", "{}", '{"sheets": 1}', '{"sheets": {"../x": null}}', "[" * 9999):
        (edited / "sheets.json").write_text(damaged)
        assert len(ImageFolder(edited)) == 4
    with pytest.raises(ValueError, match="holds inversions .* would be replaced"):
        outputs.check_for_sheets(out)


def test_files_by_their_paths(tmp_path, monkeypatch):
    write_image(tmp_path / "a" / "x.png", 1)
    write_image(tmp_path / "b" / "x.png", 2)
    monkeypatch.chdir(tmp_path / "a")
    assert ImageFiles(["x.png", "../b/x.png"]).names == ["a/x.png", "b/x.png"]
    assert open_images("../*/x.png").names == ["a/x.png", "b/x.png"]
    with pytest.raises(ValueError, match="named twice"):
        ImageFiles(["x.png", "../a/x.png"])


PREPARE = """
import sys
import numpy as np
import tensorflow_datasets as tfds

def prepare(dataset, feature, value, file_format="array_record"):
    class Builder(tfds.core.GeneratorBasedBuilder):
        name = dataset
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({**feature, "label": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                yield i, {**{key: value(i) for key in feature}, "label": i}

    Builder(data_dir=sys.argv[1], file_format=file_format).download_and_prepare()

photo = {"image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg")}
digit = {"image": tfds.features.Image(shape=(28, 28, 1))}
prepare("photos", photo, lambda i: np.full((218, 178, 3), 50 * i, np.uint8))
prepare("digits", digit, lambda i: np.full((28, 28, 1), 50 * i, np.uint8))
prepare("records", digit, lambda i: np.full((28, 28, 1), 50 * i, np.uint8), "tfrecord")
prepare("words", {"text": tfds.features.Text()}, str)
"""

READ = """
import sys
import numpy as np
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.sources import tfds_source

def fails(kind, *words, **arguments):
    try:
        tfds_source(data_dir=sys.argv[1], **arguments)
    except kind as error:
        assert all(word in str(error) for word in words), error
        assert "\\n" not in str(error)
    else:
        raise AssertionError(arguments)

def main():
    for name, shape in (("photos", (218, 178, 3)), ("digits", (28, 28, 3))):
        source = tfds_source(name, "train", data_dir=sys.argv[1])
        assert len(source) == 5 and source[0].shape == shape and source[0].dtype == np.uint8
        whole = dict(batch_size=2, image_size=(32, 24), seed=0)
        pipeline = make_pipeline(source, shuffle=False, repeat=False, **whole)
        batches = list(pipeline)
        images = np.concatenate([b["image"] for b in batches])[
            np.concatenate([b["mask"] for b in batches])
        ]
        assert images.shape == (5, 32, 24, 3)
        levels = images.mean((1, 2, 3)).round()
        assert sorted(levels) == [0, 50, 100, 150, 200], levels

    here = make_pipeline(source, **whole)
    apart = make_pipeline(source, workers=1, **whole)
    for _ in range(4):
        np.testing.assert_array_equal(next(here)["image"], next(apart)["image"])
    apart.close()

    assert len(tfds_source("digits", "train[:3]", data_dir=sys.argv[1])) == 3
    # Unknown, known but not there, and there in another format.
    for name in ("no_such_set", "cifar10", "records"):
        build = f"tfds build {name} --file_format=array_record --data_dir={sys.argv[1]}"
        fails(FileNotFoundError, build, name=name, split="train")
    fails(ValueError, "digits, split test", "Unknown split", name="digits", split="test")
    fails(ValueError, "words", "text", name="words", split="train")
    assert "tensorflow" not in sys.modules

if __name__ == "__main__":
    main()
"""


def test_tfds_without_tensorflow(tmp_path):
    """Prepared by one process that uses TensorFlow, read by another that never imports it."""
    (tmp_path / "prepare.py").write_text(PREPARE)
    (tmp_path / "read.py").write_text(READ)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for script in ("prepare.py", "read.py"):
        done = subprocess.run(
            [sys.executable, tmp_path / script, str(tmp_path / "tfds")],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
