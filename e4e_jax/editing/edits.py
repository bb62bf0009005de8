"""Edits as people write them: a direction, the layers it moves, and one or more strengths."""

import dataclasses
import re

import jax
import numpy as np

from e4e_jax.editing.directions import apply_direction
from e4e_jax.editing.ganspace import set_component
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.editing.stylespace import channel_deviations
from e4e_jax.models.stylegan2 import Generator

# Digits are those of ASCII: \d and float() take those of every script.
_WRITTEN = re.compile(
    r"(?P<name>[^=@]+?)(@(?P<first>[0-9]+)-(?P<last>[0-9]+))?(?P<sets>:)?=(?P<values>.+)"
)
_CHANNEL = re.compile(r"style:(?P<layer>[0-9]+):(?P<channel>[0-9]+)=(?P<values>.+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST = 10_000  # characters of an edit
_MOST_NAMED = 50  # directions in a message
_MOST, _LARGEST = 1_000, 1e6  # strengths of an edit: how many, and how large


@dataclasses.dataclass(frozen=True)
class Edit:
    """Codes move by strength · direction.

    Attributes:
      label: what the edit is called, as it was written but for the strengths.
      direction: [D], the same in all layers, or [L, D].
      strengths: one or more, in units of the direction.
    """

    label: str
    direction: np.ndarray
    strengths: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ComponentEdit:
    """Codes move to a coordinate along a component of GANSpace; see `ganspace.set_component`.

    Attributes:
      label: what the edit is called, ":" included, as it was written but for the coordinates.
      step, mean: [D], the component times its standard deviation, and the mean of w.
      first, last: the layers that move.
      strengths: one or more coordinates, in standard deviations.
    """

    label: str
    step: np.ndarray
    mean: np.ndarray
    first: int
    last: int
    strengths: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ChannelEdit:
    """One channel of StyleSpace moves by strength · deviation.

    Attributes:
      label: "style:LAYER:CHANNEL".
      layer, channel: its place.
      deviation: of the channel over random codes.
      strengths: one or more, in standard deviations.
    """

    label: str
    layer: int
    channel: int
    deviation: float
    strengths: tuple[float, ...]


def parse_edit(
    text: str, directions: dict[str, np.ndarray], generator: Generator
) -> Edit | ComponentEdit | ChannelEdit:
    """Reads NAME=STRENGTHS, NAME@FIRST-LAST=STRENGTHS, or either with := for =.

    "smile=1" is one strength, "smile=-1,0,1" a list, "smile=-1:1:5" five strengths from -1 to 1,
    "smile@4-7=1" moves layers 4 to 7 alone. NAME is one of `directions`, or sefa_0, sefa_1, ...
    for the strongest directions of the generator's own weights. "ganspace_3@4-7:=2" moves to the
    coordinate 2 along a component of GANSpace, counted from the direction ganspace_mean.
    "style:3:12=5" moves channel 12 of convolution 3 in StyleSpace by five of its standard
    deviations. There are at most 1,000 strengths, of at most a million.

    Raises:
      ValueError: no such direction, one of another generator, layers that it does not have, or
        another form; in one sentence.
    """
    shown, text = f"{text!r:.80}", text.strip()
    possible = len(text) <= _LONGEST and text.isprintable()
    channel = _CHANNEL.fullmatch(text) if possible else None
    match = _WRITTEN.fullmatch(text) if possible else None
    if not (channel or match):
        raise ValueError(
            f"the edit {shown} is not understood; expected NAME=STRENGTHS such as smile=1, "
            f"smile=-1:1:5 or smile@4-7=1, of at most {_LONGEST:,} characters."
        )
    if channel is not None:
        return _channel_edit(shown, channel, generator)
    name, first, last = match["name"], match["first"], match["last"]
    layers, size = generator.config.num_styles, generator.config.w_dim
    direction = _direction(name, directions, generator)
    if direction.shape not in ((size,), (layers, size)):
        raise ValueError(
            f"the direction {name} has shape {list(direction.shape)}; expected [{size}] or "
            f"[{layers}, {size}], which is what this generator's codes take."
        )
    strengths = _strengths(shown, match["values"])
    first, last = (0, layers - 1) if first is None else (_whole(first), _whole(last))
    if not first <= last < layers:
        raise ValueError(
            f"the edit {shown} names layers {first} to {last}; expected layers in order, "
            f"0 to {layers - 1}."
        )
    label = name if match["first"] is None else f"{name}@{first}-{last}"
    if match["sets"]:
        mean = _mean(shown, name, direction, directions)
        return ComponentEdit(f"{label}:", direction, mean, first, last, strengths)
    if match["first"] is None:
        return Edit(label, direction, strengths)
    chosen = np.zeros((layers, size), np.float32)
    chosen[first : last + 1] = np.broadcast_to(direction, (layers, size))[first : last + 1]
    return Edit(label, chosen, strengths)


def apply_edit(w_plus, edit: Edit | ComponentEdit, strength) -> jax.Array:
    """Codes w_plus [B, L, D] after an edit with one of its strengths."""
    if isinstance(edit, ComponentEdit):
        return set_component(w_plus, edit.step, edit.mean, strength, edit.first, edit.last)
    return apply_direction(w_plus, edit.direction, strength)


def _channel_edit(shown, match, generator):
    layer, channel = _whole(match["layer"]), _whole(match["channel"])
    sizes = [conv.kernel.shape[2] for conv in generator.synthesis.convs]
    if layer >= len(sizes) or channel >= sizes[layer]:
        raise ValueError(
            f"the edit {shown} names channel {channel} of convolution {layer}; this generator has "
            f"{len(sizes)} convolutions"
            + (f", and {sizes[layer]} channels in that one." if layer < len(sizes) else ".")
        )
    deviation = float(channel_deviations(generator)[layer][channel])
    strengths = _strengths(shown, match["values"])
    return ChannelEdit(f"style:{layer}:{channel}", layer, channel, deviation, strengths)


def _direction(name, directions, generator):
    if name in directions:
        return directions[name]
    number = re.fullmatch(r"sefa_([0-9]+)", name)
    if number and _whole(number[1]) < generator.config.w_dim:
        return sefa_directions(generator, _whole(number[1]) + 1)[-1]
    named = [*directions][:_MOST_NAMED] + ["..."] * (len(directions) > _MOST_NAMED)
    known = ", ".join([*named, f"sefa_0 to sefa_{generator.config.w_dim - 1}"])
    raise ValueError(f"there is no direction {name:.80}; expected one of {known}.")


def _mean(shown, name, step, directions):
    """The mean [D] of w that comes with a component of GANSpace."""
    of = f"{name.rpartition('_')[0]}_mean"
    if step.ndim != 1 or of not in directions or directions[of].shape != step.shape:
        raise ValueError(
            f"the edit {shown} sets a coordinate; expected a component of GANSpace that has its "
            f"mean beside it as {of}, or = to add."
        )
    return directions[of]


def _strengths(shown, values):
    """The numbers of a list or of START:STOP:COUNT."""
    start_stop_count = values.split(":")
    ranged = len(start_stop_count) == 3
    numbers = [_number(v) for v in (start_stop_count[:2] if ranged else values.split(","))]
    count = len(numbers)
    if ranged:
        written = start_stop_count[2].strip()
        count = _whole(written) if re.fullmatch("[0-9]+", written) else 0
    if None in numbers or count == 0:
        raise ValueError(
            f"the strengths of the edit {shown} are not understood; expected a number, a list "
            "such as -1,0,1, or START:STOP:COUNT."
        )
    if count > _MOST or max(map(abs, numbers)) > _LARGEST:
        raise ValueError(
            f"the strengths of the edit {shown} are too many or too large; expected at most "
            f"{_MOST:,} of them, from -{_LARGEST:,.0f} to {_LARGEST:,.0f}."
        )
    return tuple(float(n) for n in (np.linspace(*numbers, count) if ranged else numbers))


def _number(text) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip()) else None


def _whole(digits) -> int:
    """Of no more digits than any layer has, and than Python reads in no time."""
    return int(digits) if len(digits) < 10 else 10**9
