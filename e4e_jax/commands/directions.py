"""python -m e4e_jax directions OUT.npz: finds editing directions of a generator."""

import csv
from typing import Any

from e4e_jax import bundle
from e4e_jax.commands.pictures import add_class_flag, load_generator
from e4e_jax.editing.files import save_directions
from e4e_jax.editing.finders import Channels, Direction, Scored, find_directions, score_samples
from e4e_jax.editing.registry import FINDERS
from e4e_jax.editing.scores import read_scores
from e4e_jax.inversion.folder import load_latents
from e4e_jax.runtime.files import writing
from e4e_jax.runtime.options import parse_options
from e4e_jax.runtime.registry import takes

_OF_SCORES = ("interfacegan", "stylespace")  # which need some


def add_directions(commands: Any) -> None:
    parser = commands.add_parser("directions", help="find editing directions of a generator")
    parser.add_argument("out", help="the .npz file to write; a .csv file of stylespace")
    parser.add_argument(
        "--model", default="toy/generator", help="a bundle (default: toy/generator)"
    )
    parser.add_argument(
        "--method", metavar="NAME", default="interfacegan",
        help="interfacegan (the default), from scored codes; ganspace, from the spread of w; sefa, "
        "from the generator's weights; stylespace, from scored samples, single channels; or a "
        "finder of your own, package.module:function",
    )  # fmt: skip
    parser.add_argument("--count", type=int, help="how many (default: 10); not of interfacegan")
    parser.add_argument("--samples", type=int, help="draws of w: those scored, or of ganspace")
    parser.add_argument(
        "--scores", metavar="FILE",
        help="interfacegan: a .csv of columns name, ATTRIBUTE, ... with a header, or a .npz of "
        "arrays [N] in the order of --latents",
    )  # fmt: skip
    parser.add_argument("--latents", metavar="FILE", help="latents.npz that --scores are about")
    parser.add_argument(
        "--network", help="without --scores: bundle of a network that scores samples"
    )
    parser.add_argument(
        "--condition", action="store_true", help="keep the other attributes (interfacegan)"
    )
    parser.add_argument(
        "--options", nargs="+", default=(), metavar="NAME=VALUE",
        help="of the method, such as share=0.05",
    )  # fmt: skip
    add_class_flag(parser)
    parser.set_defaults(run=_run)


def _run(flags):
    options = parse_options(flags.options)
    suffix = ".csv" if flags.method == "stylespace" else ".npz"
    if not flags.out.endswith(suffix):
        raise ValueError(
            f"{flags.out} is to hold what {flags.method} finds; expected a name in {suffix}."
        )
    finder = FINDERS.find(flags.method)
    model = load_generator(flags.model, flags.label)
    size = model.generator.config.w_dim
    if flags.count is not None and not 0 < flags.count <= size and suffix == ".npz":
        raise ValueError(f"--count is {flags.count}; expected 1 to {size}.")
    scored = _scored(flags, model)
    for name in ("count", "samples", "condition"):
        value = getattr(flags, name)
        if value not in (None, False) and takes(finder, name):
            options[name] = value
    found = find_directions(model, flags.method, scored, **options)
    for name, direction in found.items():
        if direction.how:
            print(f"{name}: {direction.how}")
    channels = {name: c.channels for name, c in found.items() if isinstance(c, Channels)}
    if suffix == ".csv":
        _save_channels(flags.out, channels)
    elif channels:
        raise ValueError(f"{flags.method} finds channels; a file of directions holds none.")
    else:
        steps = {name: d.step for name, d in found.items() if isinstance(d, Direction)}
        save_directions(flags.out, steps)
    print(f"{len(found)} {'attributes' if suffix == '.csv' else 'directions'}: {flags.out}")


def _scored(flags, model) -> Scored | None:
    """Codes w [N, D] with scores, of files or of a network; None where none are named."""
    if flags.method in FINDERS and flags.method not in _OF_SCORES:
        return None
    if flags.scores:
        if not flags.latents:
            raise ValueError("--scores are about codes; expected --latents=latents.npz with them.")
        names, codes = load_latents(flags.latents)
        size = model.generator.config.w_dim
        if not len(codes) or codes.shape[2] != size:
            raise ValueError(
                f"{flags.latents} holds codes {list(codes.shape)}; expected [N, L, {size}], as "
                "this generator takes them."
            )
        # In W: of every image its mean style.
        return Scored(codes.mean(axis=1), read_scores(flags.scores, names))
    if flags.network:
        network = bundle.load_network(flags.network)
        return score_samples(model.generator, network, flags.samples or 20_000)
    if flags.method in _OF_SCORES:
        raise ValueError(
            f"{flags.method} needs scores: expected --scores=FILE or --network=BUNDLE."
        )
    return None


def _save_channels(path, found):
    with writing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["attribute", "layer", "channel", "mean"])
        writer.writerows(
            [name, *channel] for name, channels in found.items() for channel in channels
        )
