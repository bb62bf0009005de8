"""Edits as people write them: a name, the layers that move, and one or more strengths."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from e4e_jax.editing.edits import ChannelEdit, ComponentEdit, DirectionEdit, Edit
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.editing.stylespace import channel_deviations
from e4e_jax.models.stylegan2 import Generator
from e4e_jax.runtime.registry import Registry, is_import_path

# Digits are those of ASCII: \d and float() take those of every script.
_WRITTEN = re.compile(
    r"(?P<name>[^=@]+?)(@(?P<first>[0-9]+)-(?P<last>[0-9]+))?(?P<sets>:)?=(?P<values>.+)"
)
_CHANNEL = re.compile(r"style:(?P<layer>[0-9]+):(?P<channel>[0-9]+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST = 10_000  # characters of an edit
_MOST_NAMED = 50  # directions in a message
_MOST, _LARGEST = 1_000, 1e6  # strengths of an edit: how many, and how large

# Those of others, by import path; ours have names in files of directions, or numbers.
_EDITS = Registry("edit", {})


@dataclasses.dataclass(frozen=True)
class WrittenEdit:
    """What `parse_edit` reads, and `resolve_edit` makes an edit of.

    Attributes:
      name: of a direction, "sefa_N", "style:LAYER:CHANNEL", or an import path.
      layers: the first and the last one that moves; None for all.
      sets: whether the strengths are coordinates that are reached (":=") and not steps.
      strengths: one or more, in units of the edit.
    """

    name: str
    layers: tuple[int, int] | None
    sets: bool
    strengths: tuple[float, ...]

    @property
    def label(self) -> str:
        """What the edit is called, as it was written but for the strengths."""
        layers = "@{}-{}".format(*self.layers) if self.layers else ""
        return f"{self.name}{layers}{':' if self.sets else ''}"


def parse_edit(text: str) -> WrittenEdit:
    """Reads NAME=STRENGTHS, NAME@FIRST-LAST=STRENGTHS, or either with := for =.

    "smile=1" is one strength, "smile=-1,0,1" a list, "smile=-1:1:5" five strengths from -1 to 1,
    "smile@4-7=1" moves layers 4 to 7 alone. "ganspace_3@4-7:=2" moves to the coordinate 2 along a
    component of GANSpace. There are at most 1,000 strengths, of at most a million. What the name
    stands for is no matter here, see `resolve_edit`.

    Raises:
      ValueError: another form; in one sentence.
    """
    shown, text = f"{text!r:.80}", text.strip()
    possible = len(text) <= _LONGEST and text.isprintable()
    match = _WRITTEN.fullmatch(text) if possible else None
    if match is None:
        raise ValueError(
            f"the edit {shown} is not understood; expected NAME=STRENGTHS such as smile=1, "
            f"smile=-1:1:5 or smile@4-7=1, of at most {_LONGEST:,} characters."
        )
    layers = None if match["first"] is None else (_whole(match["first"]), _whole(match["last"]))
    strengths = _strengths(shown, match["values"])
    return WrittenEdit(match["name"], layers, bool(match["sets"]), strengths)


def resolve_edit(
    written: WrittenEdit, directions: Mapping[str, np.ndarray], generator: Generator
) -> Edit:
    """Finds what an edit does: its direction, component or channel, of this generator.

    The name is one of `directions`; or sefa_0, sefa_1, ... for the strongest directions of the
    generator's own weights; or style:3:12, channel 12 of convolution 3 in StyleSpace, in its
    standard deviations over 10,000 random codes; or the import path of an object with `apply`.
    A coordinate along a component is counted from the direction of the same name with "mean" for
    its number.

    Raises:
      ValueError: no such direction, one of another generator, layers that it does not have, or a
        coordinate of what has none; in one sentence.
    """
    name = written.name
    if channel := _CHANNEL.fullmatch(name):
        _check_plain(written)
        return _channel_edit(written, channel, generator)
    if name not in directions and is_import_path(name):
        _check_plain(written)
        return _edit_of_others(name)
    layers, size = generator.config.num_styles, generator.config.w_dim
    direction = _direction(name, directions, generator)
    if direction.shape not in ((size,), (layers, size)):
        raise ValueError(
            f"the direction {name} has shape {list(direction.shape)}; expected [{size}] or "
            f"[{layers}, {size}], which is what this generator's codes take."
        )
    first, last = written.layers or (0, layers - 1)
    if not first <= last < layers:
        raise ValueError(
            f"the edit {written.label:.80} names layers {first} to {last}; expected layers in "
            f"order, 0 to {layers - 1}."
        )
    if written.sets:
        return ComponentEdit(direction, _mean(written, direction, directions), first, last)
    if written.layers is None:
        return DirectionEdit(direction)
    chosen = np.zeros((layers, size), np.float32)
    chosen[first : last + 1] = np.broadcast_to(direction, (layers, size))[first : last + 1]
    return DirectionEdit(chosen)


def _check_plain(written):
    if written.layers or written.sets:
        raise ValueError(
            f"the edit {written.label:.80} names layers or sets a coordinate, as directions can; "
            f"expected {written.name:.80}=STRENGTHS."
        )


def _channel_edit(written, match, generator):
    layer, channel = _whole(match["layer"]), _whole(match["channel"])
    sizes = [conv.kernel.shape[2] for conv in generator.synthesis.convs]
    if layer >= len(sizes) or channel >= sizes[layer]:
        raise ValueError(
            f"the edit {written.label:.80} names channel {channel} of convolution {layer}; this "
            f"generator has {len(sizes)} convolutions"
            + (f", and {sizes[layer]} channels in that one." if layer < len(sizes) else ".")
        )
    return ChannelEdit(layer, channel, float(channel_deviations(generator)[layer][channel]))


def _edit_of_others(path):
    edit = _EDITS.find(path)
    if not callable(getattr(edit, "apply", None)):
        raise ValueError(
            f"the edit {path} is {type(edit).__name__}; expected an object with "
            "apply(generator, latents, strength)."
        )
    return edit


def _direction(name, directions, generator):
    if name in directions:
        return directions[name]
    number = re.fullmatch(r"sefa_([0-9]+)", name)
    if number and _whole(number[1]) < generator.config.w_dim:
        return sefa_directions(generator, _whole(number[1]) + 1)[-1]
    named = [*directions][:_MOST_NAMED] + ["..."] * (len(directions) > _MOST_NAMED)
    known = ", ".join([*named, f"sefa_0 to sefa_{generator.config.w_dim - 1}"])
    raise ValueError(f"there is no direction {name:.80}; expected one of {known}.")


def _mean(written, step, directions):
    """The mean [D] of w that comes with a component of GANSpace."""
    of = f"{written.name.rpartition('_')[0]}_mean"
    if step.ndim != 1 or of not in directions or directions[of].shape != step.shape:
        raise ValueError(
            f"the edit {written.label:.80} sets a coordinate; expected a component of GANSpace "
            f"that has its mean beside it as {of:.80}, or = to add."
        )
    return directions[of]


def _strengths(shown, values):
    """The numbers of a list or of START:STOP:COUNT."""
    start_stop_count = values.split(":")
    ranged = len(start_stop_count) == 3
    texts = start_stop_count[:2] if ranged else values.split(",")
    numbers = [number for text in texts if (number := _number(text)) is not None]
    count = len(texts)
    if ranged:
        written = start_stop_count[2].strip()
        count = _whole(written) if re.fullmatch("[0-9]+", written) else 0
    if len(numbers) < len(texts) or count == 0:
        raise ValueError(
            f"the strengths of the edit {shown} are not understood; expected a number, a list "
            "such as -1,0,1, or START:STOP:COUNT."
        )
    if count > _MOST or max(map(abs, numbers)) > _LARGEST:
        raise ValueError(
            f"the strengths of the edit {shown} are too many or too large; expected at most "
            f"{_MOST:,} of them, from -{_LARGEST:,.0f} to {_LARGEST:,.0f}."
        )
    return tuple(np.linspace(numbers[0], numbers[-1], count).tolist() if ranged else numbers)


def _number(text) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _whole(digits) -> int:
    """Of no more digits than any layer has, and than Python reads in no time."""
    return int(digits) if len(digits) < 10 else 10**9
