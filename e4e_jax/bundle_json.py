"""What a bundle's JSON says of a network, looked at before anything is built from it.

Types and defaults are those of the network's own config; ranges are for all networks the same.
A file can say anything: a depth of 10^29 would be built for ever.
"""

import dataclasses
import types
import typing

_LARGEST = 65_536  # of a width, a size or a number of things
_MOST_LAYERS = 100  # of a backbone, or of a mapping network: each becomes a module
_LAYERS = {"depths", "mapping_layers"}
_LARGEST_FLOAT = 1e6
_LONGEST_TEXT = 1000


def decode_config(network: type, described: typing.Any) -> typing.Any:
    """The config that a network was built from, a frozen dataclass.

    Args:
      network: its class, whose argument `config` is annotated.
      described: JSON: {field: value}.

    Raises:
      ValueError: a field is missing, unknown, of another type or beyond all sense; in one
        sentence.
    """
    return _decode(typing.get_type_hints(vars(network)["__init__"])["config"], described, "")


def _decode(expected, value, where, default=None):
    """JSON -> a value of this type; ValueError if it is none."""
    options = typing.get_args(expected) if _is_union(expected) else (expected,)
    if value is None and types.NoneType in options:
        return None
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if classes:
        return _decode_dataclass(classes, value, where)
    expected = next(option for option in options if option is not types.NoneType)
    if typing.get_origin(expected) is tuple:
        return _decode_tuple(expected, value, where)
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
        raise ValueError(f"{where or 'it'} is {_shown(value)}; expected names and values")
    tables = [{field.name: field for field in dataclasses.fields(c)} for c in classes]
    i = next((i for i, names in enumerate(tables) if value.keys() <= names.keys()), 0)
    fields, hints = tables[i], typing.get_type_hints(classes[i])
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in fields:
            known = ", ".join(fields)
            raise ValueError(f"{prefix}{_shown(name)} is unknown; expected some of {known}")
    for name, field in fields.items():
        if name not in value and _is_needed(field):
            raise ValueError(f"{prefix}{name} is missing")
    return classes[i](
        **{
            name: _decode(hints[name], v, prefix + name, fields[name].default)
            for name, v in value.items()
        }
    )


def _decode_tuple(expected, value, where):
    items = typing.get_args(expected)
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
