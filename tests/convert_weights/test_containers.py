"""People's files: wrappers, options of any kind, whole modules, and what is no checkpoint."""

import argparse
import collections
import datetime
import enum
import gzip
import pathlib
import pickle
import zipfile

import numpy as np
import published_nvidia as nvidia
import published_stylegan2 as rosinality
import pytest
import torch

from convert_weights.__main__ import main
from convert_weights.checkpoint import ConvertError
from convert_weights.read import read
from e4e_jax import bundle


def channels(resolution):
    return 4


def assert_same_arrays(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy())


@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_come_back_as_they_are(tmp_path, as_zip):
    base = torch.arange(24.0)
    tensors = {
        "whole": base,
        "view": base[3:9].view(2, 3).t(),  # not in order, not at the beginning
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "half": torch.randn(5).half(),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]),
    }
    contents = tensors | {
        "list": [torch.ones(2)],
        "brain": torch.tensor([1.5], dtype=torch.bfloat16),
    }
    contents["with attributes"] = torch.ones(2)
    contents["with attributes"].tag = "x"
    torch.save(contents, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    found = read(tmp_path / "a.pt").tensors
    assert float(found.pop("brain")[0]) == 1.5 and list(found.pop("list/0")) == [1, 1]
    assert list(found.pop("with attributes")) == [1, 1]
    assert_same_arrays(found, tensors)


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_stripped(tmp_path, prefix):
    state = rosinality.Generator(8, 6, 2, channels).state_dict()
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    torch.save({"g_ema": wrapped, "state_dict": {f"encoder.{prefix}x": torch.ones(1)}},
               tmp_path / "a.pt")  # fmt: skip
    found = read(tmp_path / "a.pt")
    assert found.tensors.pop("state_dict/encoder.x")[0] == 1
    assert_same_arrays(found.tensors, {f"g_ema/{name}": x for name, x in state.items()})
    assert f"{prefix!r} stripped from {len(state) + 1} names" in found.notes[0]
    torch.save({"module.a": torch.ones(1), "a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(ConvertError, match="it has both module.a and a"):
        read(tmp_path / "a.pt")


class Colour(enum.Enum):
    RED = "red"


class Options:
    """Of a class that nobody else has."""


class Slotted:
    __slots__ = ("size",)


@pytest.mark.parametrize("as_zip", [True, False])
def test_options_of_any_kind(tmp_path, as_zip):
    own, slotted = Options(), Slotted()
    own.encoder_type, slotted.size = "Encoder4Editing", 3
    options = argparse.Namespace(
        path=pathlib.PurePosixPath("/experiments/x"),
        windows=pathlib.PureWindowsPath("c:/x"),
        device=torch.device("cuda", 1),
        dtype=torch.float16,
        shape=torch.Size([2, 3]),
        number=np.float64(0.5),
        count=np.int32(7),
        flag=np.bool_(True),
        text=np.str_("ffhq"),
        array=np.arange(3),
        array0=np.array(4.5),
        objects=np.array([None, "a"], dtype=object),
        kind=np.dtype("f4"),
        function=np.float32,
        when=datetime.datetime(2021, 2, 3),
        span=datetime.timedelta(3),
        members={1, "a"},
        frozen=frozenset([2]),
        part=slice(1, 2),
        ordered=collections.OrderedDict(a=1),
        default=collections.defaultdict(list, b=2),
        counted=collections.Counter("aa"),
        queue=collections.deque([5]),
        z=1j,
        many=range(3),
        module=torch.nn.Linear,
        own=own,
        slotted=slotted,
        nothing=None,
    )
    contents = {"opts": options, "weight": torch.ones(2)}
    torch.save(contents, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    found = read(tmp_path / "a.pt")
    assert set(found.tensors) == {"weight", "opts/array"}
    for name, value in {
        "path": "/experiments/x",
        "device": "cuda",
        "shape/1": 3,
        "number": 0.5,
        "count": 7,
        "flag": True,
        "text": "ffhq",
        "array0": 4.5,
        "ordered/a": 1,
        "default/b": 2,
        "counted/a": 2,
        "queue/0": 5,
        "own/encoder_type": "Encoder4Editing",
        "slotted/size": 3,
        "nothing": None,
    }.items():
        assert found.values[f"opts/{name}"] == value, name


def test_a_function_that_the_options_call_is_refused(tmp_path):
    torch.save({"opts": {"kind": Colour.RED}, "weight": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ConvertError, match="Colour, which no checkpoint needs; with the code"):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize("as_zip", [True, False])
def test_modules_saved_whole(tmp_path, as_zip):
    network = torch.nn.DataParallel(rosinality.Generator(8, 6, 2, channels))
    torch.save(network, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    state = network.module.state_dict()
    assert_same_arrays(read(tmp_path / "a.pt").tensors, state)
    contents = {"generator": network, "epoch": 3}
    torch.save(contents, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    found = read(tmp_path / "a.pt")
    assert_same_arrays(found.tensors, {f"generator/{name}": x for name, x in state.items()})
    assert found.values["epoch"] == 3


def test_an_inverter_saved_whole_keeps_its_options_and_average(tmp_path):
    network = torch.nn.Module()
    network.encoder = torch.nn.Linear(2, 2)
    network.latent_avg, network.opts = torch.ones(3), argparse.Namespace(encoder_type="x")
    torch.save(network, tmp_path / "a.pt")
    found = read(tmp_path / "a.pt")
    assert set(found.tensors) == {"encoder.weight", "encoder.bias", "latent_avg"}
    assert found.values["opts/encoder_type"] == "x"


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_tuned_generator_of_pti_is_read_as_the_pickle_is(tmp_path, capsys, as_zip):
    generator = nvidia.Generator(8, 6, 2, channels, clamp=256)
    nvidia.write_pickle(tmp_path / "n.pkl", {"G_ema": generator})
    nvidia.save_whole(tmp_path / "model_ABC_face.pt", generator, as_zip)
    for name in ("n.pkl", "model_ABC_face.pt"):
        assert main([str(tmp_path / name), str(tmp_path / name[0])]) == 0
    assert "a generator saved alone, in NVIDIA's names" in capsys.readouterr().out
    assert arrays_of(tmp_path / "m") == arrays_of(tmp_path / "n")


def test_generators_saved_alone(tmp_path, capsys):
    state = rosinality.Generator(8, 6, 2, channels).state_dict() | {"latent_avg": torch.ones(6)}
    average = state.pop("latent_avg")
    torch.save({"g_ema": state, "latent_avg": average}, tmp_path / "g.pt")
    assert main([str(tmp_path / "g.pt"), str(tmp_path / "g")]) == 0
    for i, contents in enumerate([
        {**state, "latent_avg": average},
        {"state_dict": {f"g_ema.{name}": x for name, x in state.items()}, "latent_avg": average},
        {"generator": state, "latent_avg": average},
    ]):  # fmt: skip
        torch.save(contents, tmp_path / "a.pt")
        assert main([str(tmp_path / "a.pt"), str(tmp_path / f"{i}")]) == 0
        assert "a generator saved alone, in rosinality's names" in capsys.readouterr().out
        assert arrays_of(tmp_path / f"{i}") == arrays_of(tmp_path / "g")
    state = nvidia.Generator(8, 6, 2, channels).state_dict()
    torch.save(state, tmp_path / "a.pt")
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "b")]) == 0
    assert "do not say whether its layers' outputs are clamped" in capsys.readouterr().out


def arrays_of(path):
    generator = bundle.load_network(path, "generator")
    return str(generator.config), [x.tobytes() for x in map(np.asarray, leaves(generator))]


def leaves(network):
    import jax
    from flax import nnx

    return jax.tree.leaves(nnx.state(network))


def test_networks_that_are_known_and_not_here(tmp_path, capsys):
    for name, sentence in [
        ("state_dict/hypernet.refinement_blocks.0.weight", "HyperStyle's hypernetwork"),
        ("synthesis.input.weight", "it holds a StyleGAN3 generator"),
        ("mapper.course_mapping.mapping.1.weight", "a mapper of StyleCLIP"),
    ]:
        root, _, key = name.rpartition("/")
        contents = {key: torch.ones(2, 2)}
        torch.save({root: contents} if root else contents, tmp_path / "a.pt")
        assert main([str(tmp_path / "a.pt"), str(tmp_path / "b")]) == 1
        assert sentence in capsys.readouterr().err
    networks = {"G_ema": nvidia.Generator(8, 6, 2, channels)}
    networks["G_ema"].synthesis.input = torch.nn.Linear(2, 2)
    nvidia.write_pickle(tmp_path / "s3.pkl", networks)
    assert main([str(tmp_path / "s3.pkl"), str(tmp_path / "b")]) == 1
    assert "it holds a StyleGAN3 generator" in capsys.readouterr().err


_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234567\n"
_PAGE = "\n<!DOCTYPE html><html><head><title>Google Drive - Quota\nexceeded</title></head></html>"


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "it is empty; download it again"),
        (bytes(5000), "it begins with zeros alone"),
        (_PAGE.encode(), "it is a web page ('Google Drive - Quota exceeded') and not the file"),
        (b"\xef\xbb\xbf<html lang='en'><body>sign in</body>", "it is a web page and not the file"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is a text in XML"),
        (b'{"error": {"code": 403}}', "it is a text in JSON"),
        (_LFS.encode(), "it is a Git LFS pointer to a file of 1,234,567 bytes"),
        (b"../.git/annex/objects/a/b/SHA256E-s1--00.pt", "it is a git-annex pointer"),
        (gzip.compress(b"x" * 100, mtime=0), "it is compressed by gzip; unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(9), "it is a 7-Zip archive; unpack it"),
        (b"a.pt".ljust(257, b"\0") + b"ustar" + bytes(300), "it is a tar archive; unpack it"),
        (b"pickle".ljust(257, b"\0") + b"ustar" + bytes(300), "the tar layout of PyTorch before"),
        ((40).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}' + bytes(40), "a safetensors file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "it is an HDF5 file, as of Keras"),
        (b"\x08\x07\x12\x07pytorch\x1a\x05" + bytes(20), "it is a network in ONNX"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "it is a PNG image"),
        (b'model_checkpoint_path: "model.ckpt"', "it is a checkpoint of TensorFlow"),
        (b"hello", "it begins with b'hello'"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, sentence):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConvertError) as error:
        read(tmp_path / "a.pt")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_archives_and_folders_that_are_no_checkpoints(tmp_path):
    for members, sentence in [
        ({"model/e4e.pt": b""}, "it is a zip archive of 'model/e4e.pt'; unpack it"),
        ({"config.json": b"", "model.weights.h5": b""}, "it is a model of Keras"),
        ({"a/data.pkl": b"", "a/code/x.py": b""}, "it is a program of TorchScript"),
        ({"a.txt": b""}, "it is a zip archive, but not one of torch.save"),
    ]:
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with pytest.raises(ConvertError, match=sentence.replace(".", "[.]")):
            read(tmp_path / "a.pt")
    for inside, sentence in [
        ("bundle.json", "it is a bundle already"),
        ("data.pkl", "it is an unpacked file of torch.save"),
        ("saved_model.pb", "it is a model of TensorFlow"),
        ("x.txt", "it is no file but a folder; expected a published checkpoint"),
    ]:
        folder = tmp_path / inside.replace(".", "_")
        folder.mkdir()
        (folder / inside).touch()
        with pytest.raises(ConvertError, match=sentence):
            read(folder)


def test_the_first_part_of_a_file_is_named(tmp_path):
    generator = nvidia.Generator(8, 6, 2, channels)
    nvidia.write_pickle(tmp_path / "n.pkl", {"G_ema": generator})
    torch.save(generator.state_dict(), tmp_path / "z.pt")
    torch.save(generator.state_dict(), tmp_path / "l.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "a.npz", w=np.zeros((1, 6, 800)))
    np.save(tmp_path / "a.npy", np.zeros((1, 6, 800)))
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        for share in (0.3, 0.8):
            path.write_bytes(data[: int(share * len(data))])
            with pytest.raises(ConvertError, match="download it again"):
                read(path)


def test_plain_pickles_of_tensors_are_read(tmp_path):
    """A state dict by pickle.dump instead of torch.save."""
    state = rosinality.Generator(8, 6, 2, channels).state_dict()
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"g_ema": state}))
    found = read(tmp_path / "a.pkl").tensors
    assert_same_arrays(found, {f"g_ema/{name}": x for name, x in state.items()})
