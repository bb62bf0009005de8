"""Figures of sets of images: the numbers, and what they must not depend on."""

import contextlib
import csv
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import randomize, relative_error, run_two_processes

from e4e_jax import api
from e4e_jax.data.images import save_png, to_float, to_uint8
from e4e_jax.data.sources import ImageFolder
from e4e_jax.editing.edits import DirectionEdit
from e4e_jax.metrics import passes
from e4e_jax.metrics.cache import Cache
from e4e_jax.metrics.edits import NamedEdit
from e4e_jax.metrics.evaluation import Evaluation
from e4e_jax.metrics.fid import frechet_distance
from e4e_jax.metrics.inception_score import inception_score
from e4e_jax.metrics.kid import kernel_distance
from e4e_jax.metrics.metric import Subject, find_metric
from e4e_jax.metrics.precision_recall import precision_recall
from e4e_jax.metrics.registry import METRICS, Written, read_name
from e4e_jax.metrics.report import Figure, Report
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime.hosts import ALL_OF_IT, Share

SIZE = (32, 32)
PIXELS = 32 * 32 * 3
DIRECTION = np.array([0.3, 0, 0, 0.1], np.float32)
EDITS = tuple(NamedEdit(f"first={s:g}", DirectionEdit(DIRECTION), s) for s in (2.0, -1.0))


class Linear(nnx.Module):
    """tanh of a random linear map: [B, ...] -> [B, *shape]."""

    def __init__(self, size, shape, seed, scale=1.0):
        rng = np.random.default_rng(seed)
        kernel = rng.normal(size=(size, *shape)) * scale / np.sqrt(size)
        self.kernel = nnx.Param(jnp.asarray(kernel, jnp.float32))

    def __call__(self, x):
        return jnp.tanh(jnp.tensordot(x.reshape(x.shape[0], -1), self.kernel[...], 1))

    def pooled(self, images):
        return self(images)

    def class_logits(self, images):
        return 3 * self(images)

    def features(self, images):
        return self(images)

    def distance(self, a, b):
        return jnp.sum(jnp.square(a - b), axis=-1)


NETWORKS = {
    "encoder": Linear(PIXELS, (2, 4), 0, scale=4),
    "generator": Linear(8, (*SIZE, 3), 1),  # within [-1, 1] already
    "@inception": Linear(PIXELS, (5,), 2, scale=4),
    "@lpips_alex": Linear(PIXELS, (6,), 3, scale=4),
}
KEYS = {"@inception": "1", "@lpips_alex": "2"}


def write_images(folder, count=10, seed=0, extension="png"):
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)
    for i, image in enumerate(images):
        save_png(folder / f"{i:03}.png", image)
        (folder / f"{i:03}.png").rename(folder / f"{i:03}.{extension}")
    return images


def inversions(source, batch_size, share=None):
    return passes.inversion_pass(
        source,
        lambda networks, images: networks["encoder"](images),
        lambda networks, codes: networks["generator"](codes),
        image_size=SIZE,
        batch_size=batch_size,
        model_key="model",
        share=share or Share.of_this_host(),
    )


class Bar:
    """Counts the batches that a progress bar is told of."""

    def __init__(self):
        self.total, self.done = 0, []

    @contextlib.contextmanager
    def __call__(self, total, batch_size):
        self.total += total
        yield self

    def update(self, done):
        self.done.append(done)


def prepare(names, ways, folder=None, keys=KEYS, bar=None):
    inverter = types.SimpleNamespace(encode=None, generator=None, latent_avg=np.zeros((2, 4)))
    return Evaluation(
        [find_metric(name) for name in names],
        Subject(inverter, find_edits=lambda: EDITS),
        ways,
        NETWORKS,
        network_keys=keys,
        cache=Cache(folder),
        progress=bar or Bar(),
    )


def measure(*args, **options):
    return prepare(*args, **options).measure()


ALL = ("l2", "lpips", "fid", "kid", "pr", "swd", "lec", "fid6", "kid6_full", "is", "psnr",
       "fid_edited")  # fmt: skip


def test_figures_of_inversions_are_those_of_the_arrays(tmp_path):
    images = to_float(write_images(tmp_path / "a"))
    with jax.default_matmul_precision("highest"):
        got = measure(ALL, [inversions(ImageFolder(tmp_path / "a"), 4)])
        codes = NETWORKS["encoder"](images)
        inverted = np.clip(NETWORKS["generator"](codes), -1, 1)
        features = [np.float64(NETWORKS["@inception"](x)) for x in (images, inverted)]
        distances = NETWORKS["@lpips_alex"].features(images), NETWORKS["@lpips_alex"](inverted)
    per_image = got.per_image
    assert got["l2"] == pytest.approx(np.mean((images - inverted) ** 2), rel=1e-5)
    lpips = np.sum((distances[0] - distances[1]) ** 2, axis=-1)
    assert relative_error(per_image["lpips"], lpips) < 1e-4
    step = 2 * DIRECTION
    for code, distance in zip(codes, per_image["lec first=2"], strict=True):
        image = NETWORKS["generator"]((code + step)[None])
        back = NETWORKS["encoder"](image)[0] - step
        assert distance == pytest.approx(np.sqrt(np.sum((back - code) ** 2)), rel=1e-4)
    for edit in EDITS:
        edited = np.clip(NETWORKS["generator"](codes + edit.strength * DIRECTION), -1, 1)
        vectors = np.float64(NETWORKS["@inception"](edited))
        parts = [
            f(x)
            for x in (features[0], vectors)
            for f in (lambda x: x.mean(0), lambda x: np.cov(x.T))
        ]
        assert got[f"fid_edited {edit.name}"] == pytest.approx(frechet_distance(*parts), rel=1e-3)
    probabilities = jax.nn.softmax(NETWORKS["@inception"].class_logits(inverted))
    score = inception_score(probabilities)
    assert (got["is"], got["is deviation"]) == pytest.approx(score, rel=1e-4)
    real, fake = features
    for name, n in (("fid", 10), ("fid6", 6)):
        statistics = [
            f(x[:n]) for x in features for f in (lambda x: x.mean(0), lambda x: np.cov(x.T))
        ]
        assert got[name] == pytest.approx(frechet_distance(*statistics), rel=1e-4)
    assert got["kid"] == pytest.approx(kernel_distance(real, fake), rel=1e-4)
    assert got["kid6_full"] == pytest.approx(kernel_distance(real, fake[:6]), rel=1e-4)
    assert (got["pr precision"], got["pr recall"]) == precision_recall(real, fake)
    assert got["swd"] == pytest.approx(np.mean([got["swd level 0"], got["swd level 1"]]))

    counts = {f.name: (f.images, f.references) for f in got.figures}
    assert counts["l2"] == (10, None) and counts["fid"] == (10, 10)
    assert counts["fid6"] == (6, 6) and counts["kid6_full"] == (6, 10)
    labels = {f.name: f.features for f in got.figures}
    assert labels["lpips"] == "LPIPS 0.1 (AlexNet), 32x32" and labels["l2"] == "pixels, 32x32"
    assert got.images == [f"{i:03}.png" for i in range(10)]
    assert set(per_image) == {"l2", "lpips", "psnr", "lec first=2", "lec first=-1"}
    assert got["l2"] == pytest.approx(np.mean(per_image["l2"]), rel=1e-6)


def test_numbers_do_not_depend_on_batches_and_devices(tmp_path, monkeypatch):
    write_images(tmp_path / "a")
    source = ImageFolder(tmp_path / "a")
    results = []
    devices = jax.local_devices()
    assert len(devices) == 4
    for number, batch_size in ((4, 4), (4, 16), (1, 3)):
        monkeypatch.setattr(jax, "local_devices", lambda n=number: devices[:n])
        results.append(measure(ALL, [inversions(source, batch_size)]))
    for got in results[1:]:
        for name, value in results[0].items():
            assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
        for name, rows in results[0].per_image.items():
            assert relative_error(got.per_image[name], rows) < 1e-5


def test_a_set_against_itself(tmp_path):
    write_images(tmp_path / "a")
    source = ImageFolder(tmp_path / "a")
    common = {"image_size": SIZE, "batch_size": 4}
    ways = [
        passes.image_pass(source, "reference", **common),
        passes.image_pass(source, "measured", **common),
        passes.pair_pass(source, source, **common),
    ]
    got = measure(("l2", "ms_ssim", "lpips", "fid", "kid", "pr", "swd"), ways)
    # Both sides turn bytes into floats; a compiler may round one of them once less.
    assert got["l2"] < 1e-12 and got["lpips"] < 1e-10 and got["swd"] < 1e-5
    assert got["ms_ssim"] == pytest.approx(1.0, abs=1e-6)
    assert got["fid"] < 1e-6 and got["pr precision"] == got["pr recall"] == 1.0


def test_measuring_a_model_is_measuring_what_it_wrote(tmp_path):
    images = write_images(tmp_path / "a")
    source = ImageFolder(tmp_path / "a")
    names = ("l2", "lpips", "fid", "swd")
    found = measure(names, [inversions(source, 8)])
    (tmp_path / "b").mkdir()
    inverted = NETWORKS["generator"](NETWORKS["encoder"](to_float(images)))
    for i, image in enumerate(np.asarray(inverted)):
        save_png(tmp_path / "b" / f"{i:03}.png", to_uint8(image))
    written = ImageFolder(tmp_path / "b")
    common = {"image_size": SIZE, "batch_size": 4}
    ways = [
        passes.image_pass(source, "reference", **common),
        passes.image_pass(written, "measured", **common),
        passes.pair_pass(source, written, **common),
    ]
    for name, value in measure(names, ways).items():
        # Files are rounded to 8 bits.
        assert found[name] == pytest.approx(value, rel=5e-3), name


def test_samples_of_a_generator(tmp_path):
    images = to_float(write_images(tmp_path / "a"))
    common = {"image_size": SIZE, "batch_size": 8}
    ways = [
        passes.image_pass(ImageFolder(tmp_path / "a"), "reference", **common),
        passes.sample_pass(
            lambda networks, z: z, lambda networks, w: networks["generator"](w), 25,
            z_dim=8, model_key="m", **common,
        ),
    ]  # fmt: skip
    found = measure(("fid25_full", "kid"), ways)
    z = np.stack(
        [jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (8,)) for i in range(25)]
    )
    samples = np.clip(NETWORKS["generator"](z), -1, 1)
    real, fake = (np.float64(NETWORKS["@inception"](x)) for x in (images, samples))
    expected = frechet_distance(real.mean(0), np.cov(real.T), fake.mean(0), np.cov(fake.T))
    assert found["fid25_full"] == pytest.approx(expected, rel=1e-4)
    counts = (found.figures[0].images, found.figures[0].references)
    assert counts == (25, 10) and not found.per_image
    with pytest.raises(ValueError, match="l2 needs pairs; the images at hand give latents, meas"):
        measure(("l2",), ways)
    with pytest.raises(ValueError, match="fid30_full asks for 30 images; there are 25"):
        measure(("fid30_full",), ways)


def test_the_cache_is_used_and_never_stale(tmp_path):
    write_images(tmp_path / "a")
    cache = tmp_path / "cache"

    def run(names=ALL, keys=KEYS):
        bar = Bar()
        found = measure(names, [inversions(ImageFolder(tmp_path / "a"), 4)], cache, keys, bar)
        return dict(found), found.per_image, bar.total

    without_patches = tuple(name for name in ALL if name != "swd")
    first, rows, batches = run(without_patches)
    assert batches == 3
    again, same_rows, batches = run(without_patches)
    assert batches == 0 and again == first
    assert all(np.array_equal(rows[name], same_rows[name]) for name in rows)
    assert run(("l2", "swd"))[2] == 3  # patches are too many to be kept
    assert run(("l2", "lpips"), KEYS | {"@lpips_alex": "another"})[2] == 3
    assert run(("fid7",))[2] == 2  # other sums; two batches of four hold seven images

    for file in cache.iterdir():  # damaged files are computed again
        file.write_bytes(file.read_bytes()[:100])
    assert run(("l2",)) == (
        pytest.approx({"l2": first["l2"]}),
        {"l2": pytest.approx(rows["l2"])},
        3,
    )
    write_images(tmp_path / "a", seed=1)
    changed, _, batches = run(("l2", "fid"))
    assert batches == 3 and changed["l2"] != first["l2"]


def test_cache_on_a_disk_that_takes_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    Cache(tmp_path / "file").put("key", {"x": np.zeros(1)})
    assert "was not written" in caplog.text
    assert Cache(tmp_path / "file").get("key") is None and Cache(None).get("key") is None


def test_pairs_are_found_by_name(tmp_path):
    write_images(tmp_path / "a", 5)
    write_images(tmp_path / "b", 7, seed=1, extension="webp")
    (tmp_path / "a" / "001.png").rename(tmp_path / "a" / "other.png")
    a, b = ImageFolder(tmp_path / "a"), ImageFolder(tmp_path / "b")
    common = {"image_size": SIZE, "batch_size": 4}
    with pytest.raises(ValueError) as error:
        passes.pair_pass(a, b, **common)
    for name in ("a: other.png", "b: 001.webp, 005.webp, 006.webp", "--allow_unmatched"):
        assert name in str(error.value)
    way = passes.pair_pass(a, b, allow_unmatched=True, **common)
    assert way.names == ["000.png", "002.png", "003.png", "004.png"]
    found = measure(("l2",), [way])
    for name, value in zip(way.names, found.per_image["l2"], strict=True):
        x, y = a[a.names.index(name)], b[b.names.index(name.replace("png", "webp"))]
        assert value == pytest.approx(np.mean((to_float(x) - to_float(y)) ** 2), rel=1e-5)

    (tmp_path / "a" / "003.jpg").write_bytes((tmp_path / "a" / "003.png").read_bytes())
    with pytest.raises(ValueError, match="003.jpg and 003.png; expected names that differ in more"):
        passes.pair_pass(ImageFolder(tmp_path / "a"), b, **common)


def test_names_of_metrics():
    assert read_name("fid50k_full") == Written("fid50k_full", "fid", None, 50_000, None)
    name = "kid2500@toy/features"
    assert read_name(name) == Written(name, "kid", "toy/features", 2500, 2500)
    assert read_name("ms_ssim") == Written("ms_ssim", "ms_ssim")
    own = f"{__name__}:Linear@x"
    assert read_name(own) == Written(own, f"{__name__}:Linear", "x")
    for name in ("fld", "fid0", "fid50m", "l2_full", "", "fid-1"):
        with pytest.raises(ValueError, match=f"no metric '{name}'.*; expected one of l2, "):
            find_metric(name)
    for name, message in (
        ("lpips50k", "asks for a number of images, which lpips does not take; expected lpips,"),
        ("l2@toy/features", "names a network and l2 measures without one."),
        ("perceptual", "does not say which network measures; expected perceptual@NETWORK, such"),
        ("fid@", "names no network; expected one, as in fid@inception."),
        ("fid20000k", "asks for 20,000,000 images; expected at most 10,000,000."),
        (f"{__name__}:Linear", "is no object with columns, figures, per_image, network, "),
        (f"{__name__}:measure", "is no object with columns, figures, per_image, network, "),
        ("no.such:metric", "cannot be imported: ModuleNotFoundError: No module named 'no'"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            find_metric(name)


def test_every_metric_is_one():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name in METRICS:
        assert f"`{name}`" in page, name
        metric = METRICS[name]
        assert find_metric(name if metric.network or not metric.method else f"{name}@x")
        assert metric.features or metric.method, name


def test_files_of_figures(tmp_path):
    found = (
        Figure("fid10", 1.5, 10, 20, "features, 8x8"),
        Figure("factors yaw", float("nan"), 10, None, "toy/features"),
    )
    rows = {"l2": np.array([0.25, 1 / 3], np.float32)}
    report = Report(found, rows, ["a, b.png", "c.png"])
    lines = str(report).splitlines()
    assert lines[1].split() == ["fid10", "1.5000", "10", "against", "20", "features,", "8x8"]
    assert report["fid10"] == 1.5 and list(report) == ["fid10", "factors yaw"]
    with pytest.raises(KeyError):
        report["fid"]
    out = tmp_path / "out"
    assert report.write(out, images="x") == [str(out / "metrics.json"), str(out / "images.csv")]
    read = json.loads((out / "metrics.json").read_text())
    assert read["images"] == "x" and [f["value"] for f in read["figures"]] == [1.5, None]
    with open(out / "images.csv", newline="") as file:
        first, second, third = csv.reader(file)
    assert first == ["image", "l2"] and second == ["a, b.png", "0.25"]
    assert np.float32(third[1]) == rows["l2"][1]  # nothing is lost
    assert sorted(p.name for p in out.iterdir()) == ["images.csv", "metrics.json"]


def random_network(build):
    """Random numbers in a network whose initialisers are not compiled."""
    graph, state = nnx.split(nnx.eval_shape(build))
    network = randomize(nnx.merge(graph, jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state)))
    network.eval()
    return network


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param({"around_average": False}, marks=pytest.mark.slow),
        {"iterative": True, "coarse": 10, "middle": 10},
    ],
    ids=["e4e", "without average", "iterative"],
)
def test_inversion_is_that_of_the_model(fields):
    """The traceable form for many devices, and the model's methods."""
    channels = 6 if fields.get("iterative") else 3
    config = EncoderConfig(
        **{"num_styles": 10, "style_dim": 16, "coarse": 3, "middle": 7, "image_size": (16, 32)}
        | {"backbone": IRSEConfig((4, 4, 8, 8), (1, 1, 1, 1), channels, 2)}
        | fields
    )
    generator = GeneratorConfig(64, 8, 16, 2, channel_base=128, channel_max=4)
    inverter = api.Inverter(
        random_network(lambda: Encoder(config, rngs=nnx.Rngs(0))),
        random_network(lambda: Generator(generator, rngs=nnx.Rngs(0))),
    )
    encode, synthesize = passes.inversion_functions(inverter)
    networks = {"encoder": inverter.encoder, "generator": inverter.generator}
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 3)).astype(np.float32)
    codes = nnx.jit(encode)(networks, images)
    assert relative_error(codes, inverter.encode(images)) < 1e-5
    whole = np.asarray(inverter.synthesize(codes))
    pooled = whole.reshape(2, 32, 2, 32, 2, 3).mean(axis=(2, 4))[:, 8:24]
    assert relative_error(nnx.jit(synthesize)(networks, codes), pooled) < 1e-5


def test_the_first_images_alone_and_other_weights_need_no_other_program(tmp_path):
    """As training's validation and its first picture have it."""
    write_images(tmp_path / "a")
    ready = prepare(("l2", "kid"), [inversions(ImageFolder(tmp_path / "a"), 4, ALL_OF_IT)])
    whole = ready.measure()
    (program,) = ready._columns._programs.values()
    other = Linear(PIXELS, (2, 4), seed=9)
    first = ready.measure({"encoder": other}, count=3)
    np.testing.assert_array_equal(
        first.per_image["l2"], ready.measure({"encoder": other}).per_image["l2"][:3]
    )
    assert [figure.images for figure in first.figures] == [3, 3]
    assert np.abs(first.per_image["l2"] - whole.per_image["l2"][:3]).max() > 1e-3
    assert program._cache_size() == 1


TWO_HOSTS = """
import json, pathlib
sys.path.insert(0, str(pathlib.Path(conftest.__file__).parent / "metrics"))
import jax
import test_evaluation as t
assert jax.process_count() == 2 and jax.device_count() == 4
source = t.ImageFolder(sys.argv[1])
for _ in range(2):  # the second time from the cache
    bar = t.Bar()
    found = t.measure(t.ALL, [t.inversions(source, 8)], sys.argv[2], bar=bar)
if jax.process_index() == 0:
    alone = t.measure(t.ALL, [t.inversions(source, 8, t.ALL_OF_IT)])  # the other one is not asked
    assert all(abs(alone[n] - value) <= 1e-5 * abs(value) + 1e-9 for n, value in found.items())
    rows = {name: values.tolist() for name, values in found.per_image.items()}
    print(json.dumps([dict(found), rows]))
"""


@pytest.mark.slow
def test_two_hosts_give_the_numbers_of_one(tmp_path):
    write_images(tmp_path / "a")
    output, _ = run_two_processes(TWO_HOSTS, str(tmp_path / "a"), str(tmp_path / "cache"))
    got, rows = json.loads(output.splitlines()[-1])
    found = measure(ALL, [inversions(ImageFolder(tmp_path / "a"), 8)])
    for name, value in found.items():
        assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
    for name, expected in found.per_image.items():
        assert relative_error(rows[name], expected) < 1e-5
