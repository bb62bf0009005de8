import numpy as np
import published
import published_features as features
import pytest
import torch
from helpers import relative_error

import e4e_jax
from benchmarks.torch_reference.inception import Inception
from convert_weights.__main__ import main
from e4e_jax import bundle

SMALL = {"widths": (4, 8, 12, 16), "depths": (1, 2, 1, 1)}


def random_images(height, width, seed=0):
    shape = (2, height, width, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def convert(path, *checkpoints):
    sources = [path / f"{i}.pth" for i in range(len(checkpoints))]
    for source, checkpoint in zip(sources, checkpoints, strict=True):
        torch.save(checkpoint, source)
    assert main([*map(str, sources), str(path / "bundle"), "--overwrite"]) == 0
    return e4e_jax.load(path / "bundle")


@pytest.mark.parametrize("reduction", [4, None])
def test_arcface(tmp_path, reduction):
    network = published.ArcFace(**SMALL, reduction=reduction, side=2, embedding=10)
    network = published.randomize(network)
    model = convert(tmp_path, network.state_dict())
    images = random_images(32, 32)
    with torch.no_grad():
        expected = network(to_torch(images))
    assert relative_error(model(images), expected) < 1e-5


def test_moco(tmp_path, capsys):
    network = published.randomize(features.ResNet((1, 2, 1, 1), 8))
    model = convert(tmp_path, features.moco_checkpoint(network))
    output = capsys.readouterr().out
    assert "4 tensors, projection head" in output and "key encoder and queue" in output
    images = random_images(48, 36)
    with torch.no_grad():
        expected = network(to_torch(images))
    assert relative_error(model(images), expected) < 1e-5


@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_lpips(tmp_path, capsys, net):
    trunk, linears = published.randomize(features.Trunk(net)), features.linear_weights(net)
    model = convert(tmp_path, trunk.state_dict(), linears)
    assert "2 tensors, classifier" in capsys.readouterr().out
    assert len(bundle.load_bundle(tmp_path / "bundle").metadata["sources"]) == 2
    a, b = random_images(64, 48), random_images(64, 48, seed=1)
    with torch.no_grad():
        expected = features.lpips_distance(trunk, linears, net, to_torch(a), to_torch(b))
    assert relative_error(model(a, b), expected) < 1e-5


def test_lpips_needs_trunk_and_linear_weights(tmp_path, capsys):
    torch.save(features.linear_weights("alex"), tmp_path / "alex.pth")
    assert main([str(tmp_path / "alex.pth"), str(tmp_path / "b")]) == 1
    error = capsys.readouterr().err
    assert "10 missing: features.0.weight" in error and "features.10.bias" in error


@pytest.mark.slow
def test_inception(tmp_path):
    network = published.randomize(Inception())
    state = features.inception_state(network)
    model = convert(tmp_path, state)
    images = random_images(64, 48)
    with torch.no_grad():
        expected = network(to_torch(images))
        logits = expected.double() @ state["fc.weight"].double().T
    assert relative_error(model(images), expected) < 1e-5
    assert relative_error(model.network.class_logits(images), logits) < 1e-5
