"""Bundles: a trained or converted model as a folder, Orbax arrays and one JSON that describes them.

A bundle holds one or more networks. `bundle.json` names the kind of bundle and what every network
is built from; `arrays/` holds their variables, `checksums.json` the SHA-256 of all files, which
bundles of older versions lack. It loads on any platform and device count.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jax.typing import DTypeLike

import e4e_jax
from e4e_jax.bundle_json import decode_config
from e4e_jax.models.registry import KINDS, NETWORKS, OPTIONAL, SHIPPED
from e4e_jax.runtime import checksums
from e4e_jax.runtime.files import read_json

FORMAT = 1
_JSON, _ARRAYS = "bundle.json", "arrays"
_PACKAGE = os.path.dirname(os.path.abspath(__file__))


class BundleError(ValueError):
    """A folder is no bundle, or not one that this version can read."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
      kind: one of `KINDS`.
      networks: name -> module in evaluation mode, its variables on the default device.
      metadata: what was noted when it was written, such as the source of converted weights.
    """

    kind: str
    networks: dict[str, typing.Any]
    metadata: dict[str, typing.Any]


def save_bundle(
    path: str | os.PathLike,
    kind: str,
    networks: dict,
    metadata: dict[str, typing.Any] | None = None,
    *,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a bundle, whole or not at all. Of several hosts the first one writes.

    Args:
      path: the folder to make.
      kind: one of `KINDS`.
      networks: name -> module, those of the kind; with a generator may come `generator_raw` and its
        discriminator.
      metadata: anything that JSON can hold.
      half: store the numbers in float16, half the size, of which three digits are left.
      overwrite: replace a bundle that is at `path`.

    Raises:
      FileExistsError: something is at `path`, and it is no bundle or `overwrite` is not set.
      ValueError: other networks than those of the kind, or not what their configs build.
      OSError: the disk is full or not writable.
    """
    if jax.process_index() != 0:
        return
    path = pathlib.Path(os.path.abspath(os.path.expanduser(path)))
    if not _fits(kind, networks):
        raise ValueError(
            f"A bundle of kind {kind!r} of {', '.join(networks)} was asked for; expected one of "
            + ", ".join(f"{k} ({', '.join(names)})" for k, names in KINDS.items())
        )
    if path.exists() and not (overwrite and (path / _JSON).exists()):
        reason = "it is no bundle" if overwrite else "choose another name or allow overwriting"
        raise FileExistsError(f"{path} exists already; {reason}.")

    described, arrays = {}, {}
    for name, network in networks.items():
        described[name] = json.loads(json.dumps(dataclasses.asdict(network.config)))
        arrays[name] = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(network)))
        built = nnx.to_pure_dict(nnx.state(_build(name, described[name])))
        _compare(f"The {name} is not what its config builds", built, arrays[name])
    if half:
        arrays = jax.tree.map(lambda x: x.astype(np.float16) if x.dtype.kind == "f" else x, arrays)
    text = json.dumps(
        {
            "format": FORMAT,
            "kind": kind,
            "networks": described,
            "stored_as": "float16" if half else "float32",
            "value_ranges": {"images": [-1, 1]},
            "metadata": metadata or {},
            "versions": {"e4e-jax": e4e_jax.__version__}
            | {p: importlib.metadata.version(p) for p in ("jax", "flax", "orbax-checkpoint")},
        },
        indent=2,
    )

    # Names of its own, so that what a killed process left is replaced by the next one.
    temporary, replaced = (path.with_name(f".{path.name}.{s}") for s in ("writing", "replaced"))
    try:
        for rest in (temporary, replaced):
            shutil.rmtree(rest, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_arrays(temporary / _ARRAYS, arrays)
        (temporary / _JSON).write_text(text + "\n")
        checksums.write(temporary)
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"The bundle {path} could not be written: {_reason(error)}.") from error


def load_bundle(name: str | os.PathLike, *, dtype: DTypeLike | None = None) -> Bundle:
    """Opens a bundle.

    Args:
      name: a folder, or the name of a shipped bundle such as "toy/generator"; see `resolve`.
      dtype: compute type of the networks' convolutions; None for float32.

    Raises:
      FileNotFoundError: there is nothing at `name`.
      BundleError: what is there cannot be read; in one sentence.
    """
    path = resolve(name)
    description = read_description(path)
    networks = {}
    for part, described in description["networks"].items():
        try:
            networks[part] = _build(part, described, dtype)
        except Exception as error:  # as many kinds as there are networks
            raise BundleError(
                f"{path}/{_JSON}: the {part} cannot be built ({_reason(error)})."
            ) from error
    try:
        checksums.check(path)
    except checksums.Changed as error:
        raise BundleError(f"{path} is damaged: {error}") from None
    expected = {part: nnx.to_pure_dict(nnx.state(network)) for part, network in networks.items()}
    arrays = _read_arrays(path, expected, cast=description.get("stored_as") == "float16")
    for part, network in networks.items():
        state = nnx.state(network)
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, arrays[part]))
        nnx.update(network, state)
        network.eval()
    return Bundle(description["kind"], networks, description["metadata"])


def load_network(
    name: str | os.PathLike, part: str | None = None, *, dtype: DTypeLike | None = None
) -> typing.Any:
    """One network of a bundle: `part`, or the only one there is.

    Raises:
      BundleError: the bundle has no such network; else as `load_bundle`.
    """
    networks = load_bundle(name, dtype=dtype).networks
    if part is None and len(networks) == 1:
        (part,) = networks
    if part not in networks:
        raise BundleError(
            f"{name} holds {', '.join(networks)}; expected a bundle with "
            f"{part or 'a single network'}."
        )
    return networks[part]


def resolve(name: str | os.PathLike) -> str:
    """The path of a bundle or file: names of `models.registry.SHIPPED` are in the package.

    Raises:
      FileNotFoundError: nothing is there; in one sentence with what to do.
    """
    name = str(name)
    domain, inside, _ = name.partition("/")
    if domain in SHIPPED and not (inside and os.path.exists(name)):
        paths = {n: os.path.join(_PACKAGE, inside) for n, inside in SHIPPED.items()}
        paths = {n: path for n, path in paths.items() if os.path.exists(path)}
        if name not in paths:
            known = ", ".join(paths)
            raise FileNotFoundError(f"{name} is not among what the package ships: {known}.")
        return paths[name]
    path = os.path.abspath(os.path.expanduser(name))
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"there is no {name}; `python -m convert_weights SRC {name}` makes a bundle of a "
            "published checkpoint, and train.py makes one of a run."
        )
    return path


def read_description(path: str) -> dict:
    """The contents of `bundle.json`, checked as far as the format goes.

    Raises:
      BundleError: there is none, or not of this format; in one sentence.
    """
    if os.path.isfile(path):
        raise BundleError(
            f"{path} is a file and no bundle; `python -m convert_weights {path} FOLDER` makes one "
            "of a published checkpoint."
        )
    file = os.path.join(path, _JSON)
    try:
        description = read_json(file, "a bundle")
    except FileNotFoundError:
        raise BundleError(f"{path} is no bundle: it has no {_JSON}.") from None
    except ValueError as error:
        raise BundleError(str(error)) from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{file} is not of format {FORMAT}, which this version reads.")
    kind, networks = description.get("kind"), description.get("networks")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BundleError(f"{file} names kind {kind!r:.60}; expected one of {', '.join(KINDS)}.")
    if not isinstance(networks, dict) or not _fits(kind, networks):
        found = ", ".join(map(repr, networks)) if isinstance(networks, dict) else repr(networks)
        raise BundleError(
            f"{file} describes the networks {found:.200}; a bundle of kind {kind!r} holds "
            f"{', '.join(KINDS[kind])}."
        )
    if not isinstance(description.get("metadata", {}), dict):
        raise BundleError(f"{file} has metadata that is no set of names and values.")
    if description.get("stored_as", "float32") not in ("float16", "float32"):
        raise BundleError(
            f"{file} has numbers stored as {description['stored_as']!r:.60}; expected float16 or "
            "float32."
        )
    return {"metadata": {}} | description


def hash_files(folder: str | os.PathLike) -> str:
    """SHA-256 of the names and contents of all files in a bundle, or in any folder.

    Their checksums, which some bundles hold and older ones do not, do not count.
    """
    total = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob("*")):
        if path.is_file() and path.name != checksums.FILE:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(json.dumps([path.relative_to(folder).as_posix(), content]).encode())
    return total.hexdigest()


def _fits(kind, networks) -> bool:
    """Whether these names are the networks of such a bundle."""
    optional = OPTIONAL.get(kind, set())
    return kind in KINDS and set(KINDS[kind]) == set(networks) - optional


def _build(name, described, dtype=None) -> nnx.Module:
    """A network without numbers; none is drawn."""
    network = NETWORKS[name]
    if name == "arcface" and isinstance(described, dict) and "config" in described:
        # As of bundles from before networks carried their configs.
        described = dict(described)
        described["backbone"] = described.pop("config")
    config = decode_config(network, described)
    dtype = jnp.dtype(dtype or "float32")
    return nnx.eval_shape(lambda: network(config, dtype=dtype, rngs=nnx.Rngs(0)))


def _compare(complaint, expected, found):
    """Raises BundleError where two trees of arrays differ in names, types or shapes."""
    expected, found = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{x.dtype} {list(x.shape)}"
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (expected, found)
    )
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise BundleError(
                f"{complaint}: {name} is {found.get(name, 'missing')}; "
                f"expected {expected.get(name, 'no such array')}."
            )


def _write_arrays(folder, arrays):
    # This process alone, else Orbax would wait for those of the other hosts.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="bundle"
    )
    # Orbax would copy all arrays first, for the case that they change while it writes.
    numpy_handler = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, numpy_handler), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=alone, type_handler_registry=registry
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(arrays))
    # Orbax's mark of a finished write names this machine's path; the rename is our own mark.
    (epath.Path(folder) / "commit_success.txt").unlink(missing_ok=True)


def _read_arrays(path, expected, cast):
    # As NumPy arrays: where the writer's devices were does not matter.
    types = jax.tree.map(
        lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype if cast else None),
        expected,
    )
    try:
        arrays = ocp.PyTreeCheckpointHandler().restore(
            epath.Path(path) / _ARRAYS, args=ocp.args.PyTreeRestore(expected, restore_args=types)
        )
    except PermissionError:
        raise
    except Exception as error:  # Orbax and TensorStore raise what they like for damaged files
        raise BundleError(
            f"{path}: the arrays are incomplete, damaged or of another version ({_reason(error)})."
        ) from error
    _compare(f"{path} does not fit its networks", expected, arrays)
    return arrays


def _reason(error) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    system = re.search(r": ([^:\[]+) \[os_error_code", text)  # as TensorStore words it
    return system[1] if system else text[:200].rstrip(".")
