"""What all runs share: sources by name, optimisers by name, evaluation in batches."""

import dataclasses

import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from configs import common, folder, toy, toy_features
from e4e_jax.data.registry import build_source
from e4e_jax.data.sources import LoadedImages
from e4e_jax.metrics import passes
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.runtime.hosts import ALL_OF_IT
from e4e_jax.toy.faces import FACTORS
from e4e_jax.training import generator_run, run


def test_toy_images_are_held_out_with_their_factors():
    config = toy.get_config()
    config.data.num_validation = 70
    held_out = run.held_out_images(config)
    images = held_out.images
    assert images.shape == (70, 64, 64, 3) and images.dtype == np.uint8
    assert held_out.factors([3, 69]).shape == (2, 11) and held_out.factor_names == FACTORS
    trained_on = build_source(config.data, held_out=False)
    assert not any(np.array_equal(trained_on[i], images[i]) for i in range(5))


def test_sources_that_do_not_exist_are_named():
    data = toy.get_config().data
    data.source = "webcam"
    with pytest.raises(ValueError, match="there is no source of images 'webcam'; expected one of"):
        build_source(data, held_out=False)
    data.source, data.path = "folder", ""
    with pytest.raises(ValueError, match="config.data.path is empty"):
        build_source(data, held_out=False)


def test_factors_are_learned_where_the_source_knows_them(tmp_path):
    config = toy_features.get_config()
    config.data.source, config.data.path = "folder", a_folder(tmp_path / "a", 2)
    with pytest.raises(ValueError, match="'folder' does not know; expected a source with factors"):
        run.training_batches(config, with_factors=True)


class Negatives:
    """Images of one grey each, and as targets their negatives."""

    names = ("a", "b", "c")
    targets = [np.full((9, 9, 3), 255 - 10 * i, np.uint8) for i in range(3)]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return 255 - self.targets[index]


def test_targets_of_held_out_images_are_kept_and_measured(monkeypatch):
    config = folder_config("unused")
    monkeypatch.setattr(run, "build_source", lambda data, held_out: Negatives())
    held_out = run.held_out_images(config)
    np.testing.assert_array_equal(held_out.targets, 255 - held_out.images)
    whole = passes.inversion_pass(
        held_out, lambda networks, images: images, lambda networks, codes: codes,
        image_size=(8, 8), batch_size=3, model_key=None,
    )  # fmt: skip
    ((_, _, arrays),) = whole.batches()
    found = whole.images({"generator": None}, arrays)
    np.testing.assert_allclose(found["reference"], -found["measured"], atol=1e-6)


def test_schedules_reach_the_optimiser():
    section = common.optimizer(
        "adam", 1.0, schedule="linear", schedule_options={"begin": 1, "final_fraction": 0.0}
    )
    optimizer = run.build_optimizer(section, 3)
    params = np.zeros(1, np.float32)
    state = optimizer.init(params)
    taken = []
    for _ in range(3):
        updates, state = optimizer.update(np.ones(1, np.float32), state, params)
        taken.append(float(-updates[0]))
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(taken, [1.0, 1.0, 0.5], rtol=1e-4)  # Adam rounds


def a_folder(path, count, damaged=()):
    """Images of 8x8, of which those of `damaged` are cut."""
    path.mkdir()
    for i in range(count):
        file = path / f"{i}.png"
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(file)
        if i in damaged:
            file.write_bytes(file.read_bytes()[:40])
    return str(path)


def folder_config(path):
    config = folder.get_config()
    config.data.image_size = (8, 8)
    config.data.path = config.data.validation_path = path
    return config


def test_the_mean_image_leaves_damaged_ones_out(tmp_path):
    config = folder_config(a_folder(tmp_path / "a", 4, damaged=[0, 2]))
    mean = run.mean_training_image(config)
    np.testing.assert_allclose(mean, np.full((8, 8, 3), 40 / 127.5 - 1), atol=1e-6)


def test_no_usable_held_out_image_is_said_at_once(tmp_path):
    config = folder_config(a_folder(tmp_path / "a", 2, damaged=[0, 1]))
    with pytest.raises(ValueError, match=r"no held-out image .*0\.png .*, and 1 others; expected"):
        run.held_out_images(config)
    config.data.num_validation = 0
    with pytest.raises(ValueError, match="config.data.num_validation is 0; expected at least 1"):
        run.held_out_images(config)
    config = folder_config(a_folder(tmp_path / "b", 3, damaged=[1]))
    assert run.held_out_images(config).images.shape == (2, 8, 8, 3)


class Colours(nnx.Module):
    """The mean colour of each image."""

    def pooled(self, images):
        return images.mean(axis=(1, 2))


@pytest.mark.parametrize("count, halves", [(2, None), (3, None), (4, 2), (9, 4)])
def test_the_table_of_few_held_out_images_leaves_the_halves_out(monkeypatch, count, halves):
    evaluation = generator_run._GeneratorEvaluation.__new__(generator_run._GeneratorEvaluation)
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    evaluation._held_out = LoadedImages(images, [f"{i}.png" for i in range(count)])
    evaluation._metrics, evaluation._untrained = ["fid100_full@x"], None
    evaluation._options = {"networks": {"x": Colours()}, "share": ALL_OF_IT, "cache": ""}
    monkeypatch.setattr(
        evaluation, "figures", lambda generator: {"fid100_full@x": 1.25}, raising=False
    )
    table = evaluation.table(None)
    assert table.count("1.25") == 2 and f"against {count} real images" in table
    assert ("two disjoint sets" in table) == (halves is not None)
    assert halves is None or f"two disjoint sets of {halves} real images" in table


def test_first_weights_are_those_of_the_network_by_itself_but_for_the_given_ones():
    def make():
        config = EncoderConfig.tiny()
        backbone = IRSEConfig(widths=(16, 16, 16, 16), depths=(1, 1, 1, 1))
        config = dataclasses.replace(config, style_dim=8, backbone=backbone)
        return nnx.Dict(encoder=Encoder(config, rngs=nnx.Rngs(3)))

    expected = nnx.to_flat_state(nnx.state(make()))
    for given in ((), ("backbone",)):
        network = run.first_weights(make, lambda path, g=given: bool(set(g) & set(path)))
        found = nnx.to_flat_state(nnx.state(network))
        assert [path for path, _ in found] == [path for path, _ in expected]
        for (path, a), (_, b) in zip(found, expected, strict=True):
            if set(given) & set(path):
                assert a[...].shape == b[...].shape and not np.any(a[...])
            else:
                np.testing.assert_allclose(a[...], b[...], rtol=1e-5, atol=1e-7)
