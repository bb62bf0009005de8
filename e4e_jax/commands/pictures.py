"""What commands share: codes from files, and what they look like."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from PIL import Image

from e4e_jax import api
from e4e_jax.data import outputs
from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import ImageError, resize_image, to_float
from e4e_jax.data.sources import open_images
from e4e_jax.editing.range import FAR, distances
from e4e_jax.inversion.domain import Domain, comparison
from e4e_jax.inversion.folder import check_no_input, load_latents
from e4e_jax.runtime.files import writing

_FRAME_SECONDS = 0.08
_COMPARED = 16  # images whose inversions are looked at, the first ones


def add_class_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class", dest="label", type=int, metavar="N",
        help="of a class-conditional generator: the class whose w are drawn, from 0",
    )  # fmt: skip


def load_generator(name: str, label: int | None = None) -> api.GeneratorModel:
    """The bundle of a generator or an inverter; ValueError for another one.

    A label gives a class-conditional generator of that class alone.
    """
    model = api.load(name)
    if not isinstance(model, api.GeneratorModel):
        raise ValueError(f"{name} has no generator; expected an inverter or a generator.")
    return model if label is None else model.for_class(label)


def read_codes(
    name: str, model: api.GeneratorModel, out: str | os.PathLike, flags: argparse.Namespace
) -> Any:
    """Codes of a latents.npz or a projected_w.npz, or of images, which are inverted.

    Images that cannot be decoded are named on the screen and left out.

    Args:
      name: the file, or images: a folder, a file or a pattern.
      model: whose codes; images need an inverter.
      out: folder that results will be written to.
      flags: those that `add_reading_flags` adds.

    Returns:
      Names, codes [N, L, D], and the images as uint8 [N, H, W, 3], of `drawn_size`;
      None where codes were given.

    Raises:
      FileNotFoundError, ValueError: nothing usable is there, or results would replace it; in one
        sentence.
    """
    for flag, lowest in (("batch_size", 1), ("max_bad_images", 0)):
        if getattr(flags, flag) < lowest:
            raise ValueError(f"--{flag} is {getattr(flags, flag)}; expected at least {lowest}.")
    outputs.check_for_sheets(out)
    if name.endswith((".npz", ".pt", ".pth")):
        if os.path.realpath(os.path.join(out, "latents.npz")) == os.path.realpath(name):
            raise ValueError(f"{name} would be replaced; choose another folder for OUT.")
        names, codes = load_latents(name)
        expected = (model.num_styles, model.generator.config.w_dim)
        if codes.shape[1:] != expected or not len(codes):
            raise ValueError(
                f"{name} holds codes {list(codes.shape)}; expected [N, {expected[0]}, "
                f"{expected[1]}], as this generator takes them."
            )
        check_codes(model, codes, f"{name} holds codes")
        return names, codes, None
    if not isinstance(model, api.Inverter):
        raise ValueError(f"{name} are images and the model has no encoder; expected a latents.npz.")
    source = model.source(open_images(name, without=out))
    check_no_input(out, source, outputs.sheet_names(out, source.names))
    names, images = _read_images(name, source, model.image_size, flags.max_bad_images)
    codes = in_batches(
        lambda batch: model.encode(model.to_input(to_float(batch))), (images,), flags.batch_size
    )
    if compare := comparison(model):
        some = slice(min(_COMPARED, len(images)))
        drawn = in_batches(
            lambda batch: model.drawn(model.synthesize(batch)),
            (codes[some],),
            flags.batch_size,
        )
        say_what_is_strange(model, names[some], compare(to_float(images[some]), drawn))
    originals = np.stack([resize_image(image, model.drawn_size) for image in images])
    return names, codes, originals


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a command reads images."""
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--max_bad_images", type=int, default=100,
        help="images that may turn out not to be decodable (default: 100)",
    )  # fmt: skip


def _read_images(name, source, size, max_bad_images):
    """Names and images uint8 [N, *size, 3] of a source, without those that cannot be decoded."""
    names, images, reasons = [], [], []
    for i, image_name in enumerate(source.names):
        try:
            images.append(resize_image(source[i], size))
            names.append(image_name)
        except ImageError as error:
            reasons.append(str(error))
            if len(reasons) > max_bad_images:
                raise ImageError(
                    f"{len(reasons)} bad images were met where --max_bad_images allows "
                    f"{max_bad_images}, the last: {error}"
                ) from None
    if not images:
        raise ImageError(f"none of the {len(source)} images at {name} can be read: {reasons[-1]}")
    for reason in reasons:
        print(f"left out: {reason}")
    return names, np.stack(images)


def check_codes(model: api.GeneratorModel, codes: ArrayLike, what: str) -> None:
    """Says on stderr where codes [N, L, D] are far from all that the generator has learned.

    Args:
      model: whose codes.
      codes: [N, L, D].
      what: the beginning of the sentence, such as "the edit smile=9 leads to codes".

    Raises:
      ValueError: codes are not finite; in one sentence.
    """
    if not np.isfinite(codes).all():
        raise ValueError(f"{what} that are not finite numbers; expected a smaller strength.")
    farthest = distances(model.generator, np.asarray(codes)).max()
    if farthest > FAR:
        print(
            f"e4e_jax: {what} {farthest:.3g} times as far from the average as w is; what is drawn "
            "from them is nothing that the generator has learned.",
            file=sys.stderr,
        )


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Names in a line, the first ones where they are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def say_what_is_strange(model: api.Inverter, names: Sequence[str], errors: Any) -> None:
    """One sentence on the images that look like something else than the model was trained on.

    Args:
      model: that `comparison` knows.
      names: of the images.
      errors: what it returned for them, [N, 2].
    """
    domain = Domain.of(model.metadata)
    sentence = domain and domain.sentence(names, *np.reshape(errors, (-1, 2)).T)
    if sentence:
        print(f"e4e_jax: {sentence}", file=sys.stderr)


def save_gif(path: str | os.PathLike, frames: Sequence[np.ndarray]) -> None:
    """An animation of uint8 [H, W, 3] images there and back again, whole or not at all.

    Raises:
      OSError: the disk takes no more.
    """
    shown = [Image.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    with writing(path) as temporary:
        shown[0].save(
            temporary, format="GIF", save_all=True, append_images=shown[1:],
            duration=int(1000 * _FRAME_SECONDS), loop=0,
        )  # fmt: skip
