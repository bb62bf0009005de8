"""The published networks that metrics measure with: their names, and where they come from."""

import dataclasses
import os
import shlex
from collections.abc import Iterable, Mapping

from flax import nnx

from e4e_jax import bundle


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that measures.

    Attributes:
      bundle: its bundle's name in the folder of networks.
      part: the network's name in the bundle.
      features: what figures made with it are labelled with.
      files: the published files that `python -m convert_weights` makes the bundle of.
      source: where they are.
    """

    bundle: str
    part: str
    features: str
    files: str
    source: str


NETWORKS = {
    "lpips_alex": Network(
        "lpips_alex", "lpips", "LPIPS 0.1 (AlexNet)", "alexnet-owt-7be5be79.pth alex.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth and "
        "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1",
    ),
    "lpips_vgg": Network(
        "lpips_vgg", "lpips", "LPIPS 0.1 (VGG16)", "vgg16-397923af.pth vgg.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth and "
        "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1",
    ),
    "arcface": Network(
        "ir_se50", "arcface", "ArcFace IR-SE-50", "model_ir_se50.pth",
        "the auxiliary models of https://github.com/omertov/encoder4editing",
    ),
    "curricularface": Network(
        "curricularface", "arcface", "CurricularFace IR-101", "CurricularFace_Backbone.pth",
        "the auxiliary models of https://github.com/yuval-alaluf/restyle-encoder",
    ),
    "inception": Network(
        "inception", "inception", "Inception v3 (2015-12-05)",
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    ),
}  # fmt: skip


def find_networks(names: Iterable[str], folder: str) -> dict[str, str]:
    """The paths of networks' bundles.

    Args:
      names: of `NETWORKS`, or bundles.
      folder: where the converted bundles of `NETWORKS` lie.

    Raises:
      FileNotFoundError: some are missing; a line for each says which files to get, where from, and
        how to convert them.
    """
    found, missing = {}, []
    for name in sorted(names):
        network = NETWORKS.get(name)
        if network is None:
            found[name] = bundle.resolve(name)
            continue
        found[name] = path = os.path.expanduser(os.path.join(folder, network.bundle))
        if not os.path.exists(path):
            command = f"python -m convert_weights {network.files} {shlex.quote(path)}"
            missing.append(
                f"there is no {path} ({network.features}): get {network.files} from "
                f"{network.source}, then `{command}`."
            )
    if missing:
        raise FileNotFoundError("\n".join(missing))
    return {name: bundle.resolve(path) for name, path in found.items()}


def load_networks(paths: Mapping[str, str]) -> dict[str, nnx.Module]:
    """Opens what `find_networks` found; BundleError where a bundle holds another network."""
    parts = {name: NETWORKS[name].part if name in NETWORKS else None for name in paths}
    return {name: bundle.load_network(path, parts[name]) for name, path in paths.items()}


def features_of(name: str) -> str:
    """What figures made with a network of this name are labelled with."""
    return NETWORKS[name].features if name in NETWORKS else name
