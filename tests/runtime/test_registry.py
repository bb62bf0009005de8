"""Parts by name and by import path."""

import pytest

from e4e_jax.runtime.registry import Registry, call, is_import_path

PARTS = Registry("shape", {"square": "math:sqrt", "one": 1, "lost": "no_such_module:x"})


def test_names_and_import_paths():
    assert PARTS["one"] == PARTS.find("one") == 1
    assert PARTS["square"](9) == PARTS.find("math:sqrt")(9) == 3
    assert PARTS.find("os:path.join")("a", "b") == "a/b"
    assert list(PARTS) == ["square", "one", "lost"] and len(PARTS) == 3
    PARTS.check("any_package.module:object")  # imports nothing
    with pytest.raises(KeyError):
        PARTS["math:sqrt"]  # find's alone


@pytest.mark.parametrize(
    "name, message",
    [
        ("sqare", "there is no shape 'sqare' .is it square..; expected one of square, one, lost, "),
        ("os.path", "there is no shape 'os.path'; expected"),
        ("os:system('x')", "there is no shape"),
        ("math:no_such", "the shape math:no_such cannot be imported: AttributeError: .*no_such"),
        ("no_such_module:x", "cannot be imported: ModuleNotFoundError: No module named"),
    ],
)
def test_what_cannot_be_found_is_one_sentence(name, message):
    with pytest.raises(ValueError, match=message) as error:
        PARTS.find(name)
    assert "\n" not in str(error.value)


def test_import_paths():
    assert is_import_path("a.b:c.d") and is_import_path("a:c")
    for text in ("a", "a.b", "a:b:c", ":a", "a:", "../a:b", "a b:c", "a\n:b", 3):
        assert not is_import_path(text)


def scaled(a, b=1, *, c, d=2):
    return a, b, c, d


def test_a_part_is_called_or_the_call_is_said_to_be_wrong():
    assert call("it", scaled, 5, c=3) == (5, 1, 3, 2)
    assert call("it", lambda a, **rest: rest, 1, x=2) == {"x": 2}
    assert call("it", dict, x=1) == {"x": 1}
    for part, arguments, named, words in (
        (scaled, (5,), {"c": 3, "dd": 1}, "it takes no 'dd' (is it d?); it takes b, c, d."),
        (scaled, (5,), {}, "it needs 'c', which is not given."),
        (scaled, (), {"c": 1}, "it needs 'a', which is not given."),
        (scaled, (5, 6, 7), {"c": 3}, "it takes (a, b, c, d); expected one that takes 3 argum"),
        (lambda: 1, (), {"c": 3}, "it takes no 'c'; it takes no options."),
        (3, (), {}, "it is 3, which cannot be called."),
    ):
        with pytest.raises(ValueError) as caught:
            call("it", part, *arguments, **named)
        assert str(caught.value).startswith(words)
    with pytest.raises(ZeroDivisionError):  # what the part does is its own
        call("it", lambda a: 1 / a, 0)
