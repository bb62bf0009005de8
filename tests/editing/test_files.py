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
