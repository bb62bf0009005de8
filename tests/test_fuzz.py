"""Whatever a file, an edit or a flag holds: success or one sentence, in little time and memory.

The quick tests draw the same examples every time; the campaigns marked slow draw new ones, and
`pytest -m slow tests/test_fuzz.py` prints what broke them.
"""

import contextlib
import functools
import io
import json
import sys
import time
import tracemalloc
import zipfile
from unittest import mock

import hypothesis
import numpy as np
import pytest
from absl import flags
from flax import nnx
from hypothesis import strategies as st

from configs.command_line import define_config, read_flags
from e4e_jax import bundle
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.scores import read_scores
from e4e_jax.editing.written import parse_edit, resolve_edit
from e4e_jax.inversion.folder import load_latents
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig
from e4e_jax.runtime.files import read_arrays, read_json
from e4e_jax.runtime.tables import read_table
from e4e_jax.training.config_table import FIELDS, check_config, check_run

CONFIG = GeneratorConfig(16, z_dim=8, w_dim=8, mapping_layers=1, channel_base=64, channel_max=8)


def fuzz(quick: int, slow: int):
    """Makes two tests of a property: a quick one, always the same, and a campaign."""

    def decorate(strategy):
        def decorated(prop):
            @pytest.mark.parametrize(
                "examples", [quick, pytest.param(slow, marks=pytest.mark.slow)]
            )
            def test(examples, tmp_path_factory):
                settings = hypothesis.settings(
                    max_examples=examples,
                    derandomize=examples == quick,
                    deadline=None,
                    database=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                )
                path = tmp_path_factory.mktemp("fuzz")
                run = functools.partial(watched, prop, path, examples == slow)
                settings(hypothesis.given(strategy)(lambda value: run(value)))()

            return test

        return decorated

    return decorate


def watched(prop, path, closely, value):
    """Calls the property and watches what it takes; memory only where there is time for it."""
    start = time.monotonic()
    if closely:
        tracemalloc.start()
    try:
        prop(path, value)
        if closely:
            assert tracemalloc.get_traced_memory()[1] < 256 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 30  # a minute-long one would be found on any machine


def one_sentence(call, *args):
    """What the call gives; None if it said in one sentence why not."""
    try:
        return call(*args)
    except (ValueError, OSError) as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 1500, text
        return None


@st.composite
def damaged(draw, sound):
    """One of some sound byte strings, changed in one to four places."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "byte", "number", "cut", "drop", "repeat", "splice"]))
        if kind == "flip" and data:
            data[where] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and data:
            data[where] = draw(st.integers(0, 255))
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 2, 2**32 - 1]))
            data[where : where + 4] = number.to_bytes(4, "little")
        elif kind == "cut":
            del data[where:]
        elif kind == "drop":
            del data[where : where + draw(st.integers(1, 60))]
        elif kind == "repeat":
            data[where:where] = data[where : where + draw(st.integers(1, 60))]
        else:
            other = draw(st.sampled_from(sound))
            start = draw(st.integers(0, len(other)))
            data[where : where + 60] = other[start : start + 60]
    return bytes(data)


def saved(save, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


LATENTS = {"names": np.array(["a.png", "b/c.png"]), "codes": np.ones((2, 3, 4), np.float32)}
ARCHIVES = [
    saved(np.savez, **LATENTS),
    saved(np.savez_compressed, **LATENTS),
    saved(np.savez, smile=np.ones(8, np.float32), age=np.ones((6, 8), np.float64)),
    saved(np.savez_compressed, smile=np.zeros((60, 8)), count=np.array(3, ">i2")),
    saved(np.savez),
]
MEMBERS = [npy(array) for array in (*LATENTS.values(), np.ones(3, ">c16"), np.array("x"))]


def zipped(names, members, compression) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, member in zip(names, members, strict=False):
            archive.writestr(name, member)
    return buffer.getvalue()


ANY_ARCHIVE = damaged(ARCHIVES) | st.builds(
    zipped,
    st.just(["names.npy", "codes.npy"]),
    st.lists(damaged(MEMBERS) | st.sampled_from(MEMBERS), min_size=1, max_size=2),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)


@fuzz(200, 10_000)(ANY_ARCHIVE)
def test_archives_of_arrays(path, data):
    file = path / "a.npz"
    file.write_bytes(data)
    arrays = one_sentence(read_arrays, file, "numbers")
    for array in (arrays or {}).values():
        assert array.dtype.kind in "biufcSU"
        array.tolist()
    one_sentence(load_latents, file)
    one_sentence(load_directions, str(file))
    one_sentence(read_scores, str(file), ["a.png", "b/c.png"])


TABLES = [
    b"name,smile,age\na.png,1,2.5\nb/c.png,-1e-3,\n",
    '\ufeffname, smile\r\n"a, b.png","1"\r\n\r\na.png,nan\r\n'.encode(),
]


@fuzz(200, 10_000)(
    damaged(TABLES) | st.binary(max_size=200) | st.text(max_size=200).map(str.encode)
)
def test_tables(path, data):
    file = path / "s.csv"
    file.write_bytes(data)
    found = one_sentence(read_table, file, "scores")
    if found:
        columns, rows = found
        assert columns and rows and all(len(row) == len(columns) for row in rows.values())
    one_sentence(read_scores, str(file), ["a.png", "b/c.png"])


SHIPPED = ("toy", "toy/generator", "toy/features")
DESCRIPTIONS = [json.dumps(bundle.read_description(bundle.resolve(n))) for n in SHIPPED]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8)
    | st.integers(-3, 20) | st.sampled_from([10**29, 10**400, -(10**9), 65_536]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)  # fmt: skip


def places(value, at=()):
    """The paths to everything in a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


@st.composite
def odd_description(draw):
    """A shipped bundle's JSON with one to three of its values replaced or missing."""
    whole = {"": json.loads(draw(st.sampled_from(DESCRIPTIONS)))}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([p for p in places(whole) if p]))
        inside = functools.reduce(lambda value, key: value[key], way, whole)
        if draw(st.booleans()) or not isinstance(inside, dict) or not way:
            inside[last] = draw(ANY_JSON)
        else:
            del inside[last]
    return json.dumps(whole[""]).encode()


@fuzz(150, 5_000)(odd_description() | damaged([d.encode() for d in DESCRIPTIONS]))
def test_descriptions_of_bundles(path, data):
    (path / "bundle.json").write_bytes(data)
    one_sentence(read_json, path / "bundle.json", "a bundle")
    description = one_sentence(bundle.read_description, str(path))
    for name, described in (description or {"networks": {}})["networks"].items():
        one_sentence(bundle.decode_config, bundle.NETWORKS[name], described)


@pytest.mark.slow
def test_what_a_description_lets_through_is_built_or_said(tmp_path):
    """Nothing but BundleError from the whole of `load_bundle`, whose arrays are not there."""

    @hypothesis.settings(max_examples=150, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(odd_description())
    def run(data):
        (tmp_path / "bundle.json").write_bytes(data)
        with pytest.raises(bundle.BundleError) as caught:
            bundle.load_bundle(tmp_path)
        assert "\n" not in str(caught.value)

    run()


EDITS = [b"smile=-1:1:5", b"pca_0@2-3:=-2,3", b"style:3:7=5", b"sefa_3=1e1", b" layered@0-5=.5"]
DIRECTIONS = {
    "smile": np.arange(8, dtype=np.float32),
    "layered": np.ones((6, 8), np.float32),
    "pca_mean": np.linspace(-1, 1, 8, dtype=np.float32),
    "pca_0": np.arange(1, 9, dtype=np.float32),
}


@functools.cache
def generator():
    return Generator(CONFIG, rngs=nnx.Rngs(0))


@fuzz(200, 10_000)(
    damaged(EDITS).map(lambda data: data.decode(errors="replace"))
    | st.text("0123456789-+.,:=@e_ \u0663", max_size=12).map("smile={}".format)
    | st.text(max_size=30)
)
def test_strings_of_edits(path, text):
    del path
    written = one_sentence(parse_edit, text)
    if written is None:
        return
    assert 1 <= len(written.strengths) <= 1000 and np.isfinite(written.strengths).all()
    with mock.patch("e4e_jax.editing.written.channel_deviations", lambda _: np.ones((9, 999))):
        edit = one_sentence(resolve_edit, written, DIRECTIONS, generator())
    if hasattr(edit, "direction"):
        edit.apply(generator(), np.zeros((1, 6, 8), np.float32), written.strengths[0])


NAMES = sorted({field for rows in FIELDS.values() for field in rows})
VALUES = [
    "0", "1", "-1", "64", "1e3", "nan", "inf", "-inf", "1e999", "", "x", "None", "True", "{}", "()",
    "(64,)", "(64, 64)", "(0, 0)", "(8, 8, 16, 16)", "(1, 2, 1)", "[1", "(('smile', 1.0),)",
    "99999999999999999999", "toy", "folder", "encoder", "bfloat16", "constant", "cosine", "'x'",
    "('color',)", "\x00", "\n", "2**99", "(" * 300, "a" * 5000,
]  # fmt: skip
CONFIGS = ("toy", "ffhq", "toy_generator", "toy_features", "folder")


@fuzz(100, 3_000)(
    st.tuples(
        st.sampled_from(CONFIGS),
        st.lists(
            st.tuples(
                st.sampled_from(NAMES) | st.text("abz._[]0'", max_size=8),
                st.sampled_from(VALUES) | st.text(max_size=12),
            ),
            min_size=1,
            max_size=3,
        ),
    )
)
def test_fields_of_configs_on_the_command_line(path, drawn):
    del path
    name, fields = drawn
    given = ["train.py", f"--config=configs/{name}.py", *(f"--config.{f}={v}" for f, v in fields)]
    values = flags.FlagValues()
    # config_flags looks for its fields in sys.argv.
    with mock.patch.object(sys, "argv", given), contextlib.redirect_stdout(io.StringIO()):
        define_config("What to train", values)
        if one_sentence(read_flags, given, values) is not None:
            one_sentence(check_config, values.config)
            one_sentence(check_run, values.config)
