"""The rows of the table, each measured in a process of its own.

`python -m benchmarks.published_code.rows NAME CHECKOUT FOLDER`: the repositories have modules of
the same names, and one process can import only one of them.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

from benchmarks import sides
from benchmarks.published_code import checkouts, features, generators, inverters
from benchmarks.published_code.trial import Trial


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: the checkout that it needs, and how it is measured.

    Attributes:
      checkout: a key of `checkouts.CHECKOUTS`.
      measure: notes the errors in a `Trial`.
      torchvision: whether the published code of it needs torchvision.
    """

    checkout: str
    measure: Callable[[Trial], None]
    torchvision: bool = False


def _inverter_row(checkout, resolution, encoder_type, **options):
    def measure(trial):
        side = 64 if trial.small else resolution
        inverters.inverter(trial, resolution=side, encoder_type=encoder_type, **options)

    return Row(checkout, measure, torchvision=checkout == "restyle")


_RESTYLE = {"input_nc": 6, "iterations": 2}
_OF_E4E = _RESTYLE | {"module": "models.e4e", "name": "e4e"}
_IN_W = {"learn_in_w": True}
_CARS = {"dataset_type": "cars_encode"}
_CHURCH = {"dataset_type": "church_encode"}

ROWS = {
    "e4e": _inverter_row("e4e", 1024, "Encoder4Editing"),
    "e4e-cars": _inverter_row("e4e", 512, "Encoder4Editing", **_CARS),
    "e4e-w": _inverter_row("e4e", 256, "SingleStyleCodeEncoder"),
    "psp": _inverter_row("psp", 256, "GradualStyleEncoder"),
    "psp-w": _inverter_row("psp", 256, "BackboneEncoderUsingLastLayerIntoW", **_IN_W),
    "psp-sketch": _inverter_row("psp", 256, "GradualStyleEncoder", input_nc=1, label_nc=1),
    "psp-labels": _inverter_row("psp", 256, "GradualStyleEncoder", input_nc=19, label_nc=19),
    "psp-files": Row("psp", inverters.files, torchvision=True),
    "restyle-e4e": _inverter_row("restyle", 256, "ProgressiveBackboneEncoder", **_OF_E4E),
    "restyle-psp": _inverter_row("restyle", 256, "BackboneEncoder", **_RESTYLE),
    "restyle-e4e-resnet": _inverter_row(
        "restyle", 256, "ResNetProgressiveBackboneEncoder", **_OF_E4E, **_CHURCH
    ),
    "restyle-psp-resnet": _inverter_row(
        "restyle", 256, "ResNetBackboneEncoder", **_RESTYLE, **_CHURCH
    ),
    "restyle-psp-cars": _inverter_row("restyle", 512, "ResNetBackboneEncoder", **_RESTYLE, **_CARS),
    "hyperstyle-w": _inverter_row("hyperstyle", 1024, "WEncoder", module="models.encoders.psp"),
    "rosinality": Row("rosinality", generators.rosinality),
    "nvidia": Row(
        "stylegan2-ada", functools.partial(generators.nvidia, module="training.networks")
    ),
    "nvidia-grey": Row(
        "stylegan2-ada",
        functools.partial(generators.nvidia, module="training.networks", colours=1),
    ),
    "nvidia-classes": Row(
        "stylegan2-ada",
        functools.partial(generators.nvidia, module="training.networks", classes=10),
    ),
    "nvidia-stylegan3": Row(
        "stylegan3", functools.partial(generators.nvidia, module="training.networks_stylegan2")
    ),
    "arcface": Row(
        "e4e", functools.partial(features.arcface, make=lambda m: m.Backbone(112, 50, "ir_se", 0.6))
    ),
    "curricularface": Row("e4e", functools.partial(features.arcface, make=lambda m: m.IR_101(112))),
    "moco": Row("e4e", features.moco, torchvision=True),
    "lpips": Row("e4e", features.lpips, torchvision=True),
    "fid": Row("pytorch-fid", features.inception, torchvision=True),
    "ganspace": Row("e4e", features.ganspace),
}


def main(argv=None) -> None:
    """Measures one row and prints its numbers as JSON, last."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_code.rows")
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("checkout")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--small", action="store_true")
    flags = parser.parse_args(argv)
    row = ROWS[flags.row]
    sides.set_precision("float32")
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    checkouts.prepare(row.checkout, flags.checkout)
    if row.torchvision:
        checkouts.leave_out_downloads()
    trial = Trial(flags.folder, flags.small)
    row.measure(trial)
    print(json.dumps({"errors": trial.errors, "same_bits": trial.same_bits}))


if __name__ == "__main__":
    main()
