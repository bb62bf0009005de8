import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import e4e_jax
from e4e_jax import bundle
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.inception import InceptionConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.lpips import LPIPS, LPIPSConfig
from e4e_jax.models.moco import MoCo, MoCoConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime import checksums, parallel

BACKBONE = IRSEConfig(widths=(4, 4, 8, 8), depths=(1, 1, 1, 1), squeeze_reduction=2)


def make(build, seed=0):
    """A network of random numbers, without compiling its initialisers."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    rng = np.random.default_rng(seed)

    def draw(path, x):
        numbers = rng.uniform(0.1, 0.5, x.shape)
        if "var" not in jax.tree_util.keystr(path):
            numbers = numbers * rng.choice([-1, 1], x.shape)
        return jnp.asarray(numbers, x.dtype)

    network = nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))
    network.eval()
    return network


def make_generator(seed=0, resolution=16, **kwargs):
    config = GeneratorConfig(resolution, 8, 8, 2, channel_base=128, channel_max=8, **kwargs)
    return make(lambda rngs: Generator(config, rngs=rngs), seed)


def make_encoder(seed=1, **kwargs):
    config = EncoderConfig(
        num_styles=6, style_dim=8, image_size=(16, 32), backbone=BACKBONE, coarse=2, middle=4
    )
    config = dataclasses.replace(config, **kwargs)
    return make(lambda rngs: Encoder(config, rngs=rngs), seed)


def save_inverter(path, **kwargs):
    encoder, generator = make_encoder(), make_generator(conv_clamp=3.0)
    networks = {"encoder": encoder, "generator": generator}
    bundle.save_bundle(path, "inverter", networks, {"source": "a test"}, **kwargs)
    return encoder, generator


def images(seed=0, size=(16, 32), count=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *size, 3)).astype(np.float32)


def assert_same_variables(actual, expected):
    actual, expected = nnx.state(actual), nnx.state(expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_inverter_goes_round(tmp_path):
    encoder, generator = save_inverter(tmp_path / "b")
    model = e4e_jax.load(tmp_path / "b")
    assert_same_variables(model.encoder, encoder)
    assert_same_variables(model.generator, generator)
    assert model.encoder.config == encoder.config  # tuples and nested dataclasses too
    assert model.generator.config == generator.config
    assert bundle.load_bundle(tmp_path / "b").metadata == {"source": "a test"}
    assert (model.resolution, model.num_styles, model.image_size) == (16, 6, (16, 32))
    average = np.asarray(generator.latent_avg[...])
    np.testing.assert_array_equal(model.latent_avg, np.tile(average, (6, 1)))

    close = dict(rtol=1e-5, atol=1e-5)
    codes = model.encode(images())
    offsets = nnx.jit(Encoder.__call__)(encoder, images())
    np.testing.assert_allclose(codes, average + offsets, **close)
    expected = nnx.jit(type(generator.synthesis).__call__)(generator.synthesis, codes)
    np.testing.assert_allclose(model.synthesize(codes), expected, **close)
    z = np.random.default_rng(1).normal(size=(3, 8))
    np.testing.assert_allclose(model.map(z), generator.mapping(z.astype(np.float32)), **close)
    w = model.map(z, truncation_psi=0.7)
    np.testing.assert_allclose(w, average + 0.7 * (model.map(z) - average), **close)
    np.testing.assert_array_equal(model.broadcast(w)[:, 3], w)


def test_random_noise_is_that_of_the_key_and_of_each_image(tmp_path):
    save_inverter(tmp_path / "b")
    model = e4e_jax.load(tmp_path / "b")
    codes = np.repeat(np.random.default_rng(0).normal(size=(1, 6, 8)), 2, axis=0)
    first = model.synthesize(codes, jax.random.key(1))
    np.testing.assert_array_equal(first, model.synthesize(codes, jax.random.key(1)))
    assert np.abs(first - model.synthesize(codes, jax.random.key(2))).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_generator_alone(tmp_path):
    bundle.save_bundle(tmp_path / "g", "generator", {"generator": make_generator()})
    model = e4e_jax.load(tmp_path / "g")
    assert not hasattr(model, "encode")
    assert model.synthesize(np.zeros((1, 6, 8))).shape == (1, 16, 16, 3)


FEATURES = {
    "arcface": (ArcFace, ArcFaceConfig(BACKBONE, embedding_dim=5, image_size=32)),
    "moco": (MoCo, MoCoConfig(depths=(1, 1, 1, 1), width=4, image_size=32)),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_feature_networks_load_to_callables(tmp_path, kind):
    network_class, config = FEATURES[kind]
    network = make(lambda rngs: network_class(config, rngs=rngs))
    bundle.save_bundle(tmp_path / kind, kind, {kind: network})
    model = e4e_jax.load(tmp_path / kind)
    x = images(size=(32, 32))
    expected = nnx.jit(type(network).__call__)(network, x)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    assert_same_variables(bundle.load_network(tmp_path / kind), network)
    with pytest.raises(ValueError, match=r"images has shape \(32, 32, 3\); expected \[any, any,"):
        model(x[0])


def test_descriptions_of_older_versions(tmp_path):
    """ArcFace's backbone was called config; what a network had by default was left out."""
    for kind, described, config in (
        ("arcface", {"config": {"depths": [1, 1, 1, 1]}}, IRSEConfig(depths=(1, 1, 1, 1))),
        ("moco", {"depths": [1, 1, 1, 1]}, MoCoConfig(depths=(1, 1, 1, 1))),
        ("lpips", {"net": "squeeze"}, LPIPSConfig("squeeze")),
        ("inception", {}, InceptionConfig()),
    ):
        found = bundle._build(kind, described).config
        assert found == (ArcFaceConfig(config) if kind == "arcface" else config)


def test_compute_type_and_distance_of_two_images(tmp_path):
    network = make(lambda rngs: LPIPS(LPIPSConfig("squeeze"), rngs=rngs))
    bundle.save_bundle(tmp_path / "l", "lpips", {"lpips": network})
    a, b = images(0, (32, 32)), images(1, (32, 32))
    distance = e4e_jax.load(tmp_path / "l")(a, b)
    np.testing.assert_allclose(distance, nnx.jit(LPIPS.__call__)(network, a, b), rtol=1e-5)
    half = e4e_jax.load(tmp_path / "l", dtype="bfloat16").network
    assert half.trunk[0].dtype == jnp.bfloat16 and half.trunk[0].kernel.dtype == jnp.float32


def test_weights_that_a_mesh_holds(tmp_path):
    """What training has on four devices comes back on one."""
    generator = make_generator()
    graph, state = nnx.split(generator)
    replicated = nnx.merge(graph, parallel.replicate(state, parallel.make_mesh()))
    bundle.save_bundle(tmp_path / "b", "generator", {"generator": replicated})
    expected = [np.asarray(x) for x in jax.tree.leaves(state)]
    np.savez(tmp_path / "expected.npz", *expected)
    code = f"""
import sys
import e4e_jax
assert "jax" not in sys.modules and "orbax" not in sys.modules
model = e4e_jax.load({str(tmp_path / "b")!r})
import jax, numpy as np
from flax import nnx
assert len(jax.devices()) == 1, jax.devices()
expected = np.load({str(tmp_path / "expected.npz")!r}).values()
for a, b in zip(jax.tree.leaves(nnx.state(model.generator)), expected, strict=True):
    np.testing.assert_array_equal(a, b)
assert not {{"tensorflow", "torch", "tensorflow_datasets"}} & set(sys.modules)
"""
    environment = os.environ | {"XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)


def test_reading_writes_nothing_and_a_bundle_can_move(tmp_path):
    save_inverter(tmp_path / "b")
    shutil.move(tmp_path / "b", tmp_path / "elsewhere")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "elsewhere").rglob("*")}
    e4e_jax.load(tmp_path / "elsewhere")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "elsewhere").rglob("*")}


def test_no_larger_than_its_arrays(tmp_path):
    config = GeneratorConfig(16, 64, 64, 2, channel_base=1024, channel_max=64)
    generator = make(lambda rngs: Generator(config, rngs=rngs))
    bundle.save_bundle(tmp_path / "b", "generator", {"generator": generator})
    size = sum(path.stat().st_size for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert size <= sum(x.nbytes for x in jax.tree.leaves(nnx.state(generator)))


def test_shipped_names(monkeypatch, tmp_path):
    shipped = {"toy": tmp_path / "inverter", "toy/generator": tmp_path / "generator"}
    monkeypatch.setattr(bundle, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    bundle.save_bundle(tmp_path / "generator", "generator", {"generator": make_generator()})
    save_inverter(tmp_path / "inverter")
    assert e4e_jax.load("toy").image_size == (16, 32)
    assert e4e_jax.load("toy/generator").resolution == 16
    assert bundle.resolve("inverter") == str(tmp_path / "inverter")
    with pytest.raises(FileNotFoundError, match="toy/x is not .* ships: toy, toy/gen"):
        bundle.resolve("toy/x")
    with pytest.raises(FileNotFoundError, match="no x; `python -m convert_weights SRC x` makes"):
        bundle.resolve("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert bundle.resolve("~/inverter") == str(tmp_path / "inverter")


def test_one_network_of_several(tmp_path):
    encoder, _ = save_inverter(tmp_path / "b")
    assert_same_variables(bundle.load_network(tmp_path / "b", "encoder"), encoder)
    with pytest.raises(bundle.BundleError, match="b holds encoder, generator; .* a single network"):
        bundle.load_network(tmp_path / "b")
    with pytest.raises(bundle.BundleError, match="expected a bundle with moco"):
        bundle.load_network(tmp_path / "b", "moco")


def test_what_is_there_stays_unless_asked(tmp_path):
    path = tmp_path / "b"
    bundle.save_bundle(path, "generator", {"generator": make_generator(0)})
    with pytest.raises(FileExistsError, match="b exists already; choose another name or allow"):
        bundle.save_bundle(path, "generator", {"generator": make_generator(1)})
    assert_same_variables(bundle.load_network(path), make_generator(0))
    bundle.save_bundle(path, "generator", {"generator": make_generator(1)}, overwrite=True)
    assert_same_variables(bundle.load_network(path), make_generator(1))

    (tmp_path / "photographs").mkdir()
    with pytest.raises(FileExistsError, match="photographs exists already; it is no bundle"):
        bundle.save_bundle(
            tmp_path / "photographs", "generator", {"generator": make_generator()}, overwrite=True
        )
    assert sorted(os.listdir(tmp_path)) == ["b", "photographs"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, existing):
    path = tmp_path / "b"
    if existing:
        bundle.save_bundle(path, "generator", {"generator": make_generator(0)})
    (tmp_path / ".b.writing").mkdir()  # of an earlier process that was killed

    def full(folder, arrays):
        folder.mkdir()
        raise ValueError("Failed to write 7 bytes: No space left on device [os_error_code='28']")

    monkeypatch.setattr(bundle, "_write_arrays", full)
    with pytest.raises(OSError, match=r"b could not be written: No space left on device\.$"):
        bundle.save_bundle(path, "generator", {"generator": make_generator(1)}, overwrite=True)
    assert os.listdir(tmp_path) == (["b"] if existing else [])
    if existing:
        assert_same_variables(bundle.load_network(path), make_generator(0))


def test_wrong_modules_are_not_written(tmp_path):
    modules = {"generator": make_generator()}
    with pytest.raises(ValueError, match=r"kind 'gan' of generator .* inverter \(encoder, gen"):
        bundle.save_bundle(tmp_path / "b", "gan", modules)
    with pytest.raises(ValueError, match="kind 'inverter' of generator was asked for"):
        bundle.save_bundle(tmp_path / "b", "inverter", modules)
    moco = make(lambda rngs: MoCo(FEATURES["moco"][1], rngs=rngs))
    moco.config = MoCoConfig(width=4)
    with pytest.raises(ValueError, match="The moco is not what its config builds"):
        bundle.save_bundle(tmp_path / "b", "moco", {"moco": moco})
    assert not os.listdir(tmp_path)


def test_every_cut_is_one_sentence(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    generator = make_generator(resolution=8)
    bundle.save_bundle(whole, "generator", {"generator": generator})
    found = 0
    for file in [path for path in whole.rglob("*") if path.is_file()]:
        size = file.stat().st_size
        for left in [None, 0, size // 2, size - 1]:
            shutil.copytree(whole, cut)
            target = cut / file.relative_to(whole)
            if left is None:
                target.unlink()
            else:
                os.truncate(target, left)
            try:
                loaded = bundle.load_network(cut)
            except (ValueError, FileNotFoundError) as error:
                found += 1
                assert str(cut) in str(error) and "\n" not in str(error)
                assert len(str(error)) < 600 and str(error).endswith(".")
            else:  # a file that is not needed to read the arrays
                assert_same_variables(loaded, generator)
            shutil.rmtree(cut)
    assert found >= 10


def change(path, **fields):
    (path / "checksums.json").unlink(missing_ok=True)  # as of a bundle of an older version
    description = json.loads((path / "bundle.json").read_text()) | fields
    (path / "bundle.json").write_text(json.dumps(description))


def test_a_flipped_bit_is_noticed_in_every_file(tmp_path):
    path = tmp_path / "b"
    bundle.save_bundle(path, "generator", {"generator": make_generator(resolution=8)})
    files = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]
    assert len(files) >= 5
    for file in files:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) * 2 // 3] ^= 2
        file.write_bytes(flipped)
        with pytest.raises(bundle.BundleError) as error:
            bundle.load_bundle(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        file.write_bytes(content)
    assert_same_variables(bundle.load_network(path), make_generator(resolution=8))


def test_shipped_bundles_have_checksums():
    for name in ("inverter", "generator", "features"):
        path = pathlib.Path(bundle.resolve(f"toy/{name}"))
        checksums.check(path)
        listed = json.loads((path / "checksums.json").read_text())["sha256"]
        files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        assert {*listed, "checksums.json"} == files


def test_unfit_descriptions_are_one_sentence(tmp_path):
    path = tmp_path / "b"
    with pytest.raises(FileNotFoundError, match="there is no .*/b;"):
        e4e_jax.load(path)
    path.mkdir()
    (tmp_path / "e4e.pt").touch()
    with pytest.raises(bundle.BundleError, match="e4e.pt is a file and no bundle; .*convert_we"):
        bundle.load_bundle(tmp_path / "e4e.pt")
    with pytest.raises(bundle.BundleError, match=r"b is no bundle: it has no bundle\.json\.$"):
        e4e_jax.load(path)
    path.rmdir()
    bundle.save_bundle(path, "generator", {"generator": make_generator()})
    original = json.loads((path / "bundle.json").read_text())
    assert original["kind"] == "generator" and original["value_ranges"] == {"images": [-1, 1]}
    assert original["versions"]["e4e-jax"] == e4e_jax.__version__
    assert original["versions"]["jax"] == jax.__version__

    change(path, format=2)
    with pytest.raises(bundle.BundleError, match="is not of format 1"):
        e4e_jax.load(path)
    change(path, format=1, kind="gan")
    with pytest.raises(bundle.BundleError, match="names kind 'gan'; expected one of"):
        e4e_jax.load(path)
    config = original["networks"]["generator"]
    change(path, kind="generator", networks={"generator": config | {"resolutoin": 16}})
    with pytest.raises(bundle.BundleError, match="the generator cannot be built .*resolutoin"):
        e4e_jax.load(path)
    change(path, networks={"generator": config | {"w_dim": 4}})
    with pytest.raises(bundle.BundleError, match=r"does not fit its networks: generator/.*; expec"):
        e4e_jax.load(path)
    change(path, networks={"generator": config | {"mapping_layers": 3}})
    with pytest.raises(bundle.BundleError, match="damaged or of another version"):
        e4e_jax.load(path)


def test_wrong_inputs_are_one_sentence(tmp_path):
    save_inverter(tmp_path / "b")
    model = e4e_jax.load(tmp_path / "b")
    with pytest.raises(ValueError, match=r"images has shape \(2, 16, 16, 3\); expected \[any, 16"):
        model.encode(images(size=(16, 16)))
    with pytest.raises(ValueError, match=r"images are uint8; expected floats in \[-1, 1\]"):
        model.encode(np.zeros((1, 16, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(1, 5, 8\); expected \[any, 6, 8\]; broadcast\(w\)"):
        model.synthesize(np.zeros((1, 5, 8)))
    with pytest.raises(ValueError, match=r"z has shape \(8,\); expected \[any, 8\]"):
        model.map(np.zeros(8))
    bundle.save_bundle(
        tmp_path / "c",
        "inverter",
        {"encoder": make_encoder(num_styles=5), "generator": make_generator()},
    )
    with pytest.raises(ValueError, match=r"codes of shape \[B, 5, 8\]; its .* takes \[B, 6, 8\]"):
        e4e_jax.load(tmp_path / "c")


def test_half_precision_keeps_three_digits_in_half_the_size(tmp_path):
    encoder, generator = save_inverter(tmp_path / "full")
    save_inverter(tmp_path / "half", half=True)
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name / "arrays").rglob("*"))
        for name in ("full", "half")
    ]
    assert sizes[1] < 0.9 * sizes[0]  # of tiny networks, whose descriptions weigh most
    opened = bundle.load_bundle(tmp_path / "half").networks
    for name, network in (("encoder", encoder), ("generator", generator)):
        found, expected = nnx.state(opened[name]), nnx.state(network)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, np.asarray(b).astype(np.float16).astype(np.float32))
