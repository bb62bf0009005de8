"""Sources of images: what one is, and those that a config names in `data.source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from e4e_jax.runtime.registry import Registry, call

if TYPE_CHECKING:  # configs are looked at before anything is loaded
    import numpy as np


class Source(Protocol):
    """Images by number. Pickled, it goes to the processes that read it.

    `source[i]` is uint8 [H, W, 3]; of an image that cannot be decoded it raises
    `e4e_jax.data.images.ImageError`, and another one takes its place.

    What a source may have besides, each used where it is there:
      factors: method (indices) -> float32 [N, K], what the images show, one column for each of
        `factor_names`.
      latents: function of JAX arrays (factors [B, K], z [B, D] standard normal) -> z [B, D], codes
        that stand for images of these factors, standard normal over all of them; a generator that
        is told its images learns from them.
      targets: sequence of uint8 [H, W, 3], as long as the source: what an encoder shall give back
        in place of the image that it sees.
      read_many: method (indices) -> uint8 [N, H, W, 3], where many at once are quicker; all of them
        can be read.
      description: what the images are, in words, for the notes of a bundle.
      fingerprint: method () -> {what: value}, the same on all hosts, see `same_on_hosts`.

    """

    @property
    def names(self) -> Sequence[str]:
        """Of the images, as long as the source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


# Each is called as build(data, held_out=...) with a config's `data` section: its own fields are in
# `data.options`, and `held_out` asks for the images to validate on.
SOURCES = Registry("source of images", {
    "folder": "e4e_jax.data.sources:folder_source",
    "tfds": "e4e_jax.data.sources:tfds_source_of_config",
    "toy": "e4e_jax.toy.faces:toy_source",
})  # fmt: skip

# Fields of `data` that must not be empty: of training images, of held-out ones, what is expected.
_NEEDED = {
    "folder": (("path",), ("validation_path",), "a folder of images", "FOLDER"),
    "tfds": (("name", "split"), ("name", "validation_split"), "that of a data set of TFDS", "..."),
}


def check_source(data: Mapping[str, Any], *, held_out: bool) -> None:
    """Whether a config's `data` section names a source, and the fields that it needs.

    Nothing is imported or read.

    Raises:
      ValueError: in one sentence.
    """
    SOURCES.check(data["source"])
    training, validation, expected, value = _NEEDED.get(data["source"], ((), (), "", ""))
    for field in validation if held_out else training:
        if not data[field]:
            flag = f"--config.data.{field}={value}"
            raise ValueError(f"config.data.{field} is empty; expected {expected} ({flag}).")


def build_source(data: Any, *, held_out: bool) -> Source:
    """The images that a config's `data` section names, for training or held out.

    Args:
      data: the section: `source` is a name of `SOURCES` or an import path.
      held_out: the validation images instead of the training images.

    Raises:
      ValueError: there is no such source, a field that it needs is empty, or what it builds is no
        `Source`; in one sentence.
    """
    check_source(data, held_out=held_out)
    what = f"config.data.source {data['source']}"
    source = call(what, SOURCES.find(data["source"]), data, held_out=held_out)
    check_contract(source, what)
    return source


def check_contract(source: Source, what: str) -> None:
    """Raises ValueError, one sentence about `what`, where an object is no `Source`."""
    found = f"{what} gives {type(source).__name__}"
    for method in ("__len__", "__getitem__"):
        if not hasattr(source, method):
            raise ValueError(f"{found}, which has no {method}; expected a source of images.")
    count = len(source)
    names = getattr(source, "names", None)
    if names is None or isinstance(names, str) or not hasattr(names, "__getitem__"):
        raise ValueError(f"{found} without names; expected a name for each of its {count} images.")
    for field in ("names", "targets"):
        if (values := getattr(source, field, None)) is not None and len(values) != count:
            raise ValueError(
                f"{found} of {count} images and {len(values)} {field}; expected {count}."
            )
    if hasattr(source, "factors") and not getattr(source, "factor_names", ()):
        raise ValueError(f"{found} with factors and no factor_names; expected both or none.")
