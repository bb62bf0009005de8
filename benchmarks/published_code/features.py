"""Networks that measure images, and GANSpace's edits."""

import importlib
import json
import pathlib
import subprocess
import sys
from unittest import mock

import numpy as np
from flax import nnx
from PIL import Image

import e4e_jax
from benchmarks.published_code.trial import Trial, load_tensors, random_images, randomize, to_tensor
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.written import parse_edit, resolve_edit
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.toy.faces import render, sample_factors

# (component, first style, end, strength) of GANSpace edits, in both of the published files.
_EDITS = ((0, 0, 5, 2), (9, 11, 16, -8), (41, 3, 6, 25), (54, 7, 8, 20), (79, 0, 16, 3))

_FACES, _FACES_SMALL = 60, 6  # in each of the two folders of a FID


def arcface(trial: Trial, make):
    """`make`: the repository's module of backbones -> one of them."""
    import torch

    network = randomize(make(importlib.import_module("models.encoders.model_irse")))
    torch.save(network.state_dict(), trial.folder / "published.pth")
    ours = e4e_jax.load(trial.convert(trial.folder / "published.pth", to="ours"))
    images = random_images(2, 112, 112)
    trial.compare("vectors", ours(images), network(to_tensor(images)))


def moco(trial: Trial):
    """ResNet-50 in a checkpoint of MoCo, as the similarity loss loads it."""
    import torch
    from configs.paths_config import model_paths
    from criteria.moco_loss import MocoLoss
    from torchvision.models import resnet50

    network = resnet50()
    network.fc = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.Linear(2048, 128))
    state = {f"module.encoder_q.{k}": v for k, v in randomize(network).state_dict().items()}
    model_paths["moco"] = str(trial.folder / "published.pth.tar")
    torch.save({"arch": "resnet50", "state_dict": state}, model_paths["moco"])
    ours = e4e_jax.load(trial.convert(model_paths["moco"], to="ours"))
    images = random_images(2, 256, 256)
    trial.compare("vectors", ours(images), MocoLoss(None).extract_feats(to_tensor(images)))


def lpips(trial: Trial):
    """Distances of two images on each of the three trunks."""
    import torch
    import torchvision
    from criteria.lpips import lpips

    images, other = random_images(2, 256, 256)
    pair = [images[None], 0.7 * images[None] + 0.3 * other[None]]
    for net, trunk in (("alex", "alexnet"), ("vgg", "vgg16"), ("squeeze", "squeezenet1_1")):
        network = randomize(getattr(torchvision.models, trunk)())
        torch.save(network.state_dict(), trial.folder / f"{net}.pth")
        with (
            mock.patch.object(torchvision.models, trunk, lambda _, network=network: network),
            mock.patch.object(torch.nn.Module, "load_state_dict", lambda *_: None),
            mock.patch.object(lpips, "get_state_dict", lambda *_: None),
        ):
            form = lpips.LPIPS(net)
        # The published linear weights are positive.
        linears = {f"lin{i}.model.1.weight": m[1].weight.abs() for i, m in enumerate(form.lin)}
        for module, weight in zip(form.lin, linears.values(), strict=True):
            module[1].weight.data = weight
        torch.save(linears, trial.folder / f"{net}_linear.pth")
        sources = trial.folder / f"{net}.pth", trial.folder / f"{net}_linear.pth"
        ours = e4e_jax.load(trial.convert(*sources, to=net))
        trial.compare(f"distance, {trunk}", ours(*pair), form(*map(to_tensor, pair))[None])


def inception(trial: Trial):
    """The features, then the FID of two folders by either program."""
    import torch
    from pytorch_fid import fid_score, inception

    with (
        mock.patch.object(torch.nn.Module, "load_state_dict", lambda *_: None),
        mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: None),
    ):
        network = randomize(inception.fid_inception_v3())
    with mock.patch.object(inception, "fid_inception_v3", lambda: network):
        published = inception.InceptionV3()
        _spread_features(network, published)
        torch.save(network.state_dict(), trial.folder / "published.pth")
        networks = trial.folder / "networks"
        path = trial.convert(trial.folder / "published.pth", to="networks/inception")
        for side in (256, 64):
            images = random_images(2, side, side)
            features = published(to_tensor(images) / 2 + 0.5)[0][:, :, 0, 0]
            trial.compare(f"features of {side}x{side}", e4e_jax.load(path)(images), features)
        count = _FACES_SMALL if trial.small else _FACES
        folders = [_faces(trial.folder / name, i * 5000, count) for i, name in enumerate("ab")]
        distance = fid_score.calculate_fid_given_paths(folders, 20, "cpu", 2048, num_workers=0)
    command = [sys.executable, "eval.py", f"--images={folders[0]}", f"--against={folders[1]}"]
    command += ["--metrics=fid", "--allow_unmatched", f"--networks={networks}", "--cache="]
    subprocess.run([*command, f"--out={trial.folder}"], check=True, capture_output=True)
    (figure,) = json.loads((trial.folder / "metrics.json").read_text())["figures"]
    trial.compare("FID of two folders", figure["value"], distance)


def _spread_features(network, published):
    """Takes the running statistics of random batch normalisation from images.

    Without, all images get nearly the same features (to 3e-4), and a FID is the difference of
    numbers that rounding has changed by a thousandth of what they differ.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        published.train()(to_tensor(_random_faces(0, 16) / np.float32(255)))
    published.eval()


def _random_faces(first, count):
    """uint8 [count, 64, 64, 3]."""
    return render(sample_factors(np.arange(first, first + count)))


def _faces(folder, first, count):
    folder.mkdir()
    for i, face in enumerate(_random_faces(first, count)):
        Image.fromarray(face).save(folder / f"{i:03}.png")
    return str(folder)


def ganspace(trial: Trial):
    """Edits by the repository's own components, of random codes around their mean."""
    import torch

    published = importlib.import_module("editings.ganspace")
    folder = pathlib.Path(published.__file__).parent / "ganspace_pca"
    for name, styles in (("ffhq", 18), ("cars", 16)):
        source = folder / f"{name}_pca.pt"
        directions = load_directions(trial.convert(source, to=f"{name}.npz"))
        components = load_tensors(source)
        config = GeneratorConfig(2 ** (styles // 2 + 1))
        generator = nnx.eval_shape(lambda config=config: Generator(config, rngs=nnx.Rngs(0)))
        rng = np.random.default_rng(0)
        codes = components["mean"].numpy() + rng.normal(size=(2, styles, 512))
        codes = codes.astype(np.float32)
        wanted = published.edit(torch.from_numpy(codes), components, _EDITS)
        found = []  # by image, then by edit, as the published code has them
        for component, first, end, strength in _EDITS:
            text = f"{source.stem}_{component}@{first}-{end - 1}:={strength}"
            edit = resolve_edit(parse_edit(text), directions, generator)
            found.append(np.asarray(edit.apply(generator, codes, strength)))
        found = np.stack(found, 1).reshape(wanted.shape)
        trial.compare(f"codes, {len(_EDITS)} edits of {name}", found, wanted)
        before = np.repeat(codes, len(_EDITS), axis=0)
        trial.compare(
            f"steps, {len(_EDITS)} edits of {name}", found - before, wanted.numpy() - before
        )
