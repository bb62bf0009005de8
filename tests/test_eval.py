"""The program eval.py on tiny models: what it prints and writes, and what it says of bad input."""

import contextlib
import csv
import dataclasses
import importlib
import json
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from flax import nnx

import e4e_jax
from e4e_jax import api, bundle
from e4e_jax.data import pipeline  # noqa: F401 - Grain's flags must be there to be kept
from e4e_jax.data.images import save_png, to_float
from e4e_jax.data.sources import open_images
from e4e_jax.inversion.contract import Inverted
from e4e_jax.inversion.folder import invert_folder
from e4e_jax.metrics.fid import frechet_distance
from e4e_jax.metrics.metric import PairMetric
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.inception import Inception, InceptionConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.lpips import LPIPS, LPIPSConfig
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.toy.faces import FACTORS

program = importlib.import_module("eval")
BACKBONE = IRSEConfig(widths=(4, 4, 8, 8), depths=(1, 1, 1, 1), squeeze_reduction=2)
BRIEF = ["l2", "id@toy/features", "fid@toy/features", "factors@toy/features"]
TOY = ["--config=configs/toy.py"]  # the default's fields can be set when the program starts only


def make(build):
    """A network of random numbers, without compiling its initialisers."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(0)

    def draw(path, x):
        variance = "var" in jax.tree_util.keystr(path)
        numbers = rng.uniform(0.5, 1.5, x.shape) if variance else 0.1 * rng.normal(size=x.shape)
        return jnp.asarray(numbers, x.dtype)

    network = nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))
    network.eval()
    return network


@pytest.fixture(scope="module")
def inverter(tmp_path_factory):
    """A bundle of the toy inverter's sizes outside, and next to nothing inside."""
    encoder = EncoderConfig(
        num_styles=10, style_dim=64, image_size=(64, 64), backbone=BACKBONE, coarse=3, middle=7
    )
    generator = GeneratorConfig(64, 8, 64, 2, channel_base=256, channel_max=4)
    networks = {
        "encoder": make(lambda: Encoder(encoder, rngs=nnx.Rngs(0))),
        "generator": make(lambda: Generator(generator, rngs=nnx.Rngs(0))),
    }
    path = tmp_path_factory.mktemp("run") / "bundle"
    bundle.save_bundle(path, "inverter", networks)
    return path


def run(capsys, tmp_path, *arguments):
    """Runs eval.py in this process -> (exit code, standard output, standard error)."""
    given = ["eval.py", f"--out={tmp_path / 'out'}", f"--cache={tmp_path / 'cache'}", *arguments]
    code = 0
    capsys.readouterr()
    # config_flags looks for its fields in sys.argv.
    with flagsaver.flagsaver(), mock.patch.object(sys, "argv", given):
        try:
            program.parse_flags(given)
            program.main(given[:1])
        except SystemExit as end:
            code = end.code
    output = capsys.readouterr()
    return code, output.out, output.err


def write_images(folder, seed, count=6, size=32):
    folder.mkdir()
    for i, image in enumerate(
        np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    ):
        save_png(folder / f"{i}.png", image)
    return folder


@pytest.mark.parametrize(
    "given",
    [[f"--metrics={','.join(BRIEF)}"], pytest.param([], marks=pytest.mark.slow)],
)
def test_held_out_toy_faces(capsys, tmp_path, inverter, given):
    arguments = (f"--checkpoint={inverter}", *TOY, "--config.data.num_validation=10")
    code, output, errors = run(capsys, tmp_path, *arguments, "--batch_size=4", *given)
    assert code == 0, errors
    assert "10/12" not in errors and "3/3" in errors  # batches
    table = {line.split("  ")[0]: line for line in output.splitlines()[1:]}
    read = json.loads((tmp_path / "out" / "metrics.json").read_text())
    figures = {figure["name"]: figure for figure in read["figures"]}
    assert set(figures) <= set(table)
    expected = {*BRIEF[:3]} | {f"{BRIEF[3]} {name}" for name in FACTORS}
    if not given:  # all that are measured by default
        expected |= {"ms_ssim", "perceptual@toy/features", "swd"}
        expected |= {f"swd level {i}" for i in range(3)}
        expected |= {"lec smile=1", "lec glasses=1", "lec age=0.6"}
        expected |= {f"time {part}, s" for part in ("encoder", "synthesis", "inversion")}
    assert set(figures) == expected
    for name, figure in figures.items():
        assert ("toy/features, 64x64" in figure["features"]) == ("@" in name)
        assert np.isfinite(figure["value"]) and figure["features"] in table[name]
        assert figure["images"] == (1 if name.startswith("time") else 10)
    with open(tmp_path / "out" / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and {"image", *BRIEF[:2]} <= set(rows[0])
    assert figures["l2"]["value"] == pytest.approx(np.mean([float(r["l2"]) for r in rows]))

    code, output, errors = run(capsys, tmp_path, *arguments, f"--metrics={','.join(BRIEF)}")
    assert code == 0 and "/3" not in errors  # nothing was computed
    again = json.loads((tmp_path / "out" / "metrics.json").read_text())["figures"]
    assert again == [figures[figure["name"]] for figure in again] and len(again) == 14


@pytest.mark.slow
def test_edits_of_lec(capsys, tmp_path, inverter):
    arguments = (f"--checkpoint={inverter}", *TOY, "--config.data.num_validation=5")
    edits = ("--metrics=lec", "--edits=yaw@2-3=-1,0.5 sefa_0=2")
    code, output, errors = run(capsys, tmp_path, *arguments, *edits)
    assert code == 0, errors
    names = [line.split("  ")[0] for line in output.splitlines()[1:4]]
    assert names == ["lec yaw@2-3=-1", "lec yaw@2-3=0.5", "lec sefa_0=2"]
    header = (tmp_path / "out" / "images.csv").read_text().splitlines()[0]
    assert header == "image," + ",".join(names)


def test_generator_and_work_directory(capsys, tmp_path, inverter):
    networks = {"generator": bundle.load_network(inverter, "generator")}
    bundle.save_bundle(tmp_path / "run" / "bundle", "generator", networks)
    (tmp_path / "run" / "checkpoints").mkdir()
    arguments = (f"--checkpoint={tmp_path / 'run'}", *TOY, "--config.data.num_validation=6")
    code, output, errors = run(
        capsys, tmp_path, *arguments, "--metrics=fid8_full@toy/features,pr@toy/features"
    )
    assert code == 0, errors
    assert "8 against 6" in output and "pr@toy/features recall" in output
    code, _, errors = run(capsys, tmp_path, *arguments, "--metrics=lec")
    assert (code, errors) == (1, "eval.py: lec needs an encoder and its generator (an inverter).\n")
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    code, _, errors = run(capsys, tmp_path, f"--checkpoint={tmp_path / 'unfinished'}")
    assert code == 1 and "unfinished has no config.json, which train.py writes" in errors
    for step, words in (("5", "run has no config.json"), ("-1", "is not a non-negative integer")):
        code, _, errors = run(capsys, tmp_path, arguments[0], f"--step={step}")
        assert code == 1 and words in errors and len(errors.splitlines()) == 1


def test_two_folders(capsys, tmp_path):
    a, b = write_images(tmp_path / "a", 0), write_images(tmp_path / "b", 1)
    folders = (f"--images={a}", f"--against={b}", "--metrics=l2")
    code, output, errors = run(capsys, tmp_path, *folders)
    assert code == 0, errors
    assert "pixels, 32x32" in output
    code, output, errors = run(capsys, tmp_path, *folders, "--size=16,24", "--batch_size=100")
    assert code == 0 and "pixels, 16x24" in output

    code, output, errors = run(capsys, tmp_path, *folders[:2], "--metrics=time")
    assert code == 1 and "time needs a model; here images are compared alone" in errors
    patterns = (f"--images={a}/*.png", f"--against={b}/[0-9].png", "--metrics=l2")
    assert run(capsys, tmp_path, *patterns)[0] == 0

    save_png(a / "more.png", np.zeros((32, 32, 3), np.uint8))
    code, _, errors = run(capsys, tmp_path, *folders)
    assert code == 1 and "a: more.png" in errors and len(errors.splitlines()) == 1
    code, output, _ = run(capsys, tmp_path, *folders[:2], "--metrics=l2,swd", "--allow_unmatched")
    assert code == 0 and "6  pixels, 32x32" in output
    assert "7 against 6  7x7 patches, 32x32" in output

    save_png(a / "0.png", np.zeros((16, 32, 3), np.uint8))
    code, _, errors = run(capsys, tmp_path, *folders, "--allow_unmatched")
    assert code == 1 and "0.png is 16x32 pixels; expected 32x32" in errors
    (a / "0.png").write_bytes(b"no image")
    code, _, errors = run(capsys, tmp_path, *folders, "--allow_unmatched")
    assert code == 1 and "0.png cannot be decoded" in errors and "max_bad" not in errors


def test_a_folder_of_inversions(capsys, tmp_path):
    """Each is compared with its input, whatever its file is called; the sheet is none of them."""
    faces, out = tmp_path / "faces", tmp_path / "inversions"
    write_images(faces, 0)
    for old, new in (("0", "grid"), ("1", "x"), ("2", "x.jpg")):
        (faces / f"{old}.png").rename(faces / f"{new}.png")
    (faces / "3.png").rename(faces / "x.bmp")
    invert_folder(
        lambda images: Inverted(jnp.ones((len(images), 3, 2)), images), open_images(faces), out,
        image_size=(32, 32), batch_size=4, settings={},
    )  # fmt: skip
    for pair in ((out, faces), (faces, out)):
        arguments = (f"--images={pair[0]}", f"--against={pair[1]}", "--metrics=l2,swd")
        code, output, errors = run(capsys, tmp_path, *arguments)
        assert code == 0, errors
        figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["figures"]
        assert all((f["value"], f["images"]) == (0.0, 6) for f in figures)
    save_png(out / "stray.png", np.zeros((32, 32, 3), np.uint8))
    code, _, errors = run(capsys, tmp_path, *arguments)
    assert code == 1 and "inversions: stray.png" in errors and len(errors.splitlines()) == 1


@pytest.mark.slow
def test_networks_that_were_converted(capsys, tmp_path):
    """Each as its bundle holds it, with random numbers; the faces' backbones are tiny."""
    face = ArcFaceConfig(BACKBONE, embedding_dim=8)
    networks = {
        "lpips_alex": ("lpips", lambda: LPIPS(LPIPSConfig(), rngs=nnx.Rngs(0))),
        "ir_se50": ("arcface", lambda: ArcFace(face, rngs=nnx.Rngs(0))),
        "curricularface": ("arcface", lambda: ArcFace(face, rngs=nnx.Rngs(0))),
        "inception": ("inception", lambda: Inception(InceptionConfig(75), rngs=nnx.Rngs(0))),
    }
    for name, (kind, build) in networks.items():
        bundle.save_bundle(tmp_path / name, kind, {kind: make(build)})
    a, b = write_images(tmp_path / "a", 0), write_images(tmp_path / "b", 1)
    arguments = (f"--images={a}", f"--against={b}", f"--networks={tmp_path}")
    metrics = "--metrics=lpips,id,id@curricularface,fid,kid,pr"
    code, output, errors = run(capsys, tmp_path, *arguments, metrics)
    assert code == 0, errors
    for label in (
        "LPIPS 0.1 (AlexNet), 32x32",
        "ArcFace IR-SE-50, 32x32",
        "Inception v3 (2015-12-05)",
    ):
        assert label in output
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["figures"]
    assert len(figures) == 7 and all(np.isfinite(figure["value"]) for figure in figures)

    (tmp_path / "inception").rename(tmp_path / "lpips_vgg")  # of another kind
    code, _, errors = run(capsys, tmp_path, *arguments, "--metrics=lpips@lpips_vgg")
    assert code == 1 and "lpips_vgg holds inception; expected a bundle with lpips" in errors


def test_a_network_that_is_not_there(capsys, tmp_path, inverter):
    metrics = "--metrics=fid,kid,lpips,id@curricularface"
    code, output, errors = run(capsys, tmp_path, f"--checkpoint={inverter}", metrics)
    assert code == 1 and not output
    lines = errors.splitlines()
    assert len(lines) == 3 and all(
        line.startswith("eval.py: there is no bundles/") for line in lines
    )
    for file in ("pt_inception-2015-12-05-6726825d.pth", "alexnet-owt-7be5be79.pth alex.pth"):
        assert f"python -m convert_weights {file} bundles/" in errors
    assert "https://github.com/mseitzer/pytorch-fid/releases" in errors
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out=eval.py"], "--out is eval.py, which is no folder"),
        (["--metrics=l2,sharpness"], "there is no metric 'sharpness'; expected one of l2, "),
        (["--metrics=id@toy/generator"], "needs a network with a method embed; toy/generator has"),
        (["--metrics=fid@no/bundle"], "there is no no/bundle; "),
        (["--checkpoint=nothing"], "there is no nothing; "),
        (
            ["--checkpoint=toy/features"],
            "is a feature network; expected an inverter or a generator",
        ),
        (
            ["--images=nowhere", "--metrics=l2"],
            "there are no images at nowhere, a folder, file or pattern",
        ),
        (["--against=tests", "--metrics=l2"], "expected --images beside it and no --checkpoint"),
        (["--batch_size=0"], "batch_size"),
        (["--batch_size=99999999999"], "batch_size"),
        (["--metrics=fid99999999"], "asks for 99,999,999 images; expected at most 10,000,000"),
        ([*TOY, "--config.log_every=0"], "config.log_every is 0; expected a whole number from 1"),
        (
            [*TOY, "--config.evaluation.metrics=('l2', 'sharpness')"],
            "config.evaluation.metrics is ('l2', 'sharpness'); expected a tuple of up to 100",
        ),
        ([*TOY, "--config.data.image_size=64"], "config.data.image_size is (64,); expected a tup"),
        (
            ["--config=configs/toy_generator.py", "--metrics=lec"],
            "lec needs edits, and there are none; expected some as in smile=1",
        ),
        (["--checkpiont=x"], "Unknown command line flag 'checkpiont'"),
        (
            [*TOY, "--config.edits.shown=(('grin', 1.0),)", "--metrics=lec"],
            "there is no direction grin; expected one of yaw, ",
        ),
        (["--config=configs/ffhq.py", "--metrics=l2"], "data/celeba_hq_test does not exist"),
    ],
)
def test_bad_input_is_said_in_one_sentence(capsys, tmp_path, inverter, arguments, message):
    if not any(a.startswith(("--checkpoint", "--against")) for a in arguments):
        arguments = [f"--checkpoint={inverter}", *arguments]
    code, output, errors = run(capsys, tmp_path, *arguments)
    assert code == 1 and message in errors and not output
    assert len(errors.splitlines()) == 1 and errors.startswith("eval.py: ")


def test_a_set_of_one_image_is_named(capsys, tmp_path):
    one, more = (write_images(tmp_path / n, 0, count=c, size=64) for n, c in (("a", 1), ("b", 3)))
    for metric, folder, least in (("fid", one, 2), ("kid", one, 2), ("pr", more, 4)):
        metric += "@toy/features"
        arguments = (f"--images={more}", f"--against={folder}", f"--metrics={metric}")
        code, _, errors = run(capsys, tmp_path, *arguments)
        assert code == 1
        assert errors == (
            f"eval.py: {metric} needs at least {least} images; it has "
            f"{len(list(folder.iterdir()))} of {folder}.\n"
        )
    for size in ("0,64", "64", "\u00b2,64", "99999,64"):
        code, _, errors = run(capsys, tmp_path, *arguments, f"--size={size}")
        assert code == 1 and f"--size is {size}; expected height,width" in errors


def test_without_arguments_and_without_the_shipped_inverter(capsys, tmp_path, monkeypatch):
    shipped = {"toy": str(tmp_path / "gone"), "toy/features": bundle.resolve("toy/features")}
    monkeypatch.setattr(bundle, "SHIPPED", shipped)
    code, _, errors = run(capsys, tmp_path)
    assert (code, errors) == (
        1, "eval.py: toy is not among what the package ships: toy/features.\n",
    )  # fmt: skip


def test_a_class_conditional_generator_is_measured_on_one_class(capsys, tmp_path):
    config = GeneratorConfig(16, 8, 8, 2, channel_base=64, channel_max=4, num_classes=3)
    generator = make(lambda: Generator(config, rngs=nnx.Rngs(0)))
    bundle.save_bundle(tmp_path / "b", "generator", {"generator": generator})
    write_images(tmp_path / "images", 0, size=16)
    arguments = [
        f"--checkpoint={tmp_path}/b", f"--images={tmp_path}/images", "--metrics=swd", "--class"
    ]  # fmt: skip
    code, _, errors = run(capsys, tmp_path, *arguments[:-1])
    assert (
        code == 1
        and "the generator draws one of 3 classes; expected the number of one, 0 to 2" in errors
    )
    code, _, errors = run(capsys, tmp_path, *arguments, "3")
    assert code == 1 and "class 3 is asked for and the generator has 3 classes" in errors
    found = set()
    for label in ("0", "2"):  # and the cache keeps them apart
        code, _, errors = run(capsys, tmp_path, *arguments, label)
        assert code == 0, errors
        found.add((tmp_path / "out" / "metrics.json").read_text())
    assert len(found) == 2


class Seen(nnx.Module):
    """Features of some of the pixels, for sets, for distances and for factors."""

    def __call__(self, images):
        return self.pooled(images)

    def pooled(self, images):
        return images[:, 1::8, 1::8].reshape(len(images), -1)

    def features(self, images):
        return images[:, ::2, ::2]

    def distance(self, a, b):
        return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Noise:
    """A source of nine images that is its own description, for the cache."""

    seed: int

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return np.random.default_rng([self.seed, index]).integers(0, 256, (16, 16, 3), np.uint8)


DARKER = PairMetric(lambda a, b: jnp.mean(a - b, axis=(1, 2, 3)), features="brightness")


def test_in_python(tmp_path):
    """A model and images of one's own, a network at hand, a metric by its import path."""
    encoder = EncoderConfig("e4e", 6, 8, (16, 16), BACKBONE, coarse=1, middle=3)
    shape = GeneratorConfig(16, 8, 8, 2, channel_base=64, channel_max=4)
    model = api.Inverter(
        make(lambda: Encoder(encoder, rngs=nnx.Rngs(0))),
        make(lambda: Generator(shape, rngs=nnx.Rngs(0))),
    )
    batches = []

    @contextlib.contextmanager
    def bar(total, batch_size):
        batches.append((total, batch_size))
        yield mock.Mock()

    options = {"networks": {"seen": Seen()}, "batch_size": 4, "cache": str(tmp_path)}
    options |= {"edits": ["sefa_0=1,-1", "style:1:0=2"], "progress": bar}
    metrics = ["l2", "fid_edited@seen", "ppl_w5@seen", f"{__name__}:DARKER", "fid@seen"]
    report = e4e_jax.evaluate(model, Noise(0), metrics, **options)
    edits = ["sefa_0=1", "sefa_0=-1", "style:1:0=2"]
    names = [f"fid_edited@seen {edit}" for edit in edits]
    assert list(report) == ["l2", *names, "ppl_w5@seen", metrics[3], "fid@seen"]
    assert {f.name: f.images for f in report.figures}["ppl_w5@seen"] == 5
    assert batches == [(3 + 2, 4)]

    floats = to_float(np.stack([Noise(0)[i] for i in range(9)]))
    codes = model.encode(floats)
    inverted = np.clip(model.synthesize(codes), -1, 1)
    assert report["l2"] == pytest.approx(np.mean(np.square(floats - inverted)), rel=1e-4)
    assert report[metrics[3]] == pytest.approx(np.mean(floats - inverted), rel=1e-3, abs=1e-6)
    for edit, name in zip(edits, names, strict=True):
        edited = np.clip(model.synthesize(model.edit(codes, edit)), -1, 1)
        vectors = [np.float64(Seen().pooled(x)) for x in (floats, edited)]
        (a, b), (c, d) = ((x.mean(0), np.cov(x.T)) for x in vectors)
        assert report[name] == pytest.approx(frechet_distance(a, b, c, d), rel=1e-3)

    again = e4e_jax.evaluate(model, Noise(0), metrics, **options)
    assert dict(again) == pytest.approx(dict(report))
    assert batches[1:] == [(3, 4)]  # the metric of others alone, whose code may have changed

    alone = e4e_jax.evaluate(api.GeneratorModel(model.generator), None, ["ppl_w5@seen"], **options)
    assert alone["ppl_w5@seen"] == pytest.approx(report["ppl_w5@seen"], rel=1e-3)
    for metric, message in (
        ("lec", "lec undoes edits, and style:1:0=2 has no way back; expected steps along"),
        ("id@seen", "id@seen needs a network with a method embed; seen has none."),
        ("factors@seen", "factors@seen needs factors; the images at hand give codes, latents"),
        ("fid10@seen", "fid10@seen asks for 10 images; there are 9."),
    ):
        with pytest.raises(ValueError, match=message):
            e4e_jax.evaluate(model, Noise(0), [metric], **options)
    with pytest.raises(ValueError, match="there is no model, and not both of images and a refere"):
        e4e_jax.evaluate(None, Noise(0), ["l2"])
    with pytest.raises(ValueError, match="fid@seen needs reference; the images at hand give lat"):
        e4e_jax.evaluate(model, None, ["fid@seen"], **options)


def test_as_a_program():
    done = subprocess.run(
        [sys.executable, "eval.py", "--metrics=nonsense"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "there is no metric 'nonsense'" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout
