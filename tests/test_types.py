"""Public functions say what they take and give; mypy, which CI runs, holds them to it."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("e4e_jax", "convert_weights", "configs")
OPERATORS = ("__init__", "__call__")


def public_functions(tree):
    """(name, definition, whether its first argument is the object) of a module's own."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for function in node.body:
                if not isinstance(function, ast.FunctionDef):
                    continue
                if not function.name.startswith("_") or function.name in OPERATORS:
                    decorators = [getattr(d, "id", None) for d in function.decorator_list]
                    name = f"{node.name}.{function.name}"
                    yield name, function, "staticmethod" not in decorators


def test_public_functions_are_typed():
    untyped = []
    for path in sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")):
        for name, function, bound in public_functions(ast.parse(path.read_text())):
            arguments = function.args.posonlyargs + function.args.args
            arguments = arguments[bound:] + function.args.kwonlyargs
            missing = [a.arg for a in arguments if a.annotation is None]
            if function.returns is None and function.name != "__init__":
                missing.append("return")
            if missing:
                where = f"{path.relative_to(ROOT)}:{function.lineno}"
                untyped.append(f"{where} {name}: {', '.join(missing)}")
    assert not untyped, "\n".join(untyped)
