"""Finders of directions: ours behind one door, and those of others through it."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import randomize

from e4e_jax import api
from e4e_jax.__main__ import main
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.finders import Direction, Scored, score_samples
from e4e_jax.editing.ganspace import ganspace_directions
from e4e_jax.editing.interfacegan import boundary
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8)


class Brightness(nnx.Module):
    """Reads how bright images are, and how red."""

    factor_names = ("bright", "red")

    def __call__(self, images):
        mean = images.mean(axis=(1, 2))
        return jnp.stack([mean.mean(axis=1), mean[:, 0]], axis=1)


@pytest.fixture(scope="module")
def model():
    return api.GeneratorModel(randomize(Generator(CONFIG, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def scored(model):
    rng = np.random.default_rng(0)
    w = np.asarray(model.map(rng.normal(size=(1000, 8))))
    return Scored(w, {"bright": w @ rng.normal(size=8), "red": w[:, 0]})


def correlation(model, scored, *, count: int = 2):
    """The directions along which scores rise on average."""
    codes = scored.codes - scored.codes.mean(axis=0)
    return {
        name: Direction((codes * values[:, None]).mean(axis=0).astype(np.float32), "one")
        for name, values in list(scored.scores.items())[:count]
    }


def broken(model, scored):
    return {"a": np.ones(8)}


def test_ours_give_names_units_and_how(model, scored):
    found = model.find_directions("sefa", count=3)
    assert list(found) == ["sefa_0", "sefa_1", "sefa_2"]
    np.testing.assert_array_equal(found["sefa_2"].step, sefa_directions(model.generator, 3)[2])

    found = model.find_directions("ganspace", count=2, samples=1000)
    mean, components, deviations = ganspace_directions(model.generator, 8, samples=1000)
    np.testing.assert_array_equal(found["ganspace_mean"].step, mean)
    np.testing.assert_array_equal(found["ganspace_1"].step, components[1] * deviations[1])
    assert "of the variance" in found["ganspace_0"].how and "deviation" in found["ganspace_0"].unit

    found = model.find_directions("interfacegan", scored)
    normal, accuracy = boundary(scored.codes, scored.scores["bright"])
    step = found["bright"].step
    np.testing.assert_allclose(step / np.linalg.norm(step), normal, rtol=1e-5, atol=1e-6)
    assert f"{accuracy:.1%} of held-out codes" in found["bright"].how
    kept = model.find_directions("interfacegan", scored, condition=True)["bright"].step
    assert abs(kept @ found["red"].step) < 1e-5 * np.linalg.norm(kept)

    channels = model.find_directions("stylespace", scored, count=2)["bright"].channels
    assert len(channels) == 2 and len(channels[0]) == 3
    edits = model.find_directions("stylespace", scored, count=2)["bright"].how.split()
    codes = np.zeros((1, 6, 8), np.float32)
    assert model.synthesize(model.edit(codes, *edits)).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("method", [correlation, f"{__name__}:correlation"])
def test_a_finder_of_others(method, model, scored):
    found = model.find_directions(method, scored, count=1)
    assert list(found) == ["bright"]
    codes = model.broadcast(scored.codes[:2])
    steps = {name: direction.step for name, direction in found.items()}
    moved = model.edit(codes, "bright=2", directions=steps)
    np.testing.assert_allclose(moved - codes, 2 * np.broadcast_to(steps["bright"], codes.shape),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    "method, options, sentence",
    [
        ("sefaa", {}, r"there is no finder of directions 'sefaa' \(is it sefa\?\)"),
        ("sefa", {"counts": 3}, r"the finder sefa takes no 'counts' \(is it count\?\); it takes"),
        ("sefa", {"count": 9}, "count is 9; expected 1 to 8"),
        ("interfacegan", {}, "interfacegan needs scores of attributes, and there are none"),
        (f"{__name__}:broken", {}, "gives no directions by name; expected a dict of Direction"),
        (f"{__name__}:correlation", {}, "correlation failed: AttributeError: 'NoneType'"),
    ],
)
def test_mistakes_are_one_sentence(method, options, sentence, model):
    with pytest.raises(ValueError, match=sentence):
        model.find_directions(method, **options)


def test_samples_are_scored_by_any_network_that_names_what_it_reads(model):
    scored = score_samples(model.generator, Brightness(), samples=250)
    assert scored.codes.shape == (300, 8) and set(scored.scores) == {"bright", "red"}
    images = np.asarray(model.synthesize(model.broadcast(scored.codes[:3])))
    np.testing.assert_allclose(
        scored.scores["red"][:3], images[..., 0].mean(axis=(1, 2)), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="Generator gives no scores of attributes; expected a"):
        score_samples(model.generator, model.generator)


def test_the_command_takes_finders_of_others(tmp_path, capsys):
    out = tmp_path / "mine.npz"
    flags = ["--network=toy/features", "--samples=100", "--options", "count=1"]
    assert main(["directions", str(out), f"--method={__name__}:correlation", *flags]) == 0
    assert "1 directions: " in capsys.readouterr().out
    ((name, step),) = load_directions(out).items()
    assert name == "yaw" and step.shape == (64,)
