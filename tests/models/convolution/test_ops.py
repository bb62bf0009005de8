"""Each operation against its slow PyTorch form: values, gradients and gradients of gradients."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error
from torch_comparison import kernel_to_jax, kernel_to_torch, to_jax, to_torch

from benchmarks.torch_reference import stylegan2 as reference
from e4e_jax.models.convolution import ops

# Arguments are drawn by kind; sizes differ in every direction, so that none can be mistaken.
BATCH, HEIGHT, WIDTH, N_IN, N_OUT = 3, 6, 4, 5, 7
SHAPES = {
    "x": (BATCH, HEIGHT, WIDTH, N_IN),
    "kernel3": (3, 3, N_IN, N_OUT),
    "kernel1": (1, 1, N_IN, N_OUT),
    "style": (BATCH, N_IN),
}
partial = functools.partial
CASES = {
    "conv": ("x kernel3", partial(ops.conv2d, padding=1), partial(F.conv2d, padding=1)),
    "conv 1x1": ("x kernel1", ops.conv2d, F.conv2d),
    "conv stride 2": ("x kernel3", partial(ops.conv2d, stride=2), partial(F.conv2d, stride=2)),
    "upsample": ("x", ops.upsample, reference.upsample),
    "downsample": ("x", ops.downsample, reference.downsample),
    "upsample conv": ("x kernel3", ops.upsample_conv2d, reference.upsample_conv2d),
    "downsample conv": ("x kernel3", ops.downsample_conv2d, reference.downsample_conv2d),
    "downsample conv 1x1": ("x kernel1", ops.downsample_conv2d, reference.downsample_conv2d),
    "modulated conv": ("x kernel3 style", ops.modulated_conv2d, reference.modulated_conv2d),
    "modulated conv up": (
        "x kernel3 style",
        partial(ops.modulated_conv2d, up=True),
        partial(reference.modulated_conv2d, up=True),
    ),
}


def draw(kinds):
    rng = np.random.default_rng(0)
    return [rng.normal(size=SHAPES[kind]).astype(np.float32) for kind in kinds]


def jax_derivatives(function, args):
    """Output, gradients of Σ output², and gradients of the sum of their squares."""
    argnums = tuple(range(len(args)))

    def loss(*args):
        output = function(*args)
        return jnp.sum(jnp.square(output)), output

    def penalty(*args):
        gradients, output = jax.grad(loss, argnums, has_aux=True)(*args)
        return sum(jnp.sum(jnp.square(g)) for g in gradients), (gradients, output)

    second, (first, output) = jax.jit(jax.grad(penalty, argnums, has_aux=True))(*args)
    return output, first, second


def torch_derivatives(function, kinds, args):
    there = [_is_kernel(kind, kernel_to_torch, to_torch) for kind in kinds]
    back = [_is_kernel(kind, kernel_to_jax, to_jax) for kind in kinds]
    tensors = [convert(arg) for convert, arg in zip(there, args, strict=True)]
    output = function(*tensors)
    first = torch.autograd.grad(output.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    first, second = (
        [convert(g) for convert, g in zip(back, gs, strict=True)] for gs in (first, second)
    )
    return to_jax(output), first, second


def _is_kernel(kind, yes, no):
    return yes if kind.startswith("kernel") else no


def check(kinds, ours, theirs):
    kinds = kinds.split()
    args = draw(kinds)
    output, first, second = jax_derivatives(ours, args)
    expected_output, expected_first, expected_second = torch_derivatives(theirs, kinds, args)
    assert relative_error(output, expected_output) < 1e-5
    for kind, *pairs in zip(kinds, first, expected_first, second, expected_second, strict=True):
        assert relative_error(*pairs[:2]) < 1e-5, f"gradient with respect to {kind}"
        assert relative_error(*pairs[2:]) < 1e-5, f"second gradient with respect to {kind}"


@pytest.mark.parametrize("name", CASES)
def test_operation_matches_torch_to_the_second_derivative(name):
    check(*CASES[name])


@pytest.mark.parametrize("name", ["conv", "conv stride 2", "upsample conv"])
def test_weight_gradients_as_other_platforms_compute_them(name, monkeypatch):
    """They have one form for the CPU and another for everything else."""

    def take_default(*args, cpu, default):
        return default(*args)

    monkeypatch.setattr(ops.lax, "platform_dependent", take_default)
    check(*CASES[name])


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
@pytest.mark.parametrize("pad, gain, size", [(1, 4.0, (9, 13)), (2, 1.0, (8, 6))])
def test_blur_matches_the_derivatives_of_a_depthwise_convolution(pad, gain, size, dtype, tolerance):
    """The paddings, gains and parities of the sampling convolutions; JAX differentiates this form.

    bfloat16 is held against the form in float32, its rounding of each step is in the tolerance.
    """

    def plain(x):
        fir = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) * np.float32(gain / 64)
        kernel = jnp.tile(fir[:, :, None, None], (1, 1, 1, N_IN))
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            [(pad, pad)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=N_IN,
        )

    # bfloat16 numbers, so that both begin with the same ones.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, *size, N_IN)), jnp.bfloat16)
    actual = jax_derivatives(partial(ops._blur, pad=pad, gain=gain), [x.astype(dtype)])
    expected = jax_derivatives(plain, [x.astype(jnp.float32)])
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        assert relative_error(a, e) < tolerance


def test_gradients_inside_cond_are_convolutions_in_plain_layout():
    """XLA:CPU leaves others slow there (see `ops`): no convolution may permute its dimensions."""

    def penalty(x, kernel):
        def loss(x, kernel):
            y = ops.upsample_conv2d(ops.conv2d(x, kernel[0], padding=1), kernel[1])
            return jnp.sum(jnp.square(ops.downsample_conv2d(y, kernel[2])))

        return jnp.sum(jnp.square(jax.grad(loss)(x, kernel)))

    def run(take, x, kernel):
        return jax.lax.cond(take, jax.grad(penalty, 1), lambda _, k: jnp.zeros_like(k), x, kernel)

    kernel = jnp.ones((3, 3, 3, N_IN, N_IN))
    text = jax.jit(run).lower(True, jnp.ones((2, 4, 4, N_IN)), kernel).as_text()
    layouts = set(re.findall(r"dim_numbers = (.+?), window", text))
    assert layouts == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


def test_modulated_conv_keeps_the_type_of_its_input():
    x, kernel, style = draw(["x", "kernel3", "style"])
    for up in (False, True):
        run = jax.jit(partial(ops.modulated_conv2d, up=up))
        exact = run(x, kernel, style)
        half = run(x.astype(jnp.bfloat16), kernel, style)
        assert half.dtype == jnp.bfloat16
        assert relative_error(half, exact) < 0.03
