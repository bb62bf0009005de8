import numpy as np
import pytest
from flax import nnx

from e4e_jax.editing.edits import ChannelEdit, set_component
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.editing.stylespace import channel_deviations
from e4e_jax.editing.written import WrittenEdit, parse_edit, resolve_edit
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=1, channel_base=64, channel_max=8)
DIRECTIONS = {
    "smile": np.arange(8, dtype=np.float32),
    "layered": np.arange(48, dtype=np.float32).reshape(6, 8),
    "other": np.ones(5, np.float32),
    "pca_mean": np.linspace(-1, 1, 8, dtype=np.float32),
    "pca_0": np.arange(1, 9, dtype=np.float32),
    "pca_1": np.ones((6, 8), np.float32),
}


@pytest.fixture(scope="module")
def generator():
    return Generator(CONFIG, rngs=nnx.Rngs(0))


def resolve(text, generator, directions=DIRECTIONS):
    return resolve_edit(parse_edit(text), directions, generator)


@pytest.mark.parametrize(
    "values, strengths",
    [
        ("1", (1,)),
        ("-1,0.5,2", (-1, 0.5, 2)),
        ("-1:1:5", (-1, -0.5, 0, 0.5, 1)),
        ("1e1", (10,)),
        (" .5 , +2. ", (0.5, 2)),
    ],
)
def test_strengths(values, strengths):
    edit = parse_edit(f"smile={values}")
    assert edit == WrittenEdit("smile", None, False, strengths) and edit.label == "smile"


@pytest.mark.parametrize(
    "text, expected, label",
    [
        (" smile@2-3=1", WrittenEdit("smile", (2, 3), False, (1,)), "smile@2-3"),
        ("pca_0@2-3:=1", WrittenEdit("pca_0", (2, 3), True, (1,)), "pca_0@2-3:"),
        ("pca_0:=1", WrittenEdit("pca_0", None, True, (1,)), "pca_0:"),
        ("style:3:12=5", WrittenEdit("style:3:12", None, False, (5,)), "style:3:12"),
        ("mine.edits:fade=.5", WrittenEdit("mine.edits:fade", None, False, (0.5,)), None),
    ],
)
def test_an_edit_is_read_without_a_generator(text, expected, label):
    edit = parse_edit(text)
    assert edit == expected and edit.label == (label or expected.name)


def test_layers(generator):
    np.testing.assert_array_equal(resolve("smile=1", generator).direction, DIRECTIONS["smile"])
    edit = resolve("smile@2-3=1", generator)
    np.testing.assert_array_equal(edit.direction[2:4], [DIRECTIONS["smile"]] * 2)
    assert not edit.direction[[0, 1, 4, 5]].any()
    edit = resolve("layered@5-5=1", generator)
    np.testing.assert_array_equal(edit.direction[5], DIRECTIONS["layered"][5])
    assert not edit.direction[:5].any()


def test_sefa_by_number(generator):
    edit = resolve("sefa_3=1", generator, {})
    np.testing.assert_array_equal(edit.direction, sefa_directions(generator, 4)[3])


def test_channels_by_number(generator):
    deviation = float(channel_deviations(generator)[3][2])
    assert resolve("style:3:2=1", generator, {}) == ChannelEdit(3, 2, deviation)


@pytest.mark.parametrize("text, first, last", [("pca_0:=-2,3", 0, 5), ("pca_0@2-3:=-2,3", 2, 3)])
def test_a_coordinate_is_set_along_a_component(text, first, last, generator):
    codes = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    step, mean = DIRECTIONS["pca_0"], DIRECTIONS["pca_mean"]
    expected = set_component(codes, step, mean, 3.0, first, last)
    found = resolve(text, generator).apply(generator, codes, 3.0)
    np.testing.assert_array_equal(found, expected)
    added = resolve(text.replace(":=", "="), generator).apply(generator, codes, 3.0)
    assert not np.allclose(added, expected)


class Fade:
    """Pulls codes towards the average code."""

    def apply(self, generator, latents, strength):
        return latents + strength * (generator.latent_avg[...] - latents)


FADE = Fade()
NO_EDIT = "fade"


def test_an_edit_of_others_comes_by_its_import_path(generator):
    codes = np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    found = resolve(f"{__name__}:FADE=1", generator).apply(generator, codes, 1.0)
    np.testing.assert_allclose(found, np.zeros_like(codes), atol=1e-6)  # the average


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("smile", "expected NAME=STRENGTHS"),
        ("smile=", "expected NAME=STRENGTHS"),
        ("smile=a", "the strengths of the edit 'smile=a' are not understood"),
        ("smile=nan", "not understood"),
        ("smile=0:1:0", "not understood"),
        ("frown=1", "there is no direction frown; expected one of smile"),
        ("sefa_8=1", "there is no direction sefa_8"),
        ("other=1", r"shape \[5\]; expected \[8\] or \[6, 8\]"),
        ("smile@4-6=1", "names layers 4 to 6; expected layers in order, 0 to 5"),
        ("smile@3-2=1", "names layers 3 to 2"),
        ("smile:=1", "sets a coordinate; expected a component of GANSpace that has its mean"),
        ("sefa_0:=1", "that has its mean beside it as sefa_mean, or = to add"),
        ("pca_1:=1", "sets a coordinate; expected a component"),
        ("smile=0:1:99999999999", "too many or too large; expected at most 1,000 of them"),
        ("smile=0:1:" + "9" * 5000, "too many"),
        ("smile=" + "1," * 1000 + "1", "too many"),
        ("smile=1e999", "too large; expected at most .* from -1,000,000 to 1,000,000"),
        ("smile=-1e30:1:3", "too large"),
        ("smile=inf", "not understood"),
        ("smile=0:1:-5", "not understood"),
        ("smile=0:1:2:3", "not understood"),
        ("smile=0:1", "not understood"),
        ("smile=1,,2", "not understood"),
        ("smile=1_0", "not understood"),
        ("smile=\u0661", "not understood"),  # an Arabic 1, which float() takes
        ("smile=0:1:\u0663", "not understood"),
        ("smile@\u0661-2=1", "expected NAME=STRENGTHS"),
        ("", "expected NAME=STRENGTHS"),
        ("=1", "expected NAME=STRENGTHS"),
        ("smile\n\n\n@0-1=1", "expected NAME=STRENGTHS"),
        ("x" * 20_000 + "=1", "at most 10,000 characters"),
        ("x" * 9_000 + "=1", "there is no direction xxx"),
        ("sefa_" + "9" * 5000 + "=1", "there is no direction sefa_999"),
        ("smile@0-" + "9" * 5000 + "=1", "names layers 0 to 1000000000; expected layers in order"),
        ("style:999999999999999999999:0=1", "names channel 0 of convolution 1000000000; this gen"),
        ("style:0:" + "9" * 5000 + "=1", "has 5 convolutions, and 8 channels in that one"),
        ("style:1:2@0-1=1", "names layers or sets a coordinate, as directions can; expected style"),
        ("no.such.module:edit=1", "the edit no.such.module:edit cannot be imported: ModuleNotFo"),
        (f"{__name__}:NO_EDIT=1", r"NO_EDIT is str; expected an object with apply\(generator"),
    ],
)
def test_mistakes_are_one_sentence(text, sentence, generator):
    with pytest.raises(ValueError, match=sentence) as caught:
        resolve(text, generator)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_message_does_not_name_a_thousand_directions(generator):
    many = {f"d{i}": np.ones(8, np.float32) for i in range(1000)}
    with pytest.raises(ValueError, match="expected one of d0, d1, .*, d49, ..., sefa_0 to sefa_7"):
        resolve("smile=1", generator, many)
