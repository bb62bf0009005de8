import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import relative_error

from e4e_jax.training import losses

TOLERANCE = 1e-5


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_same_with_gradients(function, torch_function, *inputs):
    """Values and the gradients with respect to all inputs agree."""
    both = jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(inputs)))))
    value, gradients = both(*inputs)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = torch_function(*tensors)
    expected.backward()
    assert relative_error(value, expected.detach().numpy()) < TOLERANCE
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert relative_error(gradient, tensor.grad.numpy()) < TOLERANCE


def test_l2():
    a, b = random(0, 3, 8, 8, 3), random(1, 3, 8, 8, 3)
    assert_same_with_gradients(losses.l2, torch.nn.functional.mse_loss, a, b)


def test_cosine_identity():
    def reference(a, b):
        return (1 - torch.nn.functional.cosine_similarity(a, b, dim=1)).mean()

    a, b = random(0, 5, 32), random(1, 5, 32)
    assert_same_with_gradients(losses.cosine_identity, reference, a, b)
    assert float(losses.cosine_identity(a, 3.0 * a)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stage", [0, 1, 4, 5])
def test_delta_norm(stage):
    w_plus = random(2, 3, 6, 16)

    def reference(codes):
        total = 0.0 * codes.sum()
        for i in range(1, stage + 1):
            total = total + torch.linalg.vector_norm(codes[:, i] - codes[:, 0], dim=1).mean()
        return total

    if stage == 0:
        value, gradient = jax.jit(jax.value_and_grad(losses.delta_norm))(w_plus, 0)
        assert float(value) == 0 and not np.any(gradient)
    else:
        traced = jnp.int32(stage)
        assert_same_with_gradients(lambda w: losses.delta_norm(w, traced), reference, w_plus)


def test_delta_norm_at_zero_has_a_finite_gradient():
    w_plus = np.repeat(random(3, 2, 1, 8), 5, axis=1)  # all deltas are zero
    value, gradient = jax.jit(jax.value_and_grad(losses.delta_norm))(w_plus, 3)
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, np.zeros_like(w_plus))


def test_w_norm():
    offsets = random(13, 3, 6, 16)
    assert_same_with_gradients(losses.w_norm, lambda w: w.norm(2, dim=(1, 2)).mean(), offsets)
    gradient = jax.jit(jax.grad(losses.w_norm))(np.zeros_like(offsets))
    np.testing.assert_array_equal(gradient, np.zeros_like(offsets))


@pytest.mark.parametrize("stage", [0, 2, 5])
def test_active_layers_mean(stage):
    values = random(4, 3, 6)
    assert_same_with_gradients(
        lambda v: losses.active_layers_mean(v, jnp.int32(stage)),
        lambda v: sum(v[:, i].mean() for i in range(stage + 1)) / (stage + 1),
        values,
    )


def test_logistic_losses():
    real, fake = 3 * random(5, 7, 1), 3 * random(6, 7, 1)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    assert_same_with_gradients(
        losses.generator_logistic, lambda f: bce(f, torch.ones_like(f)), fake
    )
    assert_same_with_gradients(
        losses.discriminator_logistic,
        lambda r, f: bce(r, torch.ones_like(r)) + bce(f, torch.zeros_like(f)),
        real,
        fake,
    )


def test_r1_penalty_and_its_gradient():
    inputs, weight1, weight2 = random(7, 4, 5, 3), 0.3 * random(8, 15, 16), random(9, 16, 1)

    def function(inputs, weight1, weight2):
        def discriminate(x):
            return jnp.tanh(x.reshape(len(x), -1) @ weight1) @ weight2

        return losses.r1_penalty(discriminate, inputs)

    def reference(inputs, weight1, weight2):
        logits = torch.tanh(inputs.reshape(4, -1) @ weight1) @ weight2
        (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return gradient.square().sum(dim=(1, 2)).mean()

    assert_same_with_gradients(function, reference, inputs, weight1, weight2)


def path_length_problem():
    w_plus, weight = random(10, 4, 3, 6), 0.4 * random(11, 18, 8 * 8 * 3)
    return w_plus, weight, random(12, 4, 8, 8, 3)


def path_length_penalty(weight, w_plus, noise, mean, axis_name=None):
    def synthesize(w):
        return jnp.tanh(w.reshape(len(w), -1) @ weight).reshape(-1, 8, 8, 3)

    return losses.path_length_penalty(
        synthesize, w_plus, noise, mean, decay=0.01, axis_name=axis_name
    )


def test_path_length_penalty_and_its_gradient():
    w_plus, weight, noise = path_length_problem()
    state = {}

    def reference(weight):
        codes = torch.tensor(w_plus, requires_grad=True)
        images = torch.tanh(codes.reshape(4, -1) @ weight).reshape(4, 8, 8, 3)
        projection = (images * torch.tensor(noise)).sum() / 8
        (gradient,) = torch.autograd.grad(projection, codes, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        mean = torch.lerp(torch.tensor(0.7), lengths.mean(), 0.01)
        state.update(mean=mean.detach(), lengths=lengths.detach())
        return (lengths - mean).square().mean()

    assert_same_with_gradients(
        lambda w: path_length_penalty(w, w_plus, noise, 0.7)[0], reference, weight
    )
    _, mean, lengths = jax.jit(path_length_penalty)(weight, w_plus, noise, 0.7)
    assert relative_error(mean, state["mean"]) < TOLERANCE
    assert relative_error(lengths, state["lengths"]) < TOLERANCE


def test_path_length_penalty_shares_its_mean_over_devices():
    w_plus, weight, noise = path_length_problem()

    def penalty(weight, w_plus, noise, axis_name):
        value, mean, _ = path_length_penalty(weight, w_plus, noise, 0.7, axis_name)
        return value, mean

    def per_device(w_plus, noise):
        outputs = jax.value_and_grad(penalty, has_aux=True)(weight, w_plus, noise, "data")
        return jax.lax.pmean(outputs, "data")

    split = jax.jit(jax.vmap(per_device, axis_name="data"))(w_plus[:, None], noise[:, None])
    on_one = jax.jit(jax.value_and_grad(penalty, has_aux=True), static_argnums=3)
    whole = on_one(weight, w_plus, noise, None)
    for actual, expected in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        assert relative_error(actual[0], expected) < TOLERANCE


def test_progressive_stage_opens_at_the_published_steps():
    start, every, num_styles = 20_000, 2_000, 18
    opening = [0] + [start + i * every for i in range(num_styles - 1)]
    stage_of = jax.jit(lambda step: losses.progressive_stage(step, start, every, num_styles))
    for stage, step in enumerate(opening):
        assert int(stage_of(step)) == stage
        if step:
            assert int(stage_of(step - 1)) == stage - 1
    assert int(stage_of(300_000)) == 17
