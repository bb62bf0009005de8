"""What a run notes of itself in its work directory, so that its networks can be rebuilt from it.

`config.json` lies there from the run's start: its config, as it was given, and what it trains on.
Its paths are those that `train.py` was given, and relative ones count from the current folder.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_collections

import e4e_jax
from e4e_jax.runtime.files import read_json, writing
from e4e_jax.training.config_table import check_config

FILE = "config.json"


class Noted(NamedTuple):
    """What `config.json` says.

    Attributes:
      config: the config of the latest start, checked as that of `train.py` is.
      about: what the bundles of the run note, such as the images that it trains on.
    """

    config: ml_collections.ConfigDict
    about: dict[str, Any]


def note_config(workdir: str, config: Mapping, about: Mapping[str, Any]) -> None:
    """Writes `config.json`, whole or not at all.

    Args:
      workdir: of the run; a folder.
      config: its config.
      about: what its bundles note, JSON.

    Raises:
      ValueError: a field that JSON cannot hold; in one sentence.
      OSError: the file cannot be written; in one sentence.
    """
    noted = {"version": e4e_jax.__version__, "config": _plain(config, "config"), "about": about}
    text = json.dumps(noted, indent=2)
    with writing(os.path.join(workdir, FILE)) as temporary:
        temporary.write_text(text + "\n")


def read_config(workdir: str) -> Noted:
    """Reads `config.json`. Nothing that it names is opened or imported.

    Raises:
      FileNotFoundError: there is none, as in the directories of older versions.
      ValueError: it cannot be read, or holds no config; in one sentence.
    """
    path = os.path.join(workdir, FILE)
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"{workdir} has no {FILE}, which train.py writes at its start; started again with this "
            "--workdir it does, and goes on from where the run is."
        )
    noted = read_json(path, "a run's config")
    config, about = (noted.get(n) if isinstance(noted, dict) else None for n in ("config", "about"))
    if not isinstance(config, dict) or not isinstance(about, dict):
        raise ValueError(f"{path} holds no config of a run; expected one that train.py wrote.")
    try:
        config = ml_collections.ConfigDict(_with_tuples(config))
        check_config(config)
    except Exception as error:  # ml_collections raises what it likes
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    return Noted(config, about)


def _plain(value, name):
    """A field or a section as JSON has it."""
    if hasattr(value, "items"):
        return {key: _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, name) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(
        f"{name} is {value!r:.80}; expected a number, a text, True, False, None or a tuple of such."
    )


def _with_tuples(value):
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
