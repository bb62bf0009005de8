"""Rows of a table: one tensor of a checkpoint, one variable of a network, and how the axes map."""

import dataclasses

import numpy as np
from flax import nnx

# Layouts, published -> ours. "1" is an axis of length one that only one side has.
SAME = "C -> C"
CONV = "O I y x -> y x I O"
LINEAR = "O I -> I O"
CONV_1X1_AS_LINEAR = "O I 1 1 -> I O"


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      source: the tensor's name in the checkpoint.
      path: the variable's path in the network, joined by dots.
      layout: the axes of both sides.
      index: place along the variable's leading axis, where several modules are stacked.
    """

    source: str
    path: str
    layout: str = SAME
    index: int | None = None

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's shape, from that of the variable."""
        before, after = (side.split() for side in self.layout.split("->"))
        shape = tuple(shape) if self.index is None else tuple(shape)[1:]
        sizes = dict(zip(after, shape, strict=True))
        return tuple(1 if axis == "1" else sizes[axis] for axis in before)

    def to_variable(self, array: np.ndarray) -> np.ndarray:
        """A view of the tensor in the variable's layout."""
        before, after = (side.split() for side in self.layout.split("->"))
        return _move(array, before, after)

    def to_source(self, array: np.ndarray) -> np.ndarray:
        """A view of the variable in the tensor's layout."""
        before, after = (side.split() for side in self.layout.split("->"))
        return _move(array if self.index is None else array[self.index], after, before)


def _move(array, before, after):
    kept = [axis for axis in before if axis != "1"]
    array = array.reshape([n for n, axis in zip(array.shape, before, strict=True) if axis != "1"])
    array = array.transpose([kept.index(axis) for axis in after if axis != "1"])
    return np.expand_dims(array, [i for i, axis in enumerate(after) if axis == "1"])


def conv(source: str, path: str, bias: bool = False, index: int | None = None) -> list[Row]:
    rows = [Row(f"{source}.weight", f"{path}.kernel", CONV, index)]
    return rows + ([Row(f"{source}.bias", f"{path}.bias", index=index)] if bias else [])


def linear(source: str, path: str, weight: str = "kernel", index: int | None = None) -> list[Row]:
    """`weight` is the variable's name: "kernel" in nnx.Linear, "weight" in EqualLinear."""
    return [
        Row(f"{source}.weight", f"{path}.{weight}", LINEAR, index),
        Row(f"{source}.bias", f"{path}.bias", index=index),
    ]


def batch_norm(source: str, path: str, affine: bool = True) -> list[Row]:
    rows = [
        Row(f"{source}.running_mean", f"{path}.mean"),
        Row(f"{source}.running_var", f"{path}.var"),
    ]
    if affine:
        rows += [
            Row(f"{source}.weight", f"{path}.scale"),
            Row(f"{source}.bias", f"{path}.bias"),
        ]
    return rows


def residual_block(source: str, path: str, convs: int, projects: bool) -> list[Row]:
    """A block of torchvision's ResNets; `projects`: its shortcut changes the shape."""
    rows = []
    for k in range(1, convs + 1):
        rows += conv(f"{source}.conv{k}", f"{path}.conv{k}")
        rows += batch_norm(f"{source}.bn{k}", f"{path}.bn{k}")
    if projects:
        rows += conv(f"{source}.downsample.0", f"{path}.downsample_conv")
        rows += batch_norm(f"{source}.downsample.1", f"{path}.downsample_bn")
    return rows


def variables(network: nnx.Module) -> dict[str, nnx.Variable]:
    """A network's variables by their paths, joined by dots."""
    flat = nnx.to_flat_state(nnx.state(network))
    return {".".join(str(part) for part in path): variable for path, variable in flat}


def set_variables(network: nnx.Module, arrays: dict[str, np.ndarray]) -> None:
    """Replaces every variable of a network by an array: {path: array}, all of them."""
    flat = [
        (path, variable.replace(arrays[".".join(str(part) for part in path)]))
        for path, variable in nnx.to_flat_state(nnx.state(network))
    ]
    nnx.update(network, nnx.from_flat_state(flat))
