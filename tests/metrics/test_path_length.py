"""Perceptual path length against a form in NumPy that goes from pair to pair, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import relative_error

from e4e_jax.metrics import passes
from e4e_jax.metrics.cache import Cache
from e4e_jax.metrics.evaluation import Evaluation
from e4e_jax.metrics.metric import Request, Subject
from e4e_jax.metrics.path_length import PPL_W, PPL_WEND, PPL_Z, PathLength, prepare_images, slerp
from e4e_jax.metrics.registry import Written

Z, W, SIZE, COUNT = 6, 5, 16, 11


class Networks(nnx.Module):
    """A mapping network, a synthesis network and features, all of one layer."""

    def __init__(self):
        rng = np.random.default_rng(0)
        for name, shape in (("map", (Z, W)), ("draw", (W, SIZE, SIZE, 3)), ("see", (3, 4))):
            kernel = rng.normal(size=shape) / np.sqrt(shape[0])
            setattr(self, name, nnx.Param(jnp.asarray(kernel, jnp.float32)))

    def features(self, images):
        return jnp.sin(images @ self.see[...])

    def distance(self, a, b):
        return jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=(1, 2))


NETWORKS = Networks()


def measure(metric):
    samples = passes.sample_pass(
        lambda networks, z: jnp.tanh(z @ networks["generator"].map[...]),
        lambda networks, w: jnp.tanh(jnp.tensordot(w, networks["generator"].draw[...], 1)),
        COUNT, z_dim=Z, image_size=(SIZE, SIZE), batch_size=4, model_key=None,
    )  # fmt: skip
    request = Request(Written("ppl", "ppl"), metric, "vgg")
    networks = {"generator": NETWORKS, "@vgg": NETWORKS}
    return Evaluation(
        [request], Subject(), [samples], networks,
        network_keys={}, cache=Cache(None), progress=None,
    ).measure()  # fmt: skip


def expected(metric):
    kernels = [np.float64(getattr(NETWORKS, name)[...]) for name in ("map", "draw", "see")]

    def image(w):
        drawn = np.tanh(np.tensordot(w, kernels[1], 1))
        return drawn[6:14, 4:12] if metric.crop else drawn

    distances = []
    for i in range(COUNT):
        key = jax.random.fold_in(jax.random.key(0), i)
        others = jax.random.split(jax.random.fold_in(key, 1))
        z = np.float64(jax.random.normal(key, (Z,)))
        other = np.float64(jax.random.normal(others[0], (Z,)))
        t = float(jax.random.uniform(others[1])) if metric.whole else 0.0
        seen = []
        for time in (t, t + metric.epsilon):
            if metric.space == "z":
                a, b = z / np.sqrt(z @ z), other / np.sqrt(other @ other)
                angle = np.arccos(a @ b)
                point = (np.sin((1 - time) * angle) * a + np.sin(time * angle) * b) / np.sin(angle)
                w = np.tanh(point @ kernels[0])
            else:
                first, second = np.tanh(z @ kernels[0]), np.tanh(other @ kernels[0])
                w = (1 - time) * first + time * second
            seen.append(np.sin(image(w) @ kernels[2]))
        squares = np.sum((seen[0] - seen[1]) ** 2, axis=-1)
        distances.append(squares.mean() / metric.epsilon**2)
    low, high = (
        np.percentile(distances, 1, method="lower"),
        np.percentile(distances, 99, method="higher"),
    )
    return np.mean([d for d in distances if low <= d <= high])


@pytest.mark.parametrize(
    "metric",
    [
        PathLength("z", epsilon=0.05),
        PathLength("w", epsilon=0.05),
        PathLength("w", whole=False, crop=True, epsilon=0.05),
    ],
    ids=["z", "w", "end, cropped"],
)
def test_path_length(metric):
    report = measure(metric)
    assert report["ppl"] == pytest.approx(expected(metric), rel=1e-4)
    assert report.figures[0].images == COUNT and report.figures[0].references is None


def test_the_published_step_is_within_what_float32_tells():
    assert PPL_Z.epsilon == PPL_W.epsilon == PPL_WEND.epsilon == 1e-4
    assert (PPL_Z.space, PPL_W.space, PPL_WEND.whole) == ("z", "w", False)
    assert measure(PPL_W)["ppl"] == pytest.approx(expected(PPL_W), rel=0.05)


def test_slerp_keeps_to_the_great_circle():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, Z)).astype(np.float32)
    ends = slerp(a, 3 * b, np.array([[0], [1], [0], [1]], np.float32))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    assert relative_error(ends, np.where([[True], [False]] * 2, *unit)) < 1e-5
    half = slerp(a, b, np.full((4, 1), 0.5, np.float32))
    middle = sum(unit)
    assert relative_error(half, middle / np.linalg.norm(middle, axis=1, keepdims=True)) < 1e-5


def test_large_images_are_averaged_and_faces_cut_out():
    images = np.random.default_rng(0).uniform(-1, 1, (1, 512, 512, 3)).astype(np.float32)
    means = images.reshape(1, 256, 2, 256, 2, 3).mean(axis=(2, 4))
    assert relative_error(prepare_images(images, crop=False), means) < 1e-5
    cropped = prepare_images(images, crop=True)  # 256 pixels of 512: as they are
    np.testing.assert_array_equal(cropped, images[:, 192:448, 128:384])
    assert prepare_images(images[:, :64, :64], crop=False).shape == (1, 64, 64, 3)
