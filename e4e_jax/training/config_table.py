"""Every field of a config: what it may be, looked at before anything is loaded or compiled.

The tables below are also the place to read what a config can say; configs/common.py has the
defaults and what each field is for. They need nothing but Python, so that `train.py` and `eval.py`
tell a mistake at once. A row whose name ends in ".*" is for the options of a part, which have names
of its own: they are told by the part, once it is found.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Collection, Iterator
from typing import Any

from e4e_jax.data.registry import SOURCES, check_source
from e4e_jax.metrics.registry import read_name
from e4e_jax.runtime.registry import Registry, is_import_path, perhaps
from e4e_jax.training.objective import ROLES, read_objective
from e4e_jax.training.registry import LOSSES, OPTIMIZERS, SCHEDULES, TASKS

_MOST = 10**9  # of steps and images


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field may be.

    Attributes:
      expected: the words for it, such as "a whole number from 1".
      fits: whether a value is so.
      needed: whether the field must be there, and not None.
      names: of which a misspelt value may be meant to be one.
    """

    expected: str
    fits: Callable[[Any], bool]
    needed: bool = True
    names: Collection[str] = ()


def whole(low: int, high: int) -> Field:
    """A whole number; True and 1.0 are none."""

    def fits(value):
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_whole and low <= value <= high

    return Field(f"a whole number from {low:,} to {high:,}", fits)


def number(low: float, high: float, *, below: bool = False, above: bool = False) -> Field:
    """A finite number; `above` excludes the lowest, `below` the highest."""

    def fits(value):
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or math.isnan(value):
            return False
        return (value > low if above else value >= low) and (
            value < high if below else value <= high
        )

    start = f"above {low:g}" if above else f"from {low:g}"
    return Field(f"a number {start} {'and below' if below else 'to'} {high:g}", fits)


def text(*, longest: int = 4096) -> Field:
    """A string on one line, which may be empty: a name, or a path."""
    return Field(
        "a string of printable characters",
        lambda value: isinstance(value, str) and value.isprintable() and len(value) <= longest,
    )


def metric() -> Field:
    def fits(value):
        try:
            return len(value) <= 200 and bool(read_name(value))
        except (TypeError, AttributeError, ValueError):
            return False

    return Field("a metric as e4e_jax/metrics/registry.py names them", fits)


def flag() -> Field:
    return Field("True or False", lambda value: isinstance(value, bool))


def one_of(*names: str) -> Field:
    return Field(
        f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names
    )


def part_of(registry: Registry) -> Field:
    """A name in a table of parts, or an import path; none is imported."""
    return Field(
        registry.expected,
        lambda value: isinstance(value, str) and (value in registry or is_import_path(value)),
        names=registry,
    )


def plain() -> Field:
    """What an option of a part of others may be: numbers, strings, flags, None, or several."""

    def fits(value):
        if isinstance(value, tuple | list):
            return len(value) <= 10_000 and all(map(fits, value))
        if isinstance(value, dict):
            return fits([*value.keys(), *value.values()])
        if isinstance(value, numbers.Real):
            return math.isfinite(value)
        return value is None or (isinstance(value, str) and len(value) <= 4096)

    return Field("a finite number, a string, True, False, None, or a tuple of such", fits)


def several(item: Field, count: int | None = None, *, most: int = 100) -> Field:
    """A tuple or list, of `count` items or of any number up to `most`."""

    def fits(value):
        known = isinstance(value, tuple | list) and len(value) <= most
        return known and count in (None, len(value)) and all(map(item.fits, value))

    many = f"up to {most}" if count is None else {2: "two", 4: "four"}[count]
    return Field(f"a tuple of {many}, each {item.expected}", fits)


def pair(first: Field, second: Field) -> Field:
    def fits(value):
        known = isinstance(value, tuple | list) and len(value) == 2
        return known and first.fits(value[0]) and second.fits(value[1])

    return Field(f"({first.expected}, {second.expected})", fits)


def optional(field: Field) -> Field:
    return Field(
        f"{field.expected}, or None", lambda value: value is None or field.fits(value), needed=False
    )


def _section(name: str, fields: dict[str, Field]) -> dict[str, Field]:
    return {f"{name}.{field}": row for field, row in fields.items()}


_WEIGHT = number(0, 1e6)  # of a loss; 0 switches it off
_FRACTION = number(0, 1)

_COMMON = {
    "name": text(longest=200),
    "task": part_of(TASKS),
    "seed": whole(0, 2**32 - 1),
    "dtype": one_of("float32", "bfloat16"),
    "batch_size": whole(1, 2**20),
    "total_steps": whole(1, _MOST),
    "log_every": whole(1, _MOST),
    "first_picture": whole(0, _MOST),
    "validate_every": whole(1, _MOST),
    "checkpoint_every": whole(1, _MOST),
    "keep_checkpoints": whole(1, 10_000),
    "validation_batch_size": whole(1, 2**20),
    "evaluation.metrics": several(metric()),
    "evaluation.validation": optional(several(metric())),
} | _section("data", {
    "source": part_of(SOURCES),
    "options.*": plain(),
    "image_size": several(whole(8, 1024), 2),
    "flip": flag(),
    "workers": whole(0, 512),
    "max_bad_images": whole(0, _MOST),
    "num_validation": whole(1, 10_000_000),
    "path": text(),
    "validation_path": text(),
    "name": text(),
    "split": text(),
    "validation_split": text(),
    "data_dir": text(),
    "num_images": whole(1, _MOST),
    "seed": whole(0, 2**32 - 1),
})  # fmt: skip

_OPTIMIZER = {
    "name": part_of(OPTIMIZERS),
    "learning_rate": number(0, 1e30),
    "options.*": plain(),
    "schedule": part_of(SCHEDULES),
    "schedule_options.*": plain(),
} | _section("schedule_options", {
    "begin": optional(whole(0, _MOST)),
    "warmup_steps": optional(whole(0, _MOST)),
    "final_fraction": optional(_FRACTION),
    "boundaries": optional(several(whole(0, _MOST))),
    "factor": optional(number(0, 10)),
    "decay_rate": optional(number(0, 10, above=True)),
    "decay_steps": optional(whole(1, _MOST)),
})  # fmt: skip

_OPTIMIZERS = _section("optimizer", _OPTIMIZER) | _section("discriminator_optimizer", _OPTIMIZER)

_BACKBONE = {
    "widths": several(whole(1, 4096), 4),
    "depths": several(whole(1, 100), 4),
}

_ENCODER = {
    "generator": text(),
    "generator_class": optional(whole(0, 1_000_000)),
    "perceptual": text(),
    "identity": text(),
    "remat": one_of("none", "encoder", "generator", "all"),
} | _section("encoder", _BACKBONE | {
    "kind": one_of("e4e", "psp", "single_w"),
    "backbone": one_of("ir_se", "ir", "resnet"),
    "iterations": whole(1, 100),
    "coarse": whole(1, 18),
    "middle": whole(1, 18),
    "warm_start": text(),
}) | _section("objective", dict.fromkeys(LOSSES, _WEIGHT) | {
    "*": plain(),
    "progressive_start": optional(whole(0, _MOST)),
    "progressive_every": whole(1, _MOST),
    "r1_gamma": _WEIGHT,
    "r1_every": whole(1, _MOST),
    "w_pool_size": whole(0, 1_000_000),
}) | _section("edits", {
    "directions": text(),
    "shown": several(pair(text(longest=200), number(-1e6, 1e6))),
}) | _OPTIMIZERS  # fmt: skip

_GENERATOR = {
    "start": text(),
    "discriminator_features": text(),
    "features": text(),
    "fid_samples": whole(2, 10_000_000),
} | _section("generator", {
    "z_dim": whole(1, 4096),
    "w_dim": whole(1, 4096),
    "mapping_layers": whole(1, 100),
    "mapping_lr_mul": number(0, 1000, above=True),
    "channel_base": whole(8, 2**20),
    "channel_max": whole(1, 4096),
    "image_channels": Field("1 or 3", lambda value: type(value) is int and value in (1, 3)),
}) | _section("objective", {
    "r1_gamma": _WEIGHT,
    "r1_every": whole(1, _MOST),
    "path_length_weight": _WEIGHT,
    "path_length_every": whole(1, _MOST),
    "style_mixing": _FRACTION,
    "random_noise": flag(),
    "augment": several(one_of("color", "translation", "cutout")),
    "ema_halflife_images": number(0, _MOST, above=True),
}) | _section("supervision", {
    "l2": _WEIGHT,
    "perceptual": _WEIGHT,
}) | _OPTIMIZERS  # fmt: skip

_FEATURES = _section("features", _BACKBONE | {
    "network": text(longest=200),
    "embedding_dim": whole(1, 65_536),
}) | _section("optimizer", _OPTIMIZER)  # fmt: skip

FIELDS = {
    "encoder": _COMMON | _ENCODER,
    "generator": _COMMON | _GENERATOR,
    "features": _COMMON | _FEATURES,
}


def check_config(config: Any) -> None:
    """Looks at every field by itself.

    Args:
      config: a ConfigDict as in configs/.

    Raises:
      ValueError: a field is missing, is not what its row says, or has no row; in one sentence.
    """
    values = dict(_leaves(config))
    task = values.get("task")
    if not _COMMON["task"].fits(task):
        raise ValueError(_complaint("task", task, _COMMON["task"]))
    rows = FIELDS.get(str(task)) or _fields_of_own_task(config)
    sections = {name.rpartition(".")[0] for name in rows} - {""}
    for name, value in values.items():
        if name in sections:
            raise ValueError(f"config.{name} is {_shown(value)}; expected a section of fields.")
        if (row := rows.get(name) or _open_row(name, rows)) is None:
            raise ValueError(
                f"config.{name:.200} is no field that {task} runs have{perhaps(name, rows)}."
            )
        if not row.fits(value):
            raise ValueError(_complaint(name, value, row))
    for name, row in rows.items():
        if row.needed and name not in values and not name.endswith("*"):
            raise ValueError(f"config.{name} is missing; expected {row.expected}.")
    if task == "encoder":
        read_objective(config.objective)


def _fields_of_own_task(config) -> dict[str, Field]:
    """Those of every run, the optimisers that there are, and whatever other sections hold."""
    known = {name.partition(".")[0] for name in _COMMON}
    optimizers = {"optimizer", "discriminator_optimizer"} & {*config}
    own = {name for name in {*config} - known - optimizers if hasattr(config[name], "items")}
    rows = _COMMON | {f"{name}.*": plain() for name in own}
    return rows | {n: row for n, row in _OPTIMIZERS.items() if n.partition(".")[0] in optimizers}


def _open_row(name, rows) -> Field | None:
    """The row SECTION.* of the innermost section that has one."""
    while name := name.rpartition(".")[0]:
        if f"{name}.*" in rows:
            return rows[f"{name}.*"]
    return None


def check_run(config: Any) -> None:
    """Looks at what the fields say together, as far as that can be known before a run is built.

    Raises:
      ValueError: in one sentence.
    """
    check_config(config)
    for held_out in (False, True):
        check_source(config.data, held_out=held_out)
    for section in ("optimizer", "discriminator_optimizer"):
        if section in config:
            _check_schedule(section, config[section])
    if config.task not in FIELDS:  # one of others, which looks at its fields itself
        return
    height, width = config.data.image_size
    size = f"config.data.image_size is {height}x{width} (height x width); expected "
    if config.task == "encoder":
        _check_encoder(config)
        if height > width or width & (width - 1):
            raise ValueError(
                f"{size}a width that is a power of two, and a height of at most the width."
            )
        return
    if height != width:
        raise ValueError(f"{size}a square.")
    if config.task == "generator":
        if width & (width - 1):
            raise ValueError(f"{size}a side that is a power of two.")
        _check_generator(config, width)
    reads_factors = config.task == "features" or any(config.supervision.values())
    if reads_factors and config.data.flip:
        raise ValueError(
            "config.data.flip is True and the factors of the images are learned from; expected "
            "False, because factors describe images that are not mirrored."
        )


def check_devices(config: Any, devices: int) -> None:
    """Raises ValueError where a batch cannot be dealt evenly to this number of devices."""
    size = config.batch_size
    if size % devices:
        raise ValueError(
            f"config.batch_size is {size} and there are {devices} devices; expected a multiple "
            f"of {devices}, such as {-(-size // devices) * devices}."
        )
    share = size // devices
    if config.task == "generator" and share > 4 and share % 4:
        raise ValueError(
            f"config.batch_size is {size}, {share} for each of {devices} devices; expected a "
            "multiple of 4 for each, or fewer, because minibatch standard deviation works on "
            "groups of four."
        )


def _check_encoder(config):
    needed = {"generator", *read_objective(config.objective).networks}
    for field in ("generator", *ROLES):
        if field in needed and not config[field]:
            raise ValueError(
                f"config.{field} is empty; expected a bundle (--config.{field}=PATH), "
                "which `python -m convert_weights` makes of a published checkpoint."
            )
    if config.encoder.coarse > config.encoder.middle:
        raise ValueError(
            f"config.encoder.coarse is {config.encoder.coarse} and config.encoder.middle "
            f"{config.encoder.middle}; expected coarse below middle."
        )


def _check_generator(config, width):
    if not config.start and config.generator.channel_base < width:
        raise ValueError(
            f"config.generator.channel_base is {config.generator.channel_base}; expected at least "
            f"{width}, so that the layers at {width}x{width} have a channel."
        )
    if any(config.supervision.values()) and not config.features:
        raise ValueError(
            "config.supervision is on and config.features is empty; expected a bundle "
            "(--config.features=PATH) whose features compare the images."
        )
    if config.features and config.data.num_validation < 4:
        raise ValueError(
            f"config.data.num_validation is {config.data.num_validation}; expected at least 4, "
            "two halves whose FID can be told."
        )


def _check_schedule(name, section):
    boundaries = section.schedule_options.get("boundaries")
    if boundaries is not None and list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            f"config.{name}.schedule_options.boundaries is {boundaries!r:.80}; expected steps in "
            "rising order."
        )


def _leaves(section, prefix="") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all fields that are no sections."""
    for name in section:
        try:
            value = section[name]
        except Exception:  # ml_collections raises what it likes for a placeholder without a value
            raise ValueError(f"config.{prefix}{name} has no value.") from None
        if hasattr(value, "items"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _complaint(name, value, row) -> str:
    meant = perhaps(value, row.names) if isinstance(value, str) else ""
    return f"config.{name} is {_shown(value)}{meant}; expected {row.expected}."


def _shown(value) -> str:
    return " ".join(f"{value!r:.80}".split())
