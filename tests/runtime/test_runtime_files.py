import io
import os
import struct
import subprocess
import tracemalloc
import zipfile

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


ARRAYS = {
    "names": np.array(["a", "é/b.png"]),
    "codes": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "empty": np.zeros((0, 4)),
    "scalar": np.array(2 + 1j),
    "": np.array([True]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = files.read_arrays(tmp_path / "a.npz", "numbers")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=") and found[name].flags.writeable
    assert files.read_arrays(tmp_path / "a.npz", "numbers", only=["big", "none"]).keys() == {"big"}
    save(tmp_path / "a.npz")
    assert files.read_arrays(tmp_path / "a.npz", "numbers") == {}


def npy(array=None, header=None, version=(1, 0), data=b""):
    """A .npy file, of an array or with any header."""
    buffer = io.BytesIO()
    if header is None:
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()
    text = (header + "\n").encode()
    return np.lib.format.magic(*version) + struct.pack("<H", len(text)) + text + data


def header(descr="'<f4'", order="False", shape="(3,)"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def members(*entries, compression=zipfile.ZIP_STORED):
    """A zip file of (name, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def changed(data, signature, offset, form, value):
    """The bytes with a number changed at an offset after a zip's last such signature."""
    data = bytearray(data)
    struct.pack_into(form, data, data.rindex(signature) + offset, value)
    return bytes(data)


GOOD = members(("a.npy", npy(np.arange(50, dtype=np.float32))))
PACKED = members(("a.npy", npy(np.arange(50.0))), compression=zipfile.ZIP_DEFLATED)
CENTRAL = b"PK\1\2"
ODD = {
    "empty": (b"", "does not begin as one"),
    "text": (b"names,codes\n", "does not begin as one"),
    "a single array": (npy(np.zeros(3)), "is a .npy file of one array; expected a .npz"),
    "a pickle": (b"\x80\x04N.", "does not begin as one"),
    "cut": (GOOD[:-30], "not a zip file"),
    "a flipped bit": (GOOD[:200] + bytes([GOOD[200] ^ 4]) + GOOD[201:], "Bad CRC-32"),
    "damaged deflate": (PACKED[:45] + b"\xff" * 30 + PACKED[75:], ""),
    "encrypted": (changed(GOOD, CENTRAL, 8, "<H", 1), "encrypted"),
    "strong encryption": (changed(GOOD, CENTRAL, 8, "<H", 0x40), ""),
    "lzma": (members(("a.npy", b"x"), compression=zipfile.ZIP_LZMA), "in another way"),
    "an unknown compression": (changed(GOOD, CENTRAL, 10, "<H", 97), "in another way"),
    "an unknown zip version": (changed(GOOD, CENTRAL, 6, "<H", 999), ""),
    "64 TiB in the directory": (changed(GOOD, CENTRAL, 24, "<I", 2**32 - 2), "claims to hold"),
    "no arrays": (members(("archive/data.pkl", b"x")), "'archive/data.pkl', which is no array"),
    "a name with a bell": (members(("a\7.npy", npy(np.zeros(1)))), "no array"),
    "nothing": (members(("a.npy", b"")), ""),
    "objects": (members(("a.npy", npy(np.array([{}], object)))), "a.npy is of type object"),
    "records": (members(("a.npy", npy(np.zeros(2, "i4,f4")))), "expected numbers or strings"),
    "dates": (members(("a.npy", npy(np.zeros(2, "M8[s]")))), "expected numbers or strings"),
    "64 TiB": (
        members(("a.npy", npy(header=header(shape=f"({2**44},)")))),
        "70,368,744,177,664 bytes, and has 0",
    ),
    "overflow": (members(("a.npy", npy(header=header(shape=f"({2**62}, {2**62})")))), "and has 0"),
    "negative": (members(("a.npy", npy(header=header(shape="(-1, -1)"), data=b"1234"))), "claims"),
    "too much": (members(("a.npy", npy(header=header(), data=b"x" * 16))), "12 bytes, and has 16"),
    "no shape": (members(("a.npy", npy(header=header(shape="'x'")))), ""),
    "no type": (members(("a.npy", npy(header=header(descr="'zz'")))), ""),
    "strings of no length": (members(("a.npy", npy(header=header("'<U0'", shape="(9999999999,)")))),
                             "expected numbers or strings"),
    "nested": (members(("a.npy", npy(header="(" * 5000))), ""),
    "minus signs": (members(("a.npy", npy(header="-" * 5000 + "1"))), ""),
    "no Python": (members(("a.npy", npy(header="'\\d\\q"))), ""),
    "version 9": (members(("a.npy", npy(header=header(), version=(9, 0)))), "of format (9, 0)"),
    "version 3": (members(("a.npy", npy(header=header(), version=(3, 0)))), "expected 1.0 or 2.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_archive_is_told_in_one_sentence(tmp_path, name, recwarn):
    data, reason = ODD[name]
    path = tmp_path / "a.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        files.read_arrays(path, "codes")
    message = str(caught.value)
    assert reason in message and "\n" not in message and len(message) < 600
    assert message.startswith(f"{path} is no readable .npz file of codes: ")
    assert message.endswith(".") and not message.endswith("..") and not recwarn.list


def test_two_arrays_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        data = members(("a.npy", npy(np.zeros(1))), ("a.npy", npy(np.ones(1))))
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="holds 'a.npy' twice"):
        files.read_arrays(tmp_path / "a.npz", "codes")


def test_a_small_file_takes_no_large_memory(tmp_path):
    zeros = npy(np.zeros(2**25, np.float32))  # 128 MiB, of which deflate leaves a thousandth
    bomb = members(("a.npy", zeros), compression=zipfile.ZIP_DEFLATED)
    less = members(("a.npy", zeros[:1000]), compression=zipfile.ZIP_DEFLATED)
    less = changed(less, CENTRAL, 24, "<I", 64 * 2**20)  # as much as is allowed, and not there
    for data in (bomb, less):
        (tmp_path / "a.npz").write_bytes(data)
        tracemalloc.start()
        with pytest.raises(ValueError, match="is no readable .npz file of codes"):
            files.read_arrays(tmp_path / "a.npz", "codes")
        assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
        tracemalloc.stop()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path, found in ((tmp_path / "pipe.npz", "a pipe or a device"), (tmp_path, "a folder"),
                        ("/dev/zero", "a pipe or a device")):  # fmt: skip
        with pytest.raises(ValueError, match=f" is {found}; expected a .npz file of codes"):
            files.read_arrays(path, "codes")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.npz", "a\0b"):
        with pytest.raises((FileNotFoundError, ValueError), match="file of codes"):
            files.read_arrays(path, "codes")


def test_what_killed_processes_left_is_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = {
        f".{ended.pid}-0123abcd.tmp.png": True, f".{os.getpid()}-0123abcd.tmp.png": False,
        ".123-0123abcd.png": False, "a.png": False, f".{ended.pid}-89abcdef.tmp": True,
    }  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"")
    files.remove_leftovers(tmp_path)  # all young
    assert {path.name for path in tmp_path.iterdir()} == {*names}
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    files.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {name for name, removed in names.items() if not removed}
    files.remove_leftovers(tmp_path / "nowhere")


def test_arrays_may_have_the_names_of_arguments(tmp_path):
    arrays = {"file": np.arange(3), "x": np.ones(2), "allow_pickle": np.zeros((2, 2), np.float32)}
    files.write_arrays(tmp_path / "a.npz", arrays)
    found = files.read_arrays(tmp_path / "a.npz", "arrays")
    assert found.keys() == arrays.keys() and os.listdir(tmp_path) == ["a.npz"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
