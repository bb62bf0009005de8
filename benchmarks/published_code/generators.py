"""StyleGAN2 in the layouts of rosinality and of NVIDIA."""

import functools
import importlib
import pickle

import numpy as np
from flax import nnx

from benchmarks.published_code.trial import (
    Trial,
    load_tensors,
    random_images,
    randomize,
    same_bits,
    to_tensor,
)
from e4e_jax import bundle
from e4e_jax.api import GeneratorModel


def _compare(trial: Trial, path, synthesize, maps, judge, resolution, *, colours=3, label=None):
    """The average generator, the one it is the average of, and the discriminator of a bundle.

    Args:
      trial: gets the errors.
      path: the bundle.
      synthesize: part of the bundle -> codes [B, L, 512] to images, by the published network.
      maps: part of the bundle -> z [B, 512] to w [B, 512], likewise.
      judge: images to logits [B, 1], likewise.
      resolution: of the images.
      colours: channels of the published networks' images; ours show one of them as three.
      label: of the w of a class-conditional generator; its discriminator is left out.
    """
    import torch

    z = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
    for part, title in (("generator", ""), ("generator_raw", " of g")):
        ours = GeneratorModel(bundle.load_network(path, part))
        w = maps[part](torch.from_numpy(z))
        trial.compare(f"w{title}", ours.map(z, label), w)
        if label is not None:
            trial.compare(f"w{title} of the class alone", ours.for_class(label).map(z), w)
        codes = w[:, None] + 0.3 * torch.randn(2, ours.num_styles, 512)
        image = synthesize[part](codes).expand(-1, 3, -1, -1)
        trial.compare(f"image{title}", ours.synthesize(codes.numpy()), image)
    if label is not None:
        return
    images = random_images(4, resolution, resolution)[..., :colours]
    discriminator = bundle.load_network(path, "discriminator")
    shown = np.broadcast_to(images, (*images.shape[:3], 3))
    logits = nnx.jit(type(discriminator).__call__)(discriminator, shown)
    trial.compare("logits", logits, judge(to_tensor(images))[:, 0])


def rosinality(trial: Trial):
    """A checkpoint of its training, there and back."""
    import torch

    model, side = importlib.import_module("model"), 64
    networks = {"g": model.Generator(side, 512, 8), "g_ema": model.Generator(side, 512, 8)}
    networks["d"] = model.Discriminator(side)
    contents = {name: randomize(network).state_dict() for name, network in networks.items()}
    contents["latent_avg"] = torch.randn(512)
    torch.save(contents, trial.folder / "published.pt")
    path = trial.convert(trial.folder / "published.pt", to="ours")
    back = load_tensors(trial.convert(path, to="back.pt"))
    trial.same_bits = same_bits(contents, back, *contents)
    for name, network in networks.items():
        network.load_state_dict(back[name], strict=True)

    def synthesize(network, codes):
        return network([codes], input_is_latent=True, randomize_noise=False)[0]

    ours = {"generator": networks["g_ema"], "generator_raw": networks["g"]}
    _compare(
        trial,
        path,
        {part: functools.partial(synthesize, network) for part, network in ours.items()},
        {part: network.style for part, network in ours.items()},
        networks["d"],
        side,
    )


def nvidia(trial: Trial, module, *, colours=3, classes=0):
    """A pickle of NVIDIA's persistence, source and all."""
    import torch

    networks, side = importlib.import_module(module), 64
    sizes = {"c_dim": classes, "img_resolution": side, "img_channels": colours}
    label = classes - 1 if classes else None
    one_hot = torch.eye(classes)[[label] * 2] if classes else None
    layers = {"conv_clamp": 256, "num_fp16_res": 0}
    # stylegan2-ada hands the layers' arguments on in a dict of their own.
    nested = module == "training.networks"
    arguments = {"synthesis_kwargs": layers} if nested else layers

    def generator():
        return randomize(networks.Generator(z_dim=512, w_dim=512, **sizes, **arguments))

    contents = {"G": generator(), "G_ema": generator()}
    contents["D"] = randomize(networks.Discriminator(**sizes, **layers))
    (trial.folder / "published.pkl").write_bytes(pickle.dumps(contents))
    path = trial.convert(trial.folder / "published.pkl", to="ours")
    ours = {"generator": contents["G_ema"], "generator_raw": contents["G"]}
    _compare(
        trial,
        path,
        {part: lambda w, n=n: n.synthesis(w, noise_mode="const") for part, n in ours.items()},
        {part: lambda z, n=n: n.mapping(z, one_hot)[:, 0] for part, n in ours.items()},
        lambda images: contents["D"](images, None),
        side,
        colours=colours,
        label=label,
    )
