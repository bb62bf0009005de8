"""What `invert_folder` leaves behind when things go wrong, with an inversion that does nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from e4e_jax.data.sources import open_images
from e4e_jax.inversion.contract import Inverted
from e4e_jax.inversion.folder import invert_folder


class Bar:
    """A progress bar that notes what happens to it."""

    def __init__(self, total_steps, batch_size):
        self.steps, self.closed = 0, False
        Bar.last = self

    def update(self, step, metrics):
        self.steps = step

    def close(self):
        self.closed = True


def run(invert, folder, out, **options):
    return invert_folder(
        invert, open_images(str(folder)), out, image_size=(8, 8), batch_size=4, settings={},
        progress=Bar, **options,
    )  # fmt: skip


def same(images, noises=None):
    return Inverted(jnp.ones((len(images), 3, 2)), images, noises=noises)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(6):
        pixels = np.full((8, 8, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def test_no_parts_stay_where_all_images_are_bad(folder, tmp_path):
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    outcome = run(same, folder, tmp_path / "out")
    assert outcome.count == 0 and len(outcome.bad) == 6
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["inversion.json"]


def test_the_bar_is_closed_and_what_is_done_stays_when_an_inversion_fails(folder, tmp_path):
    calls = []

    def fails_at_second(images):
        calls.append(len(images))
        if len(calls) == 2:
            raise MemoryError
        return same(images)

    with pytest.raises(MemoryError):
        run(fails_at_second, folder, tmp_path / "out")
    assert Bar.last.closed and Bar.last.steps == 1
    outcome = run(same, folder, tmp_path / "out")
    assert (outcome.count, outcome.already) == (2, 4) and not (tmp_path / "out" / ".parts").exists()


def test_noises_are_written_whole(folder, tmp_path, monkeypatch):
    def with_noises(images):
        return same(images, [jnp.ones((len(images), 4, 4)), jnp.zeros((len(images), 8, 8))])

    real = np.savez

    def full_disk(file, **arrays):
        real(file, **arrays)
        if "noise_0" in arrays:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match="0.noise.npz cannot be written: No space left on device"):
            run(with_noises, folder, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.npz")) and Bar.last.closed
    run(with_noises, folder, tmp_path / "out")
    noises = np.load(tmp_path / "out" / "5.noise.npz")
    assert {name: noises[name].shape for name in noises} == {"noise_0": (4, 4), "noise_1": (8, 8)}
