"""Encoders with their generators: e4e, pSp and ReStyle."""

import argparse
import importlib
import math
from unittest import mock

import numpy as np
from PIL import Image

import e4e_jax
from benchmarks.published_code.trial import (
    Trial,
    load_tensors,
    random_images,
    randomize,
    same_bits,
    to_tensor,
)
from e4e_jax.data.images import resize_image, to_float
from e4e_jax.data.inputs import input_source, to_input
from e4e_jax.data.sources import ImageFiles
from e4e_jax.models.encoder import EncoderConfig
from e4e_jax.models.irse import IRSEConfig


def inverter(trial: Trial, *, module="models.psp", name="pSp", iterations=None, **options):
    """An encoder and its generator, built by the published class of `opts` alone."""
    import torch

    published = getattr(importlib.import_module(module), name)
    resolution = options.pop("resolution")
    options = {
        "stylegan_size": resolution,
        "output_size": resolution,
        "n_styles": 2 * int(math.log2(resolution)) - 2,
        "input_nc": 3,
        "label_nc": 0,
        "dataset_type": "ffhq_encode",
        "learn_in_w": False,
        "start_from_latent_avg": True,
    } | options
    with mock.patch.object(published, "load_weights", lambda self: None):
        network = randomize(published(argparse.Namespace(**options)))
    rows = 1 if options["learn_in_w"] else options["n_styles"]
    average = (torch.randn(512) / 2).repeat(rows, 1)
    contents = {"state_dict": network.state_dict(), "latent_avg": average, "opts": options}
    torch.save(contents, trial.folder / "published.pt")
    del network, contents

    ours_path = trial.convert(trial.folder / "published.pt", to="ours")
    back_path = trial.convert(ours_path, to="back.pt")
    back = load_tensors(back_path)
    trial.same_bits = same_bits(
        load_tensors(trial.folder / "published.pt"), back, "state_dict", "latent_avg"
    )
    options = back["opts"] | {"checkpoint_path": str(back_path), "device": "cpu"}
    del back
    network = published(argparse.Namespace(**options)).eval()
    ours = e4e_jax.load(ours_path)

    images = random_inputs(ours.encoder.config)
    if iterations is None:
        _, codes = network(to_tensor(images), return_latents=True, randomize_noise=False)
        trial.compare("codes", ours.encode(images), codes)
    else:
        codes = _compare_iterations(trial, ours, network, images, iterations)
    published_images, _ = network.decoder([codes], input_is_latent=True, randomize_noise=False)
    trial.compare("image", ours.synthesize(codes.numpy()), published_images)


def random_inputs(config):
    """What an encoder of this configuration reads, [1, H, W, C]."""
    if config.reads == "rgb":
        return random_images(1, *config.image_size)
    rng, shape = np.random.default_rng(0), (1, *config.image_size)
    if config.reads == "grey":
        return rng.uniform(0, 1, (*shape, 1)).astype(np.float32)
    return np.eye(config.image_channels, dtype=np.float32)[
        rng.integers(0, config.image_channels, shape)
    ]


def files(trial: Trial):
    """Files of sketches and of labels, as the published data set and its transforms read them."""
    kinds = importlib.import_module("configs.data_configs").DATASETS
    dataset_of = importlib.import_module("datasets.inference_dataset").InferenceDataset
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 19, (256, 256)).astype(np.uint8)
    pictures = {
        "labels": ("celebs_seg_to_face", 19, labels),
        "sketch": ("celebs_sketch_to_face", 1, rng.integers(0, 256, (256, 256), np.uint8)),
        "sketch, larger and in colours": (
            "celebs_sketch_to_face", 1, rng.integers(0, 256, (400, 300, 3), np.uint8)
        ),
    }  # fmt: skip
    for name, (dataset_type, classes, picture) in pictures.items():
        folder = trial.folder / name
        folder.mkdir()
        Image.fromarray(picture).save(folder / "0.png")
        options = argparse.Namespace(label_nc=classes)
        transforms = kinds[dataset_type]["transforms"](options).get_transforms()
        dataset = dataset_of(folder, options, transforms["transform_inference"])
        config = EncoderConfig(backbone=IRSEConfig(in_channels=classes))
        image = input_source(ImageFiles([folder / "0.png"]), config)[0]
        image = resize_image(image, config.image_size)
        read = to_input(to_float(image)[None], config)
        with mock.patch.object(np, "ogrid", _OldGrid()):
            trial.compare(name, read, dataset[0][None])


class _OldGrid:
    """`np.ogrid` as NumPy had it when pSp was written: it gives lists."""

    _grid = np.ogrid

    def __getitem__(self, key):
        return list(self._grid[key])


def _compare_iterations(trial, ours, network, images, iterations):
    """ReStyle's loop, and each of its iterations alone: from codes that both sides have.

    Returns the last codes of the published loop.
    """
    import torch
    from utils.inference_utils import get_average_image, run_on_batch

    def run(start, count, dtype=torch.float32):  # codes [L, D] -> the codes after each iteration
        network.to(dtype).latent_avg = torch.as_tensor(start).to(dtype)
        network.opts.n_iters_per_batch, network.opts.resize_outputs = count, True
        average = get_average_image(network, network.opts).to(dtype)
        _, codes = run_on_batch(to_tensor(images).to(dtype), network, network.opts, average)
        return np.stack(codes[0])[:, None]  # of the only image

    average = network.latent_avg
    found = [ours.encode(images, i + 1) for i in range(iterations)]
    for i, start in enumerate([average, *(np.array(codes[0]) for codes in found[:-1])]):
        trial.compare(f"codes, iteration {i + 1} alone", found[i], run(start, 1)[0])
    published, exact = run(average, iterations), run(average, iterations, torch.float64)
    for i in range(1, iterations):
        trial.compare(f"codes after {i + 1} iterations", found[i], published[i])
        # On random weights an iteration multiplies differences. How much: that of exact codes
        # which start from ours, and that of the published code's own rounding.
        moved = run(np.array(found[i - 1][0]), 1, torch.float64)[0]
        trial.compare("  float64, from ours beside from its own", moved, exact[i])
        trial.compare("  published float32 beside float64", published[i], exact[i])
    network.float()
    return torch.from_numpy(published[-1])
