"""Bytes of PyTorch operations, counted by hand."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks import hlo
from benchmarks.published_code.traffic import Traffic

RATES = hlo.Rates(memory=1e6, flops=4e6, flops32=2e6)
N = 4 * 6  # numbers in an array [4, 6], of four bytes each


@pytest.fixture
def x():
    return torch.randn(4, 6)


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x: x + 1, 2 * N),
        (lambda x: x + x.mean(), N + 1 + N + 1 + N),
        (lambda x: x.add_(x[:1].expand(4, 6)), N + 6 + N),  # the row is there once
        (lambda x: x.reshape(6, 4).T[:2], 0),
        (lambda x: torch.empty(4, 6).copy_(x), 2 * N),
        (lambda x: torch.ones_like(x), N),
        (lambda x: x.addcmul(x, x), 2 * N),  # read once
        (lambda x: x @ torch.ones(6, 2), 12 + N + 12 + 8),
        (lambda x: torch.empty(4, 6, device="meta").half().float(), N + N // 2 + N // 2 + N),
    ],
)
def test_an_operation_reads_its_inputs_and_writes_its_result(function, expected, x):
    traffic = Traffic(RATES)
    with torch.no_grad(), traffic:
        function(x)
    assert traffic.bytes == 4 * expected


def test_a_frozen_kernel_has_no_gradient_to_write():
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    kernel = torch.randn(3, 2, 1, 1)
    y = F.conv2d(x, kernel)
    ones = torch.ones_like(y)
    frozen, trained = Traffic(RATES), Traffic(RATES)
    with frozen:
        torch.autograd.grad(y, x, ones)
    assert frozen.bytes == 4 * (y.numel() + kernel.numel() + x.numel())
    y = F.conv2d(x, kernel.requires_grad_())
    with trained:
        torch.autograd.grad(y, (x, kernel), ones)
    assert trained.bytes == 4 * (2 * y.numel() + 2 * kernel.numel() + 2 * x.numel())


def test_a_fused_operator_is_one_operation_and_its_gradient_another(x):
    def slope(x, gain):
        return F.leaky_relu(x, 0.2) * gain

    traffic = Traffic(RATES)
    x.requires_grad_()
    with traffic:
        y = traffic.as_one(slope)(x, 3.0)
    assert traffic.bytes == 4 * 2 * N
    with traffic:
        (found,) = torch.autograd.grad(y, x, torch.ones(4, 6))
    assert traffic.bytes == 4 * (2 * N + N + 2 * N)  # the gradient that starts it is made too
    (expected,) = torch.autograd.grad(slope(x, 3.0).sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype, seconds", [(torch.float32, 2 * 64**3 / 2e6), (torch.half, 0.131)])
def test_time_is_that_of_memory_or_of_arithmetic(dtype, seconds):
    x = torch.empty(64, 64, dtype=dtype, device="meta")
    traffic = Traffic(RATES)
    with traffic:
        x @ x
    assert traffic.seconds == pytest.approx(seconds, rel=1e-2)
    traffic.reset()
    with traffic:
        x + x
    assert traffic.seconds == 2 * 64 * 64 * x.element_size() / 1e6
