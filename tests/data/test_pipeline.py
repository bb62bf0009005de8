import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from e4e_jax.data.images import ImageError
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.sources import ImageFolder

SIZE = (4, 4)


class Numbers:
    """Image i is i on its left half and 255 on its right."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = np.full((*SIZE, 3), 255, np.uint8)
        image[:, :2] = index
        return image

    def factors(self, indices):
        return np.stack([indices, -np.asarray(indices)], 1).astype(np.float32)


class Pairs(Numbers):
    """Beside image i its target, 100 + i on the left half and 200 on the right."""

    @property
    def targets(self):
        images = np.full((self.count, *SIZE, 3), 200, np.uint8)
        images[:, :, :2] = 100 + np.arange(self.count)[:, None, None, None]
        return images


def pipeline(source, **arguments):
    return make_pipeline(source, **{"batch_size": 4, "image_size": SIZE, "seed": 7, **arguments})


def numbers(batch):
    return batch["image"].min((1, 2, 3)).tolist()


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            assert batch[key].dtype == other[key].dtype
            np.testing.assert_array_equal(batch[key], other[key])


@pytest.fixture
def folder(tmp_path):
    """Eleven images, of which 3 and 4 cannot be decoded."""
    for i in range(11):
        path = tmp_path / f"{i:02}.png"
        Image.fromarray(np.full((*SIZE, 3), i, np.uint8)).save(path)
        if i in (3, 4):
            path.write_bytes(path.read_bytes()[:40])
    return ImageFolder(tmp_path)


def test_batch():
    batch = next(pipeline(Numbers(10), image_size=(6, 8), shuffle=False))
    assert batch.keys() == {"image", "index"}
    assert batch["image"].shape == (4, 6, 8, 3) and batch["image"].dtype == np.uint8
    assert batch["index"].dtype == np.int32 and batch["index"].tolist() == [0, 1, 2, 3]
    assert numbers(batch) == [0, 1, 2, 3]


def test_every_epoch_is_another_permutation():
    stream = np.concatenate([numbers(batch) for batch in take(pipeline(Numbers(10)), 10)])
    epochs = stream.reshape(4, 10)  # batches of 4 go across the ends of epochs of 10
    assert (np.sort(epochs, 1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = np.concatenate([numbers(batch) for batch in take(pipeline(Numbers(10), seed=8), 10)])
    assert not {tuple(epoch) for epoch in other.reshape(4, 10)} & {tuple(e) for e in epochs}


def test_same_seed_same_batches():
    first = take(pipeline(Numbers(10), flip=True), 8)
    assert_equal(first, take(pipeline(Numbers(10), flip=True), 8))


def test_hosts_share_one_global_batch():
    whole = take(pipeline(Numbers(10), flip=True), 6)
    hosts = [take(pipeline(Numbers(10), flip=True, host=h, hosts=2), 6) for h in range(2)]
    for batch, *slices in zip(whole, *hosts, strict=True):
        assert [part["index"].tolist() for part in slices] == [[0, 1], [2, 3]]
        joined = {key: np.concatenate([part[key] for part in slices]) for key in batch}
        assert_equal([batch], [joined])


def test_flip_is_a_fair_coin_of_the_position():
    batches = take(pipeline(Numbers(10), flip=True, batch_size=100, shuffle=False), 10)
    flipped = np.stack([batch["image"][:, 0, 0, 0] == 255 for batch in batches])
    assert 440 < flipped.sum() < 560  # of 1000; four standard deviations
    assert len({tuple(row) for row in flipped}) == 10
    # Mirrored and nothing else.
    images = batches[0]["image"]
    mirrored = np.where(flipped[0][:, None, None, None], images[:, :, ::-1], images)
    plain = next(pipeline(Numbers(10), batch_size=100, shuffle=False))["image"]
    np.testing.assert_array_equal(mirrored, plain)


def test_resume_at_any_step():
    reference = take(pipeline(Numbers(10), flip=True), 12)
    for step in (0, 1, 5):
        first = pipeline(Numbers(10), flip=True)
        take(first, step)
        state = json.loads(json.dumps(first.get_state()))
        resumed = pipeline(Numbers(10), flip=True)
        take(resumed, 3)
        resumed.set_state(state)
        assert_equal(take(resumed, 7), reference[step : step + 7])


def test_resume_with_other_data_warns(caplog):
    state = pipeline(Numbers(10)).get_state()
    pipeline(Numbers(10)).set_state(state)
    assert not caplog.records
    pipeline(Numbers(9), seed=8).set_state(state)
    assert "seed was 7 and is 8" in caplog.text and "examples was 10 and is 9" in caplog.text


def test_workers_give_the_same_batches_and_resume(folder):
    arguments = {"flip": True, "max_bad_images": 2}
    reference = take(pipeline(folder, **arguments), 9)
    workers = pipeline(folder, workers=2, **arguments)
    assert_equal(take(workers, 4), reference[:4])
    state = workers.get_state()  # while the workers are batches ahead
    assert_equal(take(workers, 1), reference[4:5])
    workers.set_state(state)
    assert_equal(take(workers, 4), reference[4:8])
    assert set(workers.bad_images) == {"03.png", "04.png"}
    state = workers.get_state()
    workers.close()
    without = pipeline(folder, **arguments)
    without.set_state(state)
    assert_equal(take(without, 1), reference[8:])


@pytest.mark.parametrize("host, hosts", [(0, 1), (0, 2), (1, 2)])
def test_evaluation_pads_and_drops_nothing(host, hosts):
    batches = pipeline(
        Numbers(9), shuffle=False, repeat=False, host=host, hosts=hosts, with_factors=True
    )
    assert batches.num_batches == 3
    rows = range(9) if hosts == 1 else [[0, 1, 4, 5, 8], [2, 3, 6, 7]][host]
    for _ in range(2):  # a second loop starts again
        found = list(batches)
        assert [batch["image"].shape[0] for batch in found] == [4 // hosts] * 3
        mask = np.concatenate([batch["mask"] for batch in found])
        assert mask.dtype == bool
        values = np.concatenate([numbers(batch) for batch in found])
        np.testing.assert_array_equal(values[mask], rows)
        factors = np.concatenate([batch["factors"] for batch in found])
        np.testing.assert_array_equal(factors[mask, 0], rows)
        assert next(batches, None) is None


def test_evaluation_of_whole_batches_is_not_padded():
    batches = list(pipeline(Numbers(8), repeat=False))  # shuffled
    assert sorted(sum(map(numbers, batches), [])) == list(range(8))
    assert all(batch["mask"].all() for batch in batches) and len(batches) == 2


def test_resume_of_an_evaluation():
    batches = pipeline(Numbers(9), shuffle=False, repeat=False)
    next(batches)
    other = pipeline(Numbers(9), shuffle=False, repeat=False)
    other.set_state(batches.get_state())
    assert_equal(list(other), list(batches))


def test_factors():
    batch = next(pipeline(Numbers(10), with_factors=True))
    assert batch["factors"].dtype == np.float32 and batch["factors"].shape == (4, 2)
    np.testing.assert_array_equal(batch["factors"][:, 0], numbers(batch))


def test_a_source_that_reads_many_at_once_gives_the_same_batches():
    class ManyNumbers(Numbers):
        def read_many(self, indices):
            asked.append(len(indices))
            return np.stack([self[i] for i in indices])

    asked = []
    for arguments in ({}, {"repeat": False, "shuffle": False}):
        plain, many = (pipeline(source(7), **arguments) for source in (Numbers, ManyNumbers))
        assert_equal(take(plain, 2), take(many, 2))
        many.close()
    assert asked[0] == 4 and 3 in asked  # the last batch of the evaluation has padding


def test_bad_images_are_replaced_counted_and_logged_once(folder, caplog):
    batches = pipeline(folder, shuffle=False, max_bad_images=2)
    epoch = [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10]
    assert sum(map(numbers, take(batches, 5)), []) == (epoch + epoch)[:20]
    assert list(batches.bad_images) == ["03.png", "04.png"]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2 and all(
        record.levelno == logging.WARNING for record in caplog.records
    )
    assert "03.png cannot be decoded as an image" in warnings[0] and "1 of at most 2" in warnings[0]
    # They still count after a restart.
    resumed = pipeline(folder, shuffle=False, max_bad_images=2)
    resumed.set_state(json.loads(json.dumps(batches.get_state())))
    take(resumed, 3)
    assert list(resumed.bad_images) == ["03.png", "04.png"]


def test_bad_images_are_masked_in_evaluation(folder):
    batches = list(pipeline(folder, shuffle=False, repeat=False, max_bad_images=2))
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(np.flatnonzero(~mask), [3, 4, 11])


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_images_end_the_iteration(folder, workers):
    batches = pipeline(folder, shuffle=False, max_bad_images=1, workers=workers)
    message = "^2 bad images were met where max_bad_images allows 1, the last: .*04.png cannot be d"
    with pytest.raises(ImageError, match=message) as caught:
        take(batches, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="^2 bad images"):  # and does not go on
        next(batches)
    batches.close()


def test_no_bad_image_is_allowed_by_default(folder):
    with pytest.raises(ImageError, match="^1 bad images .* allows 0, the last: .*03.png"):
        take(pipeline(folder, shuffle=False), 2)


def test_a_source_without_one_good_image_ends(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ImageError, match="^2 bad images were met .*, the last: .*b.png"):
        next(pipeline(ImageFolder(tmp_path), shuffle=False, max_bad_images=100))


def test_another_error_does_not_lose_the_place():
    source = [np.full((*SIZE, 3), i, np.uint8) for i in range(6)]
    batches = pipeline(source, batch_size=2, shuffle=False)
    next(batches)
    good, source[2] = source[2], np.zeros(3)
    batches.set_state(batches.get_state())  # forget what was read ahead
    with pytest.raises(ValueError, match="example 2"):
        next(batches)
    source[2] = good
    assert numbers(next(batches)) == [2, 3]


def test_errors_are_one_sentence():
    with pytest.raises(ValueError, match="^batch_size is 4, expected a multiple of 3 hosts$"):
        pipeline(Numbers(5), hosts=3)
    with pytest.raises(ValueError, match="^host is 2 of 2 hosts, expected 0 to hosts - 1$"):
        pipeline(Numbers(5), host=2, hosts=2)
    with pytest.raises(ValueError, match="empty"):
        pipeline(Numbers(0))
    with pytest.raises(ValueError, match="^flip cannot go with with_factors"):
        pipeline(Numbers(5), with_factors=True, flip=True)
    with pytest.raises(ValueError, match="^list has no method factors"):
        pipeline([0], with_factors=True)
    with pytest.raises(ValueError, match=r"^example 0 of list is int64 \[4, 4\], expected uint8"):
        next(pipeline([np.zeros((4, 4), np.int64)]))


TRAIN = """
import multiprocessing, sys, time
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.sources import ImageFolder

if __name__ == "__main__":
    batches = make_pipeline(
        ImageFolder(sys.argv[1]), batch_size=2, image_size=(4, 4), seed=0, workers=1,
        max_bad_images=2,
    )
    next(batches)
    (worker,) = multiprocessing.active_children()
    print(worker.pid, flush=True)
    if len(sys.argv) > 2:
        time.sleep(60)
"""


def start(folder, tmp_path, *arguments):
    (tmp_path / "train.py").write_text(TRAIN)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "train.py", folder.path, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, int(process.stdout.readline())


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks processes up in /proc")
def test_workers_end_with_their_parent(folder, tmp_path):
    """A process that just ends leaves no worker and no complaint; a killed one no worker."""
    process, worker = start(folder, tmp_path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and not is_running(worker)
    assert "Traceback" not in errors and "leaked" not in errors

    process, worker = start(folder, tmp_path, "wait")
    assert is_running(worker)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def test_targets_come_beside_their_images_and_are_mirrored_with_them():
    batches = pipeline(Pairs(40), flip=True)
    mirrored = []
    for _ in range(6):
        batch = next(batches)
        for image, target in zip(batch["image"], batch["target"], strict=True):
            mirrored.append(image[0, 0, 0] == 255)
            left, right = (image[:, ::-1], target[:, ::-1]) if mirrored[-1] else (image, target)
            assert right[0, 0, 0] == 100 + left[0, 0, 0] and right[0, -1, 0] == 200
    assert 0 < sum(mirrored) < len(mirrored)
    assert "target" not in next(pipeline(Numbers(8)))
