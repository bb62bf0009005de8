"""Imports run one way, from the ground floor to the roof; heavy libraries come when needed."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# From the ground up. A room imports those below it; rooms of one floor do not know each other.
FLOORS = (
    ("runtime",),
    ("models",),
    ("bundle_json",),
    ("bundle",),
    ("data",),
    ("inversion", "editing", "toy"),
    ("api",),
    ("metrics",),
    ("training", "convert_weights"),
    ("commands",),
    ("__main__",),
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
PROGRAMS = {"train", "eval", "configs", "benchmarks", "studies", "tests"}
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "torchvision", "dlib", "matplotlib"}


def files():
    for folder in ("e4e_jax", "convert_weights"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).with_suffix("")


def room_of(parts):
    """Of the parts of a module's name; None for the package itself."""
    if parts[0] == "e4e_jax":
        return parts[1] if len(parts) > 1 and parts[1] in HEIGHT else None
    return parts[0]


def imports(module):
    """(line, name, whether it happens with the module's own import) of every import in a file."""
    tree = ast.parse((ROOT / module).with_suffix(".py").read_text())
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name, node not in inner


@pytest.mark.parametrize("folder", ["e4e_jax", "convert_weights"])
def test_no_import_climbs(folder):
    climbs = []
    for module in files():
        here = room_of(module.parts)
        if module.parts[0] != folder or here in (None, "__init__"):
            continue
        assert here in HEIGHT, f"{here} is on no floor yet"
        for line, name, _ in imports(module):
            parts = name.split(".")
            if parts[0] not in ("e4e_jax", "convert_weights") and parts[0] not in PROGRAMS:
                continue
            there = room_of(parts)
            if there is not None and there != here and HEIGHT.get(there, 99) >= HEIGHT[here]:
                climbs.append(f"{module}.py:{line} imports {name}")
    assert not climbs, "\n".join(climbs)


def test_heavy_libraries_are_imported_where_they_are_needed():
    heavy = [
        f"{module}.py:{line} imports {name}"
        for module in files()
        for line, name, at_once in imports(module)
        if at_once and name.split(".")[0] in HEAVY
    ]
    assert not heavy, "\n".join(heavy)


def test_the_package_is_imported_without_a_framework():
    code = "import sys, e4e_jax; print({'jax', 'flax', 'tensorflow', 'torch'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert run.stdout == b"set()\n"


# Modules that write without `runtime.files.writing`.
WRITERS = {
    "e4e_jax/bundle",  # a folder, renamed when it is whole
    "e4e_jax/metrics/columns",  # to memory
    "e4e_jax/runtime/checksums",  # on any file system
    "e4e_jax/runtime/files",  # `writing` itself
    "e4e_jax/runtime/hosts",  # an empty file, to be seen
    "e4e_jax/training/logs",  # line by line
}


def writes(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    modes = [a.value for a in call.args[1:2] if isinstance(a, ast.Constant)]
    opened = name == "open" and any(set("wax") & set(str(mode)) for mode in modes)
    return opened or name in ("write_text", "write_bytes", "savez")


def test_files_are_written_by_one_writer():
    by_hand = set()
    for module in files():
        text = (ROOT / module).with_suffix(".py").read_text()
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        if any(map(writes, calls)) and "writing(" not in text:
            by_hand.add(str(module))
    assert by_hand <= WRITERS, by_hand - WRITERS
