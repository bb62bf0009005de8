"""What metrics say of a network that is missing: the command makes a bundle that they then find."""

import re
import shlex

import published
import published_features as features
import pytest
import torch

from benchmarks.torch_reference.inception import Inception
from convert_weights.__main__ import main
from e4e_jax.metrics.networks import NETWORKS, find_networks, load_networks

SMALL = {"widths": (4, 8, 12, 16), "depths": (1, 2, 1, 1), "side": 2, "embedding": 10}


def lpips(net):
    return [features.Trunk(net).state_dict(), features.linear_weights(net)]


# What the published files hold, in the order in which the command names them.
FILES = {
    "arcface": lambda: [published.ArcFace(**SMALL, reduction=4).state_dict()],
    "curricularface": lambda: [published.ArcFace(**SMALL, reduction=None).state_dict()],
    "inception": lambda: [features.inception_state(Inception())],
    "lpips_alex": lambda: lpips("alex"),
    "lpips_vgg": lambda: lpips("vgg"),
}


def test_every_network_is_tried():
    assert set(FILES) == {name for name, network in NETWORKS.items() if network.files}


@pytest.mark.parametrize(
    "name",
    [
        "arcface",
        "curricularface",
        "lpips_alex",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("inception", "lpips_vgg")),
    ],
)
def test_the_command_that_is_named_makes_the_bundle(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = "my bundles"
    with pytest.raises(FileNotFoundError, match=f"there is no {folder}/") as error:
        find_networks([name], folder)
    (command,) = re.findall("`(.+?)`", str(error.value))
    program, arguments = command.split(" convert_weights ")
    assert program == "python -m"
    *files, destination = shlex.split(arguments)
    for file, state in zip(files, FILES[name](), strict=True):
        torch.save(state, file)
    assert main([*files, destination]) == 0
    networks = load_networks(find_networks([name], folder))
    assert set(networks) == {name}
