import os

import numpy as np
import pytest

from e4e_jax.runtime import files


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "a.txt"
    with files.writing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.suffix == ".txt"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.writing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_disk_that_takes_no_more_is_told_in_one_sentence(tmp_path):
    with pytest.raises(OSError, match="a.txt cannot be written: No space left on device.$"):
        with files.writing(tmp_path / "a.txt"):
            with open("/dev/full", "w") as full:
                full.write("x")
    assert os.listdir(tmp_path) == []


def test_the_longest_name_of_the_file_system_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".npz")
    files.write_arrays(path, {"a": np.arange(3)})
    assert files.read_arrays(path, "numbers")["a"].tolist() == [0, 1, 2]


def test_a_missing_and_a_damaged_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of codes at .*a.npz"):
        files.read_arrays(tmp_path / "a.npz", "codes")
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="a.npz is no readable .npz file of codes"):
        files.read_arrays(tmp_path / "a.npz", "codes")
