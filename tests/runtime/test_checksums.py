import json
import shutil

import pytest

from e4e_jax.runtime import checksums


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "whole"
    (path / "arrays" / "d").mkdir(parents=True)
    (path / "about.json").write_text("{}\n")
    (path / "arrays" / "d" / "0").write_bytes(bytes(range(256)) * 9000)  # more than is read at once
    (path / "arrays" / "empty").write_bytes(b"")
    checksums.write(path)
    return path


def test_all_files_count_and_only_them(folder):
    checksums.check(folder)
    names = json.loads((folder / "checksums.json").read_text())["sha256"]
    assert list(names) == ["about.json", "arrays/d/0", "arrays/empty"]
    (folder / "notes.txt").write_text("of somebody else")
    checksums.check(folder)
    before = (folder / "checksums.json").read_text()
    (folder / "notes.txt").unlink()
    checksums.write(folder)  # its own file does not count
    assert (folder / "checksums.json").read_text() == before


def test_every_change_is_noticed(folder, tmp_path):
    def flipped(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    changes = [
        ("about.json", flipped),
        ("arrays/d/0", flipped),
        ("arrays/d/0", lambda path: path.unlink()),
        ("arrays/empty", lambda path: path.write_bytes(b"x")),
        ("checksums.json", lambda path: path.write_text(path.read_text()[:-9])),
        ("checksums.json", lambda path: path.write_text('{"sha256": 3}')),
        ("checksums.json", lambda path: path.write_text("[1]")),
    ]
    for i, (name, change) in enumerate(changes):
        copy = tmp_path / str(i)
        shutil.copytree(folder, copy)
        change(copy / name)
        with pytest.raises(checksums.Changed) as error:
            checksums.check(copy)
        assert str(copy / name) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_checksums_passes(folder):
    (folder / "checksums.json").unlink()
    (folder / "about.json").write_text("[]")
    checksums.check(folder)
