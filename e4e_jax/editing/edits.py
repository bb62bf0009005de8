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

_WRITTEN = re.compile(
    r"(?P<name>[^=@]+?)(@(?P<first>\d+)-(?P<last>\d+))?(?P<sets>:)?=(?P<values>.+)"
)
_CHANNEL = re.compile(r"style:(?P<layer>\d+):(?P<channel>\d+)=(?P<values>.+)")


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
    deviations.

    Raises:
      ValueError: no such direction, one of another generator, layers that it does not have, or
        another form; in one sentence.
    """
    channel = _CHANNEL.fullmatch(text.strip())
    if channel is not None:
        return _channel_edit(text, channel, generator)
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"the edit {text!r} is not understood; expected NAME=STRENGTHS such as smile=1, "
            "smile=-1:1:5 or smile@4-7=1."
        )
    name, first, last = match["name"], match["first"], match["last"]
    layers, size = generator.config.num_styles, generator.config.w_dim
    direction = _direction(name, directions, generator)
    if direction.shape not in ((size,), (layers, size)):
        raise ValueError(
            f"the direction {name} has shape {list(direction.shape)}; expected [{size}] or "
            f"[{layers}, {size}], which is what this generator's codes take."
        )
    strengths = _strengths(text, match["values"])
    first, last = (0, layers - 1) if first is None else (int(first), int(last))
    if not first <= last < layers:
        raise ValueError(
            f"the edit {text!r} names layers {first} to {last}; expected layers in order, "
            f"0 to {layers - 1}."
        )
    label = name if match["first"] is None else f"{name}@{first}-{last}"
    if match["sets"]:
        mean = _mean(text, name, direction, directions)
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


def _channel_edit(text, match, generator):
    layer, channel = int(match["layer"]), int(match["channel"])
    sizes = [conv.kernel.shape[2] for conv in generator.synthesis.convs]
    if layer >= len(sizes) or channel >= sizes[layer]:
        raise ValueError(
            f"the edit {text!r} names channel {channel} of convolution {layer}; this generator has "
            f"{len(sizes)} convolutions"
            + (f", and {sizes[layer]} channels in that one." if layer < len(sizes) else ".")
        )
    deviation = float(channel_deviations(generator)[layer][channel])
    strengths = _strengths(text, match["values"])
    return ChannelEdit(f"style:{layer}:{channel}", layer, channel, deviation, strengths)


def _direction(name, directions, generator):
    if name in directions:
        return directions[name]
    number = re.fullmatch(r"sefa_(\d+)", name)
    if number and int(number[1]) < generator.config.w_dim:
        return sefa_directions(generator, int(number[1]) + 1)[-1]
    known = ", ".join([*directions, f"sefa_0 to sefa_{generator.config.w_dim - 1}"])
    raise ValueError(f"there is no direction {name}; expected one of {known}.")


def _mean(text, name, step, directions):
    """The mean [D] of w that comes with a component of GANSpace."""
    of = f"{name.rpartition('_')[0]}_mean"
    if step.ndim != 1 or of not in directions or directions[of].shape != step.shape:
        raise ValueError(
            f"the edit {text!r} sets a coordinate; expected a component of GANSpace that has its "
            f"mean beside it as {of}, or = to add."
        )
    return directions[of]


def _strengths(text, values):
    try:
        if ":" in values:
            start, stop, count = values.split(":")
            numbers = np.linspace(float(start), float(stop), int(count))
        else:
            numbers = np.array([float(value) for value in values.split(",")])
        if numbers.size == 0 or not np.isfinite(numbers).all():
            raise ValueError
    except ValueError:
        raise ValueError(
            f"the strengths of the edit {text!r} are not understood; expected a number, a list "
            "such as -1,0,1, or START:STOP:COUNT."
        ) from None
    return tuple(float(number) for number in numbers)
