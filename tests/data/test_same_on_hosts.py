"""What hosts are told whose images differ."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from PIL import Image

from configs import toy_features
from e4e_jax.data import same_on_hosts
from e4e_jax.data.same_on_hosts import check_same_on_hosts
from e4e_jax.data.sources import ImageFolder, Subset
from e4e_jax.toy.faces import ToyFaces
from e4e_jax.training import loop


@pytest.fixture
def compare(monkeypatch):
    """compare(sources, what) -> what each host is told, in threads that meet."""

    def compare(sources, what="training images"):
        barrier = threading.Barrier(len(sources))
        given, told = [None] * len(sources), [None] * len(sources)

        def gather(value, what=""):
            given[int(threading.current_thread().name)] = json.dumps(value)
            barrier.wait()
            values = [json.loads(text) for text in given]
            barrier.wait()
            return values

        def run(host):
            try:
                check_same_on_hosts(sources[host], what)
            except ValueError as error:
                told[host] = str(error)

        monkeypatch.setattr(same_on_hosts, "gather_json", gather)
        threads = [
            threading.Thread(target=run, args=(i,), name=str(i)) for i in range(len(sources))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return told

    return compare


@pytest.fixture
def folders(tmp_path):
    """Three equal folders of twelve images."""
    paths = [tmp_path / f"host{i}" for i in range(3)]
    for path in paths:
        (path / "sub").mkdir(parents=True)
        for i in range(12):
            image = Image.fromarray(np.full((4, 4 + i, 3), 20 * i, np.uint8))
            image.save(path / ("sub" if i % 2 else "") / f"p{i:02}.png")
    return paths


def test_equal_folders_pass(compare, folders):
    assert compare([ImageFolder(path) for path in folders]) == [None] * 3


@pytest.mark.parametrize(
    "host, changed, how",
    [
        (1, lambda f: (f / "p02.png").unlink(), "p02.png is missing there"),
        (0, lambda f: (f / "sub/p03.png").unlink(), "sub/p03.png is missing there"),
        (2, lambda f: (f / "p04.png").rename(f / "a.png"), "a.png is on host 2 alone"),
        (1, lambda f: (f / "p04.png").write_bytes(b"cut"), "p04.png is 3 bytes there and "),
    ],
)
def test_all_hosts_are_told_which_differs_and_in_what(compare, folders, host, changed, how):
    changed(folders[host])
    told = compare([ImageFolder(path) for path in folders])
    other = 1 if host == 0 else 0
    assert len(set(told)) == 1
    assert told[0].startswith(f"host {host} has other training images than host {other}: {how}")


def test_two_hosts(compare, folders):
    (folders[1] / "p00.png").unlink()
    expected = "p00.png is missing there; expected the same on all hosts."
    told = compare([ImageFolder(path) for path in folders[:2]], "images")
    assert told == [f"host 1 has other images than host 0: {expected}"] * 2


def test_other_sources(compare, folders):
    faces = ToyFaces(5, seed=1)
    assert compare([faces, ToyFaces(5, seed=1)]) == [None] * 2
    told = compare([faces, dataclasses.replace(faces, seed=3)])
    assert "seed is 3 there and 1 on host 0" in told[0]
    source = ImageFolder(folders[0])
    told = compare([Subset(source, range(5)), Subset(source, range(4))])
    assert f"{source.names[4]} is missing there" in told[0]
    told = compare([[1, 2], [1, 2, 3]])
    assert "number of images is 3 there and 2 on host 0" in told[0]

    class Prepared(list):
        def fingerprint(self):
            return {"data set": "digits/1.0.0", "number of images": len(self)}

    assert compare([Prepared([1]), Prepared([1])]) == [None] * 2
    assert "number of images is 2 there" in compare([Prepared([1]), Prepared([1, 2])])[1]


def test_settings_of_a_run(monkeypatch):
    config = toy_features.get_config()
    here = loop._settings(config)
    config.data.path, config.data.workers = "/disk2/images", 7
    assert loop._settings(config) == here
    config.optimizer.learning_rate = 0.5
    there = loop._settings(config)
    monkeypatch.setattr(
        same_on_hosts,
        "gather_json",
        lambda value, what="": [here, there] if isinstance(value, dict) else ["a", "b"],
    )
    with pytest.raises(ValueError, match="^host 1 has other settings than host 0: config.optimi"):
        same_on_hosts.check_same_entries(here, "settings")
