"""The README's tour on the shipped toy networks: invert, refine, find directions, edit, measure."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import sheet_cells

from e4e_jax.data.images import decode_image
from e4e_jax.editing.files import load_directions
from e4e_jax.inversion.folder import load_latents
from e4e_jax.toy.faces import FACTORS

ROOT = pathlib.Path(__file__).parents[1]


def run(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.slow
def test_tour(tmp_path):
    def e4e(*arguments):
        return run(tmp_path, "-m", "e4e_jax", *arguments)

    e4e("toy", "faces", "--count=8")
    e4e("invert", "faces", "out")
    names, codes = load_latents(tmp_path / "out" / "latents.npz")
    assert len(names) == 8 and codes.shape == (8, 10, 64)

    e4e("invert", "faces", "refined", "--refine=60", "--perceptual=toy/features")
    errors = {}
    for folder in ("out", "refined"):
        pairs = [(decode_image(tmp_path / f / n) / 255 for f in ("faces", folder)) for n in names]
        errors[folder] = np.mean([np.mean((a - b) ** 2) for a, b in pairs])
    assert errors["refined"] < 0.7 * errors["out"]

    e4e("directions", "mine.npz", "--network=toy/features", "--condition", "--samples=5000")
    assert set(load_directions(tmp_path / "mine.npz")) == set(FACTORS)
    edits = ["smile=-2,2", "sefa_0=3", "hair@0-3=2", "style:3:12=5"]
    output = e4e("edit", "out/latents.npz", "edited", "--directions=mine.npz", "--edits", *edits)
    assert "inversion | smile=-2 | smile=2 | sefa_0=3 | hair@0-3=2 | style:3:12=5" in output
    assert sheet_cells(tmp_path / "edited" / "grid.png", 8, 6).shape[2:] == (128, 128, 3)

    e4e("mix", "faces", "faces", "mixed", "--layers=0-5")
    assert sheet_cells(tmp_path / "mixed" / "grid.png", 9, 9).shape[2:] == (128, 128, 3)
    e4e("interpolate", "faces", "between", "--frames=4")
    assert sheet_cells(tmp_path / "between" / "grid.png", 7, 4).shape[2:] == (128, 128, 3)

    metrics = "--metrics=l2,id@toy/features,factors@toy/features"
    output = run(tmp_path, ROOT / "eval.py", metrics, "--cache=", "--out=e")
    figures = json.loads((tmp_path / "e" / "metrics.json").read_text())["figures"]
    values = {figure["name"]: figure["value"] for figure in figures}
    assert values["l2"] < 0.01
    assert all(values[f"factors@toy/features {factor}"] > 0.9 for factor in ("smile", "hair"))
