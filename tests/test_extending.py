"""A package outside the project, as docs/extending.md shows it, through the ordinary programs."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from training.tiny_run import make_folder

from configs import toy
from e4e_jax.__main__ import main
from e4e_jax.bundle import load_network
from e4e_jax.data.images import save_png
from e4e_jax.data.registry import build_source
from e4e_jax.editing.files import load_directions
from e4e_jax.inversion.folder import load_latents

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
PARTS = dict(re.findall(r"^```python\n# (mine/\w+\.py)\n(.*?)^```$", PAGE, re.M | re.S))
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
    for line in block.splitlines()
    if line.startswith("python ")
]
# Of the page's run what makes it small.
SMALL = {
    "batch_size": 4, "total_steps": 4, "log_every": 1, "first_picture": 0, "validate_every": 4,
    "checkpoint_every": 4, "validation_batch_size": 4, "data.num_validation": 4,
    "data.image_size": (8, 8), "generator": "{}/generator", "perceptual": "{}/features",
    "identity": "{}/features", "encoder.warm_start": "{}/features", "edits.directions": "",
    "encoder.widths": (16, 16, 16, 16), "encoder.depths": (1, 1, 1, 1), "encoder.coarse": 1,
    "encoder.middle": 2, "objective.w_pool_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("extending")
    make_folder(path)
    return path


@pytest.fixture
def package(folder, monkeypatch):
    """The package of the page, where this process finds it, too."""
    for name, text in PARTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def start(folder, *command):
    """Runs a program of ours in `folder`."""
    program, *flags = map(str, command)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", str(ROOT)])}
    return subprocess.run(
        [sys.executable, ROOT / program, *flags],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_each_part_takes_twenty_lines_at_most():
    assert len(PARTS) == 8 and all(len(text.splitlines()) < 20 for text in PARTS.values())


def test_the_page_trains_measures_inverts_finds_and_edits(package, monkeypatch, capsys):
    fields = [f"--config.{k}={str(v).format(package)}" for k, v in SMALL.items()]
    (package / "faces").mkdir()
    for i in range(2):
        save_png(package / "faces" / f"{i}.png", np.full((8, 8, 3), 90 * i, np.uint8))
    trained, measured, *commands = COMMANDS
    outputs = []
    for command in (trained, measured):
        done = start(package, *command[1:], *fields, *(["--cache="] if command == measured else []))
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout + done.stderr)
    assert "edges " in outputs[0] and (package / "runs" / "mine" / "bundle").is_dir()
    l2, worst = (
        float(re.search(rf"^{re.escape(name)}  .*?([\d.]+)", outputs[1], re.M)[1])
        for name in ("l2", "mine.metrics:WORST")
    )
    assert worst**2 > l2 > 0

    monkeypatch.chdir(package)
    for command in commands:
        assert command[1:3] == ["-m", "e4e_jax"] and main(command[3:]) == 0, capsys.readouterr().err
    assert load_latents("out/latents.npz")[1].shape == (2, 4, 8)
    found = load_directions("chance.npz")
    assert set(found) == {"chance_0", "chance_1", "chance_2"} and found["chance_1"].shape == (8,)
    assert (package / "edited" / "grid.png").exists()
    _, faded = load_latents("faded/latents.npz")
    average = load_network("runs/mine/bundle", "generator").latent_avg[...]
    assert faded.shape == (4, 4, 8) and np.abs(faded[2:] - average).max() < 1e-4
    assert np.abs(faded[:2] - average).max() > 1e-3


MISTAKES = """
class NoNames:
    def __init__(self, data, *, held_out): ...
    def __len__(self): return 3
    def __getitem__(self, index): ...

class Few(NoNames):
    names = ["a", "b"]

class Unnamed(NoNames):
    names = ["a", "b", "c"]
    def factors(self, indices): ...

def forgets(data): ...
def wants(data, *, held_out, folder): ...
def nothing(data, *, held_out): ...
thing = 3
broken = undefined if False else None
"""


@pytest.mark.parametrize(
    "path, words",
    [
        ("no_such_package:x", "cannot be imported: ModuleNotFoundError: No module named 'no_such"),
        (
            "mistakes:Nobody",
            "mistakes:Nobody cannot be imported: AttributeError: module 'mistakes'",
        ),
        ("mistakes:NoNames", "gives NoNames without names; expected a name for each of its 3 imag"),
        ("mistakes:Few", "gives Few of 3 images and 2 names; expected 3."),
        ("mistakes:Unnamed", "gives Unnamed with factors and no factor_names; expected both or"),
        ("mistakes:forgets", "mistakes:forgets takes no 'held_out'; it takes no options."),
        ("mistakes:wants", "mistakes:wants needs 'folder', which is not given."),
        (
            "mistakes:nothing",
            "mistakes:nothing gives NoneType, which has no __len__; expected a so",
        ),
        ("mistakes:thing", "mistakes:thing is 3, which cannot be called."),
        ("undefined_names:x", "cannot be imported: NameError: name 'undefined' is not defined"),
    ],
)
def test_what_is_no_source_is_one_sentence(tmp_path, monkeypatch, path, words):
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    (tmp_path / "undefined_names.py").write_text("x = undefined\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = toy.get_config().data
    data.source = path
    with pytest.raises(ValueError) as caught:
        build_source(data, held_out=False)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_mistakes_end_the_programs_with_code_1(package, tmp_path):
    fields = [f"--config.{k}={str(v).format(package)}" for k, v in SMALL.items()]
    for program, flags, words in (
        (
            "train.py",
            [*fields, "--config.data.source=mine.images:Strips"],
            "AttributeError: module",
        ),
        ("eval.py", ["--config.data.source=mine.imges:Stripes"], "No module named 'mine.imges'"),
    ):
        done = start(package, program, "--config=mine/config.py", *flags)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith(f"{program}: ") and words in line, line
