"""Files of directions: round trip, and damage."""

import numpy as np
import pytest

from e4e_jax.editing.files import load_directions, save_directions


def test_round_trip(tmp_path):
    path = str(tmp_path / "d.npz")
    directions = {"smile": np.arange(4, dtype=np.float32), "age": np.ones((3, 4), np.float32)}
    save_directions(path, directions)
    loaded = load_directions(path)
    assert loaded.keys() == directions.keys()
    for name, array in directions.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["d.npz"]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_directions(str(tmp_path / "nowhere.npz"))
    path = tmp_path / "d.npz"
    save_directions(str(path), {"smile": np.ones(4, np.float32)})
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="d.npz"):
            load_directions(str(path))
    np.savez(path, smile=np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="smile .* expected floats"):
        load_directions(str(path))
    np.savez(path, smile=np.array([{}], dtype=object))  # would be unpickled
    with pytest.raises(ValueError, match="d.npz"):
        load_directions(str(path))


def test_files_that_can_be_converted_are_explained(tmp_path):
    (tmp_path / "smile.pt").touch()
    with pytest.raises(ValueError, match="smile.pt is no .npz .* convert_weights .*smile.pt"):
        load_directions(str(tmp_path / "smile.pt"))
    np.savez(tmp_path / "pca.npz", lat_comp=np.ones((3, 1, 4)), lat_mean=np.ones((1, 4)))
    with pytest.raises(ValueError, match="pca.npz is a file of GANSpace's own"):
        load_directions(str(tmp_path / "pca.npz"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(bad, tmp_path):
    """1e300 is finite, and infinite as float32."""
    direction = np.ones((2, 4))
    direction[1, 3] = bad
    path = tmp_path / "age.npz"
    with pytest.raises(ValueError, match="1 of the 8 numbers of age are NaN or infinite"):
        save_directions(path, {"smile": np.ones(4), "age": direction})
    assert not list(tmp_path.iterdir())
    np.savez(path, age=direction)
    with pytest.raises(ValueError, match="age.npz: 1 of the 8 numbers of age are NaN or infinite"):
        load_directions(path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="d.npz cannot be written: No space left on device"):
        save_directions(tmp_path / "d.npz", {"smile": np.ones(4)})
    assert not list(tmp_path.iterdir())
