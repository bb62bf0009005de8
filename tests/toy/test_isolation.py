"""Nothing but the tables of sources and of networks, and the command that draws it, knows the toy
domain; flags may have its shipped models as defaults."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
KNOW_IT = {"data/registry.py", "models/registry.py", "commands/toy.py"}
# The list of the commands; the model that is measured where none is named.
ELSEWHERE = ("from e4e_jax.commands.toy import add_toy", "COMMANDS = ", "checkpoint = None if ")


def code(path) -> str:
    """The statements of a file, one a line, without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(...)
    return ast.unparse(tree)


def is_flag(line) -> bool:
    return "add_argument(" in line or "DEFINE_" in line


def test_no_product_module_names_the_toy_domain():
    package = ROOT / "e4e_jax"
    files = [ROOT / "train.py", ROOT / "eval.py", *(ROOT / "convert_weights").rglob("*.py")]
    files += [
        path
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] != "toy"
        and path.relative_to(package).as_posix() not in KNOW_IT
    ]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in code(path).splitlines()
        if "toy" in line.lower() and not is_flag(line) and not line.strip().startswith(ELSEWHERE)
    ]
    assert not found, "\n".join(found)
    # What is looked for is found where it is.
    assert all("toy" in code(package / name) for name in KNOW_IT)
