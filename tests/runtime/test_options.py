import pytest

from e4e_jax.runtime.options import check_options, failures_of, option_names, parse_options


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


def takes(model, images, *, steps=1, rate=0.1):
    return model, images, steps, rate


class Takes:
    def __call__(self, model, *, count=1):
        return model, count


def test_options_are_parameters_by_name():
    assert option_names(takes) == ["steps", "rate"] and option_names(Takes()) == ["count"]
    assert option_names(lambda model, **options: options) is None
    check_options("the part", takes, {"steps": 3})
    check_options("the part", lambda model, **options: options, {"anything": 3})
    with pytest.raises(ValueError, match=r"the part has no option step \(is it steps\?\); expec"):
        check_options("the part", takes, {"step": 3})
    with pytest.raises(ValueError, match="the part has no option zzz; expected none."):
        check_options("the part", lambda: None, {"zzz": 3})
    with pytest.raises(ValueError, match="the part is str; expected a function."):
        check_options("the part", "text", {})


def test_failures_of_parts_are_one_sentence_and_their_own_stay():
    with pytest.raises(ValueError, match="the part failed: KeyError: 'x'") as caught:
        with failures_of("the part"):
            {}["x"]
    assert isinstance(caught.value.__cause__, KeyError)
    for error in (FileNotFoundError("there is no x."), ValueError("x is 0."), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            with failures_of("the part"):
                raise error
        assert caught.value is error
