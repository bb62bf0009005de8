import pytest

from e4e_jax.runtime.options import failures_of, parse_options


def test_values_are_literals_or_strings():
    texts = ["steps=50", "rate=1e-3", "sizes=(1, 2)", "path=x=y.npz", "on=True", "none=None", "e="]
    assert parse_options(texts) == {
        "steps": 50, "rate": 1e-3, "sizes": (1, 2), "path": "x=y.npz", "on": True, "none": None,
        "e": "",
    }  # fmt: skip


@pytest.mark.parametrize("texts, sentence", [
    (["steps"], "the option 'steps' is not understood; expected NAME=VALUE."),
    (["=1"], "is not understood"),
    (["a=1", "a=2"], "the option 'a=2' is given twice"),
    (["a=" + "(" * 9_000], None), (["a=" + "1" * 20_000], "not understood"),
])  # fmt: skip
def test_other_forms_are_one_sentence(texts, sentence):
    if sentence is None:
        assert parse_options(texts) == {"a": texts[0][2:]}
        return
    with pytest.raises(ValueError, match=sentence):
        parse_options(texts)


def test_failures_of_parts_are_one_sentence_and_their_own_stay():
    with pytest.raises(
        ValueError, match=r"the part failed: KeyError: 'x' \(test_options.py, li"
    ) as caught:
        with failures_of("the part"):
            {}["x"]
    assert isinstance(caught.value.__cause__, KeyError)
    for error in (FileNotFoundError("there is no x."), ValueError("x is 0."), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            with failures_of("the part"):
                raise error
        assert caught.value is error
