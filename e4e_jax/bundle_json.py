"""What a bundle's JSON says of a network, looked at before anything is built from it.

Types and defaults are those of the network's own arguments; ranges are for all networks the same.
A file can say anything: a depth of 10^29 would be built for ever.
"""

import dataclasses
import inspect
import types
import typing

_NOT_DESCRIBED = {"self", "rngs", "dtype", "axis_name"}
_LARGEST = 65_536  # of a width, a size or a number of things
_MOST_LAYERS = 100  # of a backbone, or of a mapping network: each becomes a module
_LAYERS = {"depths", "mapping_layers"}
_LARGEST_FLOAT = 1e6
_LONGEST_TEXT = 1000


def network_arguments(network: type, described) -> dict[str, typing.Any]:
    """The arguments that a network was built from, of the types that it takes.

    Args:
      network: its class, whose arguments are annotated dataclasses, or have defaults of their type.
      described: JSON: {argument: value}, or the fields of its argument `config` alone.

    Raises:
      ValueError: an argument is missing, unknown, of another type or beyond all sense; in one
        sentence.
    """
    hints = typing.get_type_hints(network.__init__)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(network.__init__).parameters.items()
        if name not in _NOT_DESCRIBED
    }
    if not isinstance(described, dict):
        raise ValueError(f"it is {_shown(described)}; expected names and values")
    if "config" in parameters and "config" not in described:
        described = {"config": described}
    fields = {name: (hints.get(name, type(p.default)), p.default) for name, p in parameters.items()}
    return _decode_fields(fields, described, "")


def _decode_fields(fields, described, prefix):
    """{name: (type, default)} and JSON -> {name: value}."""
    for name in described:
        if name not in fields:
            raise ValueError(
                f"{prefix}{_shown(name)} is unknown; expected some of {', '.join(fields)}"
            )
    missing = [n for n, (_, default) in fields.items() if default is inspect.Parameter.empty]
    for name in missing:
        if name not in described:
            raise ValueError(f"{prefix}{name} is missing")
    return {
        name: _decode(fields[name][0], value, prefix + name, fields[name][1])
        for name, value in described.items()
    }


def _decode(expected, value, where, default=None):
    """JSON -> a value of this type; ValueError if it is none."""
    options = typing.get_args(expected) if _is_union(expected) else (expected,)
    if value is None and types.NoneType in options:
        return None
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if classes:
        return _decode_dataclass(classes, value, where)
    expected = next(option for option in options if option is not types.NoneType)
    if expected is tuple or typing.get_origin(expected) is tuple:
        return _decode_tuple(expected, value, where, default)
    low = 0 if default == 0 else 1
    high = _MOST_LAYERS if where.rpartition(".")[2] in _LAYERS else _LARGEST
    if expected is bool and isinstance(value, bool):
        return value
    if expected is int and type(value) is int and low <= value <= high:
        return value
    if expected is float and type(value) in (int, float) and abs(value) <= _LARGEST_FLOAT:
        return value  # as it was written: a comparison with NaN is False
    if expected is str and isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        return value
    words = {
        bool: "true or false",
        int: f"a whole number from {low} to {high:,}",
        float: f"a number from -{_LARGEST_FLOAT:,.0f} to {_LARGEST_FLOAT:,.0f}",
        str: f"a text of at most {_LONGEST_TEXT} characters",
    }
    raise ValueError(f"{where} is {_shown(value)}; expected {words.get(expected, expected)}")


def _decode_dataclass(classes, value, where):
    """Of several the first that has all of these fields."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_shown(value)}; expected names and values")
    fields = [{field.name: field for field in dataclasses.fields(c)} for c in classes]
    i = next((i for i, names in enumerate(fields) if value.keys() <= names.keys()), 0)
    hints = typing.get_type_hints(classes[i])
    described = {
        name: (
            hints[name],
            inspect.Parameter.empty if _is_needed(field) else field.default,
        )
        for name, field in fields[i].items()
    }
    prefix = "" if where == "config" else f"{where}."
    return classes[i](**_decode_fields(described, value, prefix))


def _decode_tuple(expected, value, where, default):
    items = typing.get_args(expected)
    if not items:  # only known by its default
        items = tuple(type(item) for item in default)
    count = len(value) if items[-1] is Ellipsis and isinstance(value, list) else len(items)
    if not isinstance(value, list) or len(value) != count or count > _MOST_LAYERS:
        raise ValueError(f"{where} is {_shown(value)}; expected a list of {count}")
    items = items[:1] * count if items[-1] is Ellipsis else items
    decoded = tuple(_decode(item, v, where) for item, v in zip(items, value, strict=True))
    if where.rpartition(".")[2] in _LAYERS and sum(decoded) > _MOST_LAYERS:
        raise ValueError(f"{where} is {_shown(value)}; expected {_MOST_LAYERS} units at most")
    return decoded


def _is_union(expected) -> bool:
    return typing.get_origin(expected) in (typing.Union, types.UnionType)


def _is_needed(field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _shown(value) -> str:
    return " ".join(f"{value!r:.60}".split())
