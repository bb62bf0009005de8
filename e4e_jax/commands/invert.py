"""python -m e4e_jax invert IMAGES OUT: images -> codes and their synthesis."""

import sys
from typing import Any

import jax

from e4e_jax import api, bundle
from e4e_jax.commands.pictures import say_what_is_strange, shortened
from e4e_jax.data.images import ImageError
from e4e_jax.data.sources import open_images
from e4e_jax.inversion.align import AlignedFaces, is_aligned
from e4e_jax.inversion.folder import check_output, invert_folder
from e4e_jax.inversion.methods import inversion
from e4e_jax.inversion.registry import METHODS
from e4e_jax.runtime import parallel
from e4e_jax.runtime.options import parse_options
from e4e_jax.runtime.progress import ProgressBar

_CHECKED_FOR_ALIGNMENT = 8  # images, the first ones


def add_invert(commands: Any) -> None:
    parser = commands.add_parser("invert", help="invert images with an encoder")
    parser.add_argument(
        "images",
        help="a folder, a file, or a pattern such as 'faces/*.png': photographs, or what else the "
        "encoder reads (sketches; maps of labels, as PNG files of class numbers)",
    )
    parser.add_argument("out", help="folder for images, latents.npz and a grid")
    parser.add_argument("--model", default="toy", help="a bundle with an encoder (default: toy)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--align", action="store_true", help="find the face in each image and crop it as FFHQ's"
    )
    parser.add_argument("--iterations", type=int, help="of an iterative encoder (ReStyle)")
    parser.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="N",
        help="steps of optimisation behind the encoder",
    )
    parser.add_argument(
        "--method", metavar="NAME",
        help="what --refine optimises: all styles (w_plus, the default), one w and the noise (w), "
        "or the generator (pti); or a method of your own, package.module:function",
    )  # fmt: skip
    parser.add_argument(
        "--options", nargs="+", default=(), metavar="NAME=VALUE",
        help="of the method, such as learning_rate=0.02",
    )  # fmt: skip
    parser.add_argument(
        "--perceptual", help="bundle of LPIPS or toy/features for --refine; L2 alone without"
    )
    parser.add_argument("--max_bad_images", type=int, default=100)
    parser.set_defaults(run=_run)


def _run(flags):
    for name in ("batch_size", "refine", "max_bad_images"):
        lowest = 1 if name == "batch_size" else 0
        if getattr(flags, name) < lowest:
            raise ValueError(f"--{name} is {getattr(flags, name)}; expected at least {lowest}.")
    with parallel.all_hosts(advice="start all again with the same OUT"):
        _invert_all(flags)


def _invert_all(flags):
    method, options = _method(flags)
    source: Any = open_images(flags.images, without=flags.out)
    check_output(flags.out, source)
    model = api.load(flags.model)
    if not isinstance(model, api.Inverter):
        raise ValueError(f"{flags.model} has no encoder; expected a bundle of kind inverter.")
    if model.reads != "rgb" and (flags.align or flags.refine):
        flag = "--align" if flags.align else "--refine"
        raise ValueError(f"{flag} works on photographs, and {flags.model} reads {model.reads}.")
    source = model.source(source)
    if flags.align:
        source = AlignedFaces(source, max(model.image_size))
    elif _reads_faces(flags.model):
        _warn_if_unaligned(source)
    settings = _settings(flags, model, method, options)
    if isinstance(options.get("perceptual"), str):  # opened once, and not for each batch
        options["perceptual"] = bundle.load_network(options["perceptual"])
    outcome = invert_folder(
        inversion(model, method, **options),
        source,
        flags.out,
        image_size=model.image_size,
        batch_size=flags.batch_size,
        settings=settings,
        max_bad_images=flags.max_bad_images,
        progress=ProgressBar,
    )
    for reason in outcome.bad.values():
        print(f"left out: {reason}")
    for name, note in (source.notes if flags.align else {}).items():
        print(f"{name}: {note}")
    if outcome.errors:
        say_what_is_strange(model, list(outcome.errors), list(outcome.errors.values()))
    if outcome.count + outcome.already == 0:
        raise ValueError(f"none of the {len(source)} images at {flags.images} could be inverted.")
    if jax.process_index() > 0:
        return
    if outcome.changed:
        print(f"their content has changed since they were inverted: {shortened(outcome.changed)}")
    there = f", {outcome.already} were there already" if outcome.already else ""
    print(f"{outcome.count} images inverted{there}")
    print(f"codes: {flags.out}/latents.npz\npicture (input | inversion): {flags.out}/grid.png")


def _method(flags):
    """The name of the method that the flags ask for, and its options."""
    method, options = flags.method or "w_plus", parse_options(flags.options)
    METHODS.check(method)
    given = {"steps": flags.refine or None, "perceptual": flags.perceptual}
    given |= {"iterations": flags.iterations}
    options |= {name: value for name, value in given.items() if value is not None}
    if method in METHODS and "steps" not in options:  # nothing to optimise
        method = "encoder"
        options.pop("perceptual", None)
    return method, options


def _settings(flags, model, method, options):
    """What the inversions depend on."""
    settings = {
        "model": bundle.hash_files(bundle.resolve(flags.model)),
        "align": flags.align,
        "iterations": options.get("iterations") or model.iterations,
        "refine": options.get("steps", 0),
        "method": method,
        "perceptual": options.get("perceptual"),
    }
    others = {k: repr(v) for k, v in options.items() if k not in {"steps", *settings}}
    return settings | ({"options": others} if others else {})


def _reads_faces(name) -> bool:
    """Whether the encoder was trained on aligned faces, as its published options say."""
    options = bundle.read_description(bundle.resolve(name))["metadata"].get("options")
    return isinstance(options, dict) and str(options.get("dataset_type")).startswith("ffhq")


def _warn_if_unaligned(source):
    """Faces that are not where FFHQ has them are the most common reason of bad inversions."""
    checked = range(min(len(source), _CHECKED_FOR_ALIGNMENT))
    try:
        unaligned = [source.names[i] for i in checked if not is_aligned(source[i])]
    except (ImportError, ImageError):  # nothing to check with; a damaged file is reported later
        return
    if unaligned:
        print(
            f"e4e_jax: {', '.join(unaligned)} show no face where this encoder expects it, and will "
            "invert badly; --align crops faces as it was trained on them.",
            file=sys.stderr,
        )
