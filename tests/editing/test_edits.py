"""What edits do to latents, each kind against a plain form."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error

from e4e_jax.editing.edits import (
    ChannelEdit,
    ComponentEdit,
    DirectionEdit,
    apply_direction,
    set_component,
)
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig, StyleCodes

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)


@pytest.fixture(scope="module")
def generator():
    return randomize(Generator(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)


def test_styles_of_the_codes_change_nothing(generator, codes):
    styles = generator.synthesis.styles(codes)
    assert [style.shape for style in styles] == [(2, 4 if i > 3 else 8) for i in range(5)]
    again = generator.synthesis(StyleCodes(codes, tuple(styles)))
    assert relative_error(again, generator.synthesis(codes)) < 1e-6


def test_one_channel_moves(generator, codes):
    before = generator.synthesis.styles(codes)
    after = ChannelEdit(3, 2, deviation=0.5).apply(generator, codes, 3.0)
    np.testing.assert_array_equal(after.w_plus, codes)
    for i, (a, b) in enumerate(zip(before, after.styles, strict=True)):
        expected = np.zeros_like(a)
        if i == 3:
            expected[:, 2] = 1.5
        np.testing.assert_allclose(b - a, expected, atol=1e-6)


def test_edits_of_codes_and_of_channels_go_together_in_any_order(generator, codes):
    rng = np.random.default_rng(1)
    step, mean = rng.normal(size=(2, 8)).astype(np.float32)
    channel = ChannelEdit(2, 5, deviation=0.7)
    for edit in (DirectionEdit(step), ComponentEdit(step, mean, 1, 3)):
        moved = edit.apply(generator, codes, 2.0)
        first = channel.apply(generator, moved, -3.0)
        second = edit.apply(generator, channel.apply(generator, codes, -3.0), 2.0)
        assert isinstance(second, StyleCodes)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            assert relative_error(a, b) < 1e-5
        expected = np.array(generator.synthesis.styles(moved)[2])
        expected[:, 5] -= 3 * 0.7
        assert relative_error(second.styles[2], expected) < 1e-5
    twice = channel.apply(generator, channel.apply(generator, codes, 1.0), 2.0)
    once = channel.apply(generator, codes, 3.0)
    assert relative_error(twice.styles[2], once.styles[2]) < 1e-6


@pytest.mark.parametrize("edit", [
    DirectionEdit(np.ones(8, np.float32)), ComponentEdit(np.ones(8), np.zeros(8), 0, 5),
    ChannelEdit(1, 1, 0.5),
])  # fmt: skip
def test_one_compiled_program_serves_all_strengths(edit, generator, codes):
    traces = []

    @nnx.jit
    def apply(generator, codes, strength):
        traces.append(1)
        return edit.apply(generator, codes, strength)

    for strength in (0.5, -2.0):
        found = apply(generator, codes, strength)
        expected = edit.apply(generator, codes, strength)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert relative_error(a, b) < 1e-5
    assert len(traces) == 1


@pytest.mark.parametrize("strength", [1.5, [1.0, -2.0, 0.0, 0.5]])
@pytest.mark.parametrize("per_layer", [False, True])
def test_apply_direction(strength, per_layer):
    rng = np.random.default_rng(4)
    w_plus = rng.normal(size=(4, 5, 8)).astype(np.float32)
    direction = rng.normal(size=(5, 8) if per_layer else 8)
    edited = jax.jit(apply_direction)(w_plus, direction, np.asarray(strength))
    assert edited.dtype == np.float32
    for image in range(4):
        for layer in range(5):
            step = direction[layer] if per_layer else direction
            expected = w_plus[image, layer] + np.broadcast_to(strength, 4)[image] * step
            np.testing.assert_allclose(edited[image, layer], expected, rtol=1e-5, atol=1e-5)


def test_apply_direction_names_the_wrong_shape():
    w_plus = np.zeros((2, 4, 8), np.float32)
    with pytest.raises(ValueError, match=r"direction: expected \(8,\) or \(4, 8\), found \(3, 8\)"):
        apply_direction(w_plus, np.zeros((3, 8)), 1.0)
    with pytest.raises(ValueError, match=r"strength: expected a scalar or \(2,\), found \(3,\)"):
        apply_direction(w_plus, np.zeros(8), np.ones(3))
    with pytest.raises(ValueError, match="w_plus"):
        apply_direction(w_plus[0], np.zeros(8), 1.0)


def test_setting_a_component_is_the_published_edit():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(3, 6, 8)).astype(np.float32)
    mean, component = rng.normal(size=8), rng.normal(size=8)
    component /= np.linalg.norm(component)
    deviation = 1.7
    found = set_component(codes, component * deviation, mean, -4.0, 2, 3)
    for code, moved in zip(codes.astype(np.float64), found, strict=True):
        coordinate = np.sum((code[0] - mean) * component) / deviation
        expected = code.copy()
        expected[2:4] += (-4.0 - coordinate) * component * deviation
        assert relative_error(moved, expected) < 1e-6
    everywhere = set_component(codes, component * deviation, mean, 2.5, 0, 5)
    reached = (np.asarray(everywhere)[:, 0] - mean) @ component / deviation
    np.testing.assert_allclose(reached, 2.5, rtol=1e-5)


def test_components_that_do_not_fit_are_named():
    codes, step = np.ones((2, 6, 8)), np.ones(8)
    with pytest.raises(ValueError, match=r"\[2, 6, 8\], \[7\] and \[8\]; expected \[B, L, D\]"):
        set_component(codes, step[:7], step, 1.0, 0, 1)
    with pytest.raises(ValueError, match="the layers are 2 to 6; expected layers in order, 0 to 5"):
        set_component(codes, step, step, 1.0, 2, 6)
