"""Parts by name and by import path."""

import pytest

from e4e_jax.runtime.registry import Registry, is_import_path

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
