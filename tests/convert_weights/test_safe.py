"""A checkpoint is untrusted: whatever it holds, one sentence and nothing executed or written."""

import argparse
import io
import os
import pickle
import resource
import zipfile

import numpy as np
import published
import published_nvidia as nvidia
import published_stylegan2 as rosinality
import pytest
import torch

from convert_weights import formats
from convert_weights.__main__ import main
from convert_weights.checkpoint import ConvertError
from convert_weights.read import read


def channels(resolution):
    return 4


def generator_state():
    return rosinality.Generator(8, 6, 2, channels).state_dict()


def inverter():
    encoder = published.Encoder(
        "e4e", 8, widths=(2, 3, 4, 6), depths=(1, 1, 1, 1), reduction=2, convs=(1, 2, 3)
    )
    decoder = rosinality.Generator(32, 6, 2, channels)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    options = argparse.Namespace(encoder_type="Encoder4Editing", start_from_latent_avg=True)
    return {"state_dict": state, "latent_avg": torch.zeros(8, 6), "opts": options}


@pytest.fixture(params=["zip", "inverter", "legacy", "nvidia", "module"])
def source(request, tmp_path):
    """A small sound file of each container."""
    path = tmp_path / "sound"
    if request.param == "nvidia":
        nvidia.write_pickle(path, {"G_ema": nvidia.Generator(8, 6, 2, channels)})
    elif request.param == "module":
        nvidia.save_whole(path, nvidia.Generator(8, 6, 2, channels))
    elif request.param == "inverter":
        torch.save(inverter(), path)
    else:
        as_zip = request.param == "zip"
        torch.save({"g_ema": generator_state()}, path, _use_new_zipfile_serialization=as_zip)
    return path


def refused(capsys, path, *sentences):
    before = set(path.parent.iterdir())
    assert main([str(path), str(path.parent / "bundle")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("convert_weights: ") and error.count("\n") == 1
    for sentence in sentences:
        assert sentence in error
    assert set(path.parent.iterdir()) == before
    return error


class Planted:
    """Runs a command where it is unpickled by a loader that lets it."""

    def __reduce__(self):
        return os.system, (f"touch {os.environ['PLANTED']}",)


@pytest.fixture
def mark(tmp_path_factory, monkeypatch):
    """A file that the planted command makes."""
    path = tmp_path_factory.mktemp("planted") / "mark"
    monkeypatch.setenv("PLANTED", str(path))
    yield path
    assert not path.exists()


@pytest.mark.parametrize("as_zip", [True, False])
def test_planted_commands_are_not_run(tmp_path, capsys, mark, as_zip):
    path = tmp_path / "evil.pt"
    for contents in (
        {"g_ema": generator_state(), "args": Planted()},
        {"g_ema": generator_state() | {"x": Planted()}},
        Planted(),
    ):
        torch.save(contents, path, _use_new_zipfile_serialization=as_zip)
        refused(capsys, path, "system, which no checkpoint needs")


def test_planted_commands_in_pickles_are_not_run(tmp_path, capsys, mark):
    path = tmp_path / "evil.pkl"
    network = nvidia.Generator(8, 6, 2, channels)
    network.c_dim = Planted()
    nvidia.write_pickle(path, {"G_ema": network})
    refused(capsys, path, "system, which no checkpoint needs")
    path.write_bytes(pickle.dumps({"G_ema": Planted()}))
    refused(capsys, path, "system, which no checkpoint needs")


def test_planted_source_is_not_run(tmp_path, mark):
    path = tmp_path / "n.pkl"
    source = f"import os; os.system('touch {mark}')"
    nvidia.write_pickle(path, {"G_ema": nvidia.Generator(8, 6, 2, channels)}, source)
    assert main([str(path), str(tmp_path / "bundle")]) == 0


def test_storages_in_pickles_are_checked_themselves(tmp_path, capsys, mark):
    """A pickled storage is a torch.save file within the pickle."""
    inner = io.BytesIO()
    torch.save(Planted(), inner, _use_new_zipfile_serialization=False)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    network = nvidia.Generator(8, 6, 2, channels)
    network.extra = Storage()
    nvidia.write_pickle(tmp_path / "evil.pkl", {"G_ema": network})
    refused(capsys, tmp_path / "evil.pkl", "system, which no checkpoint needs")


def test_old_tensorflow_pickles_are_explained(tmp_path, capsys):
    path = tmp_path / "tf.pkl"
    path.write_bytes(b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81.")
    refused(capsys, path, "it is a network of TensorFlow", "legacy.py")


def test_truncation_at_any_byte(source, capsys):
    data = source.read_bytes()
    for length in range(0, len(data), max(1, len(data) // 60)):
        source.write_bytes(data[:length])
        refused(capsys, source)


def test_wrong_magic_numbers(source, capsys):
    data = source.read_bytes()
    source.write_bytes(b"\x00\x01" + data[2:])
    refused(capsys, source, "it begins with")


def test_wrong_magic_number_of_the_older_layout(tmp_path, capsys):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"l\xfc\x9cF", b"l\xfc\x9cE", 1))
    refused(capsys, path, "it is a pickle without networks")


def rezip(path, change, compression=zipfile.ZIP_STORED):
    """Rewrites the archive with change(name, bytes) of every member, its sums made right."""
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_zip_bombs(tmp_path, capsys):
    path = tmp_path / "bomb.pt"
    torch.save({"g_ema": {"x": torch.zeros(50_000_000)}}, path)
    rezip(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    refused(capsys, path, "compressed")

    # A tensor of more numbers than its storage holds, and a storage larger than the file.
    torch.save({"g_ema": {"x": torch.zeros(2), "y": torch.zeros(3)}}, path)
    rezip(path, lambda name, data: data[:-4] if name.endswith("data/0") else data)
    refused(capsys, path, "data/0 in its archive has 4 bytes; expected 8")
    huge = (1 << 31) - 1
    for number, sentence in ((b"K\x02", "declares"), (b"K\x03", "declares")):
        torch.save({"g_ema": {"x": torch.zeros(2), "y": torch.zeros(3)}}, path)
        big = b"J" + huge.to_bytes(4, "little")
        rezip(path, lambda _, data, n=number, b=big: data.replace(n, b))
        refused(capsys, path, sentence)


def test_repeated_numbers_are_not_expanded(tmp_path, capsys):
    torch.save({"tensor": torch.zeros(1).expand(1 << 40)}, tmp_path / "bomb.pt")
    refused(capsys, tmp_path / "bomb.pt", "declares a tensor of shape [1099511627776] in 1 numbers")
    torch.save(
        {"t": torch.zeros(1).expand(1 << 40)},
        tmp_path / "bomb.pt",
        _use_new_zipfile_serialization=False,
    )
    refused(capsys, tmp_path / "bomb.pt", "declares a tensor of shape [1099511627776] in 1 numbers")


def test_array_files(tmp_path, capsys):
    path = tmp_path / "d.npy"
    np.save(path, np.zeros(8, np.float32))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(8,), }    ", b"(99999999,),}"[:11] + b""))
    refused(capsys, path, "damaged")
    np.save(path, np.array([os.system], dtype=object), allow_pickle=True)
    refused(capsys, path)


def fuzz(path, count, seed):
    """Reads mutated copies of a file; returns how many were refused.

    Bytes are changed, inserted, removed and cut; in archives also within the pickle, with sums
    that fit.
    """
    rng, data, refusals = np.random.default_rng(seed), path.read_bytes(), 0
    is_zip = zipfile.is_zipfile(path)
    for i in range(count):
        if is_zip and i % 2:
            path.write_bytes(data)
            rezip(path, lambda name, x: mutate(rng, x) if name.endswith(".pkl") else x)
        else:
            # Half of the changes fall into the first part, where the structure is.
            head = int(len(data) * rng.choice([0.1, 1.0]))
            path.write_bytes(mutate(rng, data[:head]) + data[head:])
        try:
            formats.convert([read(path)])
        except ConvertError as error:
            assert "\n" not in str(error) or len(str(error)) > 0
            refusals += 1
    return refusals


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(data)))
        match rng.integers(5):
            case 0:
                data[at] = rng.integers(256)
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : at + int(rng.integers(1, 20))]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 20)))
            case 4:
                data[at : at + 4] = b"\xff\xff\xff\x7f"
        if not data:
            return b""
    return bytes(data)


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_mutated_files(source):
    assert fuzz(source, 40, seed=0) > 20


@pytest.mark.slow
def test_a_thousand_mutated_files(source):
    read(source)  # PyTorch is imported
    before = peak_memory()
    assert fuzz(source, 1000, seed=1) > 500
    assert peak_memory() - before < (1 << 30)


def deep(opcodes, count=100_000):
    """A pickle that nests a tuple in a tuple in a tuple ..., then `opcodes`."""
    return b"\x80\x02}(" + b")" + b"\x85" * count + opcodes


@pytest.mark.parametrize(
    "data, sentence",
    [
        (deep(b"K\x01u."), "it has a key that is a tuple"),  # Python's hash of it overflows
        (deep(b"K\x01d."), "it has a key that is a tuple"),
        (b"\x80\x04\x8f(" + b")" + b"\x85" * 100_000 + b"\x90.", "it has a key that is a tuple"),
        (b"\x80\x02cbuiltins\nset\n](" + b")" + b"\x85" * 100_000 + b"e\x85R.", "that is a tuple"),
        # A list of two lists of two lists ...: 2^100 entries in a few bytes.
        (b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(100)) + b".",
         "nested more than"),
        # A path that is joined with itself, and text that is encoded again and again.
        (b"\x80\x02cpathlib\nPosixPath\nq\x00X\x02\x00\x00\x00ab"
         + b"q\x01h\x00h\x01h\x01\x86R" * 64 + b".", "it makes more of its"),
        (b"\x80\x02c_codecs\nencode\nq\x00X\x00\x10\x00\x00" + b"a" * 4096 + b"q\x01"
         + b"h\x00h\x01\x85R" * 1000 + b".", "it makes more of its"),
        # A state for a function of the table, and a call of what is none.
        (b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.", "a state to what has"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "it calls what is no function"),
        (b"cos\nsystem\n(S'touch x'\ntR.", "begins with"),
        (b"\x80\x02(S'touch x'\nios\nsystem\n.", "system, which no checkpoint needs"),
        (b"\x80\x02(cos\nsystem\nS'touch x'\no.", "system, which no checkpoint needs"),
        (b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R.", "system, which no checkpoint needs"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.", "without networks"),
        (b"\x80\x02\x82\x05.", "extension 5, which no checkpoint needs"),
        (b"\x80\x02K\x01Q.", "data outside of itself"),
        (b"\x80\x05\x96" + (1 << 45).to_bytes(8, "little") + b"x.", "it declares 35,184,372,"),
    ],
)  # fmt: skip
def test_pickles_written_by_hand(tmp_path, capsys, data, sentence):
    (tmp_path / "evil.pkl").write_bytes(data)
    refused(capsys, tmp_path / "evil.pkl", sentence)
