"""What a folder of inversions knows of itself, whatever happens to it."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from e4e_jax.data import outputs
from e4e_jax.data.images import decode_image
from e4e_jax.data.sources import open_images
from e4e_jax.inversion.contract import Inverted
from e4e_jax.inversion.folder import check_output, invert_folder, load_latents
from e4e_jax.inversion.record import finished


def run(folder, out, settings=None, invert=None, **options):
    return invert_folder(
        invert or by_brightness, open_images(str(folder)), out, image_size=(8, 8), batch_size=4,
        settings={"model": "a"} if settings is None else settings, **options,
    )  # fmt: skip


def by_brightness(images):
    """Codes that tell of what image they are."""
    level = jnp.mean(images, axis=(1, 2, 3))
    return Inverted(level[:, None, None] * jnp.ones((1, 3, 2)), images)


def write(path, level, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(path, kind)


def levels(out):
    """Name -> the level that its code was made of."""
    names, codes = load_latents(out / "latents.npz")
    return {n: int(np.rint((c[0, 0] + 1) * 127.5)) for n, c in zip(names, codes, strict=True)}


def drawn(out):
    """Name -> the level of its picture."""
    return {n: int(decode_image(out / i.file).mean()) for n, i in finished(out).items()}


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        write(tmp_path / "images" / f"{i}.png", 40 * i)
    return tmp_path / "images"


def test_colliding_names_each_have_their_picture(tmp_path):
    folder, out = tmp_path / "images", tmp_path / "out"
    names = ["x.jpg", "x.png", "x.jpg.png", "grid.png", "latents.npz/y.png", "x/z.png", "X.bmp"]
    expected = {name: 20 * (i + 1) for i, name in enumerate(names)}
    for name, level in expected.items():
        write(folder / name, level, "PNG")
    assert run(folder, out).count == len(names)
    assert levels(out) == drawn(out) == expected
    assert load_latents(out / "latents.npz")[1].shape == (len(names), 3, 2)
    assert run(folder, out).already == len(names)
    # Later runs keep the files, and give others to what comes later.
    before = {name: inversion.file for name, inversion in finished(out).items()}
    (folder / "x.png").unlink()
    for name, level in (("x.webp", 200), ("grid.jpg", 220), ("x.jpg.bmp", 240)):
        expected[name] = level
        write(folder / name, level, "PNG")
    assert run(folder, out).count == 3
    assert levels(out) == drawn(out) == expected
    after = {name: inversion.file for name, inversion in finished(out).items()}
    assert before.items() <= after.items() and len(set(after.values())) == len(after)


def test_a_file_of_the_same_name_is_known_by_its_content(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out)
    status = os.stat(folder / "1.png")
    size = len((folder / "1.png").read_bytes())
    write(folder / "1.png", 200)
    content = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(content + bytes(max(0, size - len(content))))
    os.utime(folder / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(folder / "2.png")  # touched, and the same
    outcome = run(folder, out)
    assert (outcome.count, outcome.already, outcome.changed) == (1, 4, ("1.png",))
    assert levels(out) == drawn(out) == {f"{i}.png": 200 if i == 1 else 40 * i for i in range(5)}
    write(tmp_path / "other" / "3.png", 77)
    outcome = run(tmp_path / "other", out)
    assert (outcome.count, outcome.changed) == (1, ("3.png",)) and levels(out)["3.png"] == 77
    assert len(levels(out)) == 5


def test_a_picture_that_was_removed_is_made_again(folder, tmp_path):
    run(folder, tmp_path / "out")
    (tmp_path / "out" / "2.png").unlink()
    assert run(folder, tmp_path / "out").count == 1
    assert drawn(tmp_path / "out")["2.png"] == 80


class Killed(BaseException):
    pass


@pytest.mark.parametrize("renamed", [True, False])
def test_a_kill_at_any_write_leaves_what_goes_on(renamed, folder, tmp_path, monkeypatch):
    """At each of the renames of a run, before and after it; then the same command again."""
    real, number = os.replace, 0
    while True:
        number += 1
        out, calls = tmp_path / f"out{number}", []

        def replace(source, target, calls=calls, number=number):
            calls.append(target)
            if len(calls) == number:
                if renamed:
                    real(source, target)
                raise Killed
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        try:
            run(folder, out)
        except Killed:
            monkeypatch.setattr(os, "replace", real)
            (out / ".1234-abcd.tmp.png").write_bytes(b"left by a killed process")
            outcome = run(folder, out)
            assert outcome.count + outcome.already == 5
            assert levels(out) == drawn(out) == {f"{i}.png": 40 * i for i in range(5)}
            assert (out / "grid.png").exists() and not (out / ".parts").exists()
            assert json.loads((out / "inversion.json").read_text()) == {"model": "a"}
        else:
            break
    assert number > 9  # settings, five pictures, two parts, the codes, the grid


def test_a_replaced_file_wins_over_its_old_part(folder, tmp_path, monkeypatch):
    """A run that was killed before its parts were merged, and an image replaced after it."""
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("e4e_jax.inversion.record.merge", lambda *_: None)
        run(folder, out)
    assert len(list((out / ".parts").iterdir())) == 2
    for i in range(5):
        write(folder / f"{i}.png", 40 * i + 10)
    assert len(run(folder, out).changed) == 5
    assert levels(out) == drawn(out) == {f"{i}.png": 40 * i + 10 for i in range(5)}


@pytest.mark.parametrize(
    "left", [b"", b'{"mod', b"\0" * 40, b"[1]", b"\xff\xfe", b"[" * 9999, None]
)
def test_damaged_settings_are_repaired(left, folder, tmp_path):
    new, used = tmp_path / "new", tmp_path / "used"
    run(folder, used)
    new.mkdir()
    for out in (new, used):
        (out / "inversion.json").unlink(missing_ok=True)
        if left is not None:
            (out / "inversion.json").write_bytes(left)
    with pytest.raises(ValueError, match="inversions made with model 'a', now it is 'b'"):
        run(folder, used, {"model": "b"})
    assert run(folder, new).count == 5 and run(folder, used).already == 5
    for out in (new, used):
        assert json.loads((out / "inversion.json").read_text()) == {"model": "a"}


def test_a_full_disk_at_the_settings_blocks_nothing(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(OSError, match="inversion.json cannot be written: No space left"):
            run(folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert run(folder, tmp_path / "out").count == 5


def test_a_folder_of_an_earlier_version_is_inverted_anew(folder, tmp_path, caplog):
    out = tmp_path / "out"
    run(folder, out)
    arrays = dict(np.load(out / "latents.npz"))
    names = np.append(arrays["names"], "gone.png")
    codes = np.append(arrays["codes"], np.ones((1, 3, 2), np.float32), axis=0)
    np.savez(out / "latents.npz", names=names, codes=codes)
    outcome = run(folder, out)
    assert (outcome.count, outcome.already) == (5, 0)
    assert "holds 6 inversions of an earlier version" in caplog.text
    assert set(levels(out)) == {*(f"{i}.png" for i in range(5)), "gone.png"}
    assert run(folder, out).already == 5
    (out / "inversion.json").unlink()
    np.savez(out / "latents.npz", names=names, codes=codes)
    with pytest.raises(ValueError, match="holds codes and does not say how they were made"):
        run(folder, out)


@pytest.mark.parametrize("key", ["names", "files"])
@pytest.mark.parametrize("bad", ["../../x.png", "/tmp/y/z.png", "", "y" * 300 + ".png", "same"])
def test_names_in_the_folder_itself_are_not_trusted(key, bad, folder, tmp_path):
    out = tmp_path / "deep" / "out"
    run(folder, out)
    arrays = dict(np.load(out / "latents.npz"))
    texts = arrays[key].tolist()
    texts[0] = texts[1] if bad == "same" else bad
    arrays[key] = np.asarray(texts)
    np.savez(out / "latents.npz", **arrays)
    before = sorted(tmp_path.rglob("*"))
    write(folder / "0.png", 99)
    with pytest.raises(ValueError, match="latents.npz holds the name"):
        run(folder, out)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_replaced_and_folders_of_links_refused(folder, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    write(folder / "more" / "c.png", 7)
    (elsewhere / "kept.txt").write_text("kept")
    for name in ("0.png", "grid.png", "latents.npz", "inversion.json"):
        (out / name).symlink_to(elsewhere / ("kept.txt" if name.endswith("g") else "missing"))
    for name in ("more", ".parts"):
        (out / name).symlink_to(elsewhere)
        with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
            run(folder, out)
        (out / name).unlink()
    assert run(folder, out).count == 6
    assert [path.read_text() for path in elsewhere.iterdir()] == ["kept"]
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_inversions_that_are_not_finite_are_left_out(folder, tmp_path):
    def partly(images):
        found = by_brightness(images)
        return Inverted(found.codes.at[1].set(jnp.nan), found.images)

    outcome = run(folder, tmp_path / "out", invert=partly)
    assert outcome.count == 4 and outcome.bad == {"1.png": "1.png: its inversion is not finite"}
    assert "1.png" not in levels(tmp_path / "out")
    assert run(folder, tmp_path / "out").count == 1


def test_one_long_name_ends_no_run(tmp_path):
    long = "y" * 246
    for i, name in enumerate((f"{long}.png", f"{long}.jpg", "a.png")):
        write(tmp_path / "images" / name, 50 * i, "PNG")
    outcome = run(tmp_path / "images", tmp_path / "out", invert=lambda images: Inverted(
        by_brightness(images).codes, images, noises=[jnp.ones((len(images), 4, 4))],
    ))  # fmt: skip
    assert outcome.count == 3 and not outcome.bad
    assert sorted(drawn(tmp_path / "out").values()) == [0, 50, 100]
    assert len(list((tmp_path / "out").glob("*.noise.npz"))) == 3


def test_a_damaged_part_is_made_anew(folder, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("e4e_jax.inversion.record.merge", lambda *_: None)
        run(folder, out)
    part = next((out / ".parts").iterdir())
    part.write_bytes(part.read_bytes()[:100])
    outcome = run(folder, out)
    assert outcome.count + outcome.already == 5 and outcome.count in (1, 4)
    assert "made anew" in caplog.text and len(levels(out)) == 5


def test_the_folder_of_the_images_is_no_folder_for_results(folder, tmp_path):
    with pytest.raises(ValueError, match="is one of the images to read"):
        check_output(folder, open_images(folder))
    for path in folder.iterdir():
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(ValueError, match="is the folder of the images"):
        check_output(folder, open_images(folder))
    out = folder / "out"  # in it is no image to read when it is run again
    assert run(folder, out).count == 5
    source = open_images(folder, without=out)
    assert len(source) == 5
    check_output(out, source)
    assert not outputs.written(out).sheets
