"""From a source of images to batches: order, flips, workers, hosts, a place to resume from."""

import dataclasses
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import weakref
from typing import Any

import grain
import numpy as np
from absl import flags

from e4e_jax.data.images import ImageError, resize_image
from e4e_jax.data.registry import Source
from e4e_jax.runtime.program import without_interrupts

_PADDING = -1  # in place of an example's index: fills the last batch of an evaluation


def make_pipeline(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    seed: int,
    shuffle: bool = True,
    repeat: bool = True,
    flip: bool = False,
    workers: int = 0,
    prefetch: int = 2,
    host: int = 0,
    hosts: int = 1,
    max_bad_images: int = 0,
    with_factors: bool = False,
) -> "Pipeline":
    """Batches of a source's images, for training (repeat) or evaluation (no repeat).

    The stream is a function of source, batch size and seed alone: every epoch is a new
    permutation, every position of the stream has its own coin for the flip, and neither depends
    on the number of workers or hosts. Host h of H yields rows h·B/H to (h+1)·B/H of each global
    batch of B. Without repeat the last batch is padded and nothing is dropped.

    Args:
      source: `__len__` and `__getitem__(i) -> uint8 [H, W, 3]`, see `sources`.
      batch_size: examples of a global batch, over all hosts.
      image_size: (height, width); images of another size are resized.
      seed: of shuffling and flips, not negative.
      shuffle: a new order every epoch, else the source's.
      repeat: for ever, else one epoch.
      flip: mirrors each image horizontally with probability 1/2.
      workers: processes that decode; 0 decodes in threads of this process.
      prefetch: batches kept ready, at least 1; by each worker if there are any.
      host, hosts: index of this host, and their number, which divides batch_size.
      max_bad_images: images that may turn out not to be decodable, each counted once, on each
        host. In training the next decodable image of the source takes the place of one (so one
        at least must be); in evaluation its place is masked out.
      with_factors: adds the source's factors to the batches; excludes flip.

    Returns:
      A `Pipeline`, whose batches are dicts of
        image: uint8 [b, height, width, 3], b = batch_size / hosts
        index: int32 [b], the row within the global batch
        target: the same, of a source with targets only
        factors: float32 [b, K], with_factors only
        mask: bool [b], False for padding and undecodable images, without repeat only

    Raises:
      ValueError: an argument does not fit, in one sentence.
    """
    examples = len(source)
    if examples == 0:
        raise ValueError("the source of images is empty, expected at least one image")
    if hosts < 1 or not 0 <= host < hosts:
        raise ValueError(f"host is {host} of {hosts} hosts, expected 0 to hosts - 1")
    if batch_size < 1 or batch_size % hosts:
        raise ValueError(f"batch_size is {batch_size}, expected a multiple of {hosts} hosts")
    if with_factors and not hasattr(source, "factors"):
        raise ValueError(f"{type(source).__name__} has no method factors, which with_factors needs")
    if with_factors and flip:
        raise ValueError("flip cannot go with with_factors: factors describe unmirrored images")

    rows = batch_size // hosts
    limit = min(max_bad_images, examples - 1) if repeat else max_bad_images
    order = grain.MapDataset.range(examples)
    if shuffle:
        # Grain adds the epoch to its seed: spread ours, so that seeds 0 and 1 share no epoch.
        order = order.shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
    if repeat:
        order = order.repeat()
    elif padding := -examples % batch_size:
        order = grain.MapDataset.concatenate([order, grain.MapDataset.source([_PADDING] * padding)])
    load = _LoadBatch(
        source=source,
        image_size=(image_size[0], image_size[1]),
        first_row=host * rows,
        batch_size=batch_size,
        flip_seed=seed if flip else None,
        max_bad_images=limit,
        with_factors=with_factors,
        with_targets=getattr(source, "targets", None) is not None,
        evaluation=not repeat,
    )
    batches = order.batch(rows)[host::hosts].map_with_index(load)
    identity = {"seed": seed, "batch_size": batch_size, "examples": examples}
    return Pipeline(batches, identity, repeat, workers, prefetch, limit)


class Pipeline:
    """An iterator over batches that knows its place; made by `make_pipeline`.

    An evaluation that has come to its end starts again with the next `for`.

    Attributes:
      num_batches: batches of an epoch, None if the pipeline repeats.
      bad_images: name -> reason of the images that could not be decoded, as they were met.
    """

    def __init__(
        self,
        batches: Any,
        identity: dict[str, int],
        repeat: bool,
        workers: int,
        prefetch: int,
        max_bad_images: int,
    ):
        self.num_batches = None if repeat else len(batches)
        self.bad_images = {}
        self._batches = batches
        self._identity = identity
        self._workers = workers
        self._prefetch = prefetch
        self._max_bad_images = max_bad_images
        self._step = 0  # batches yielded so far
        self._running = []  # the Grain iterator, once it has started
        weakref.finalize(self, _stop, self._running)  # at the latest when the interpreter exits

    def __iter__(self):
        if self._step == self.num_batches:
            self._step = 0
        return self

    def __next__(self):
        """The next batch.

        Raises:
          ImageError: more than max_bad_images images could not be decoded.
        """
        if self._step == self.num_batches:
            self.close()
            raise StopIteration
        try:
            if self._running:
                batch = next(self._running[0])
            else:
                if self._workers:
                    _start_resource_tracker()
                with without_interrupts():  # the workers start with the first batch
                    self._running.append(self._start())
                    batch = next(self._running[0])
        except Exception:
            self.close()  # Grain's iterator has lost its place, ours is kept
            raise
        self._count_bad_images(batch.pop("bad"))
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The place of the next batch, JSON-serialisable."""
        return {"step": self._step, "bad_images": dict(self.bad_images), **self._identity}

    @staticmethod
    def check_state(state: Any) -> None:
        """Raises ValueError where `get_state` cannot have returned this."""
        numbers = ("step", "seed", "batch_size", "examples")
        if not isinstance(state, dict) or not isinstance(state.get("bad_images"), dict):
            raise ValueError("the place in the data has no bad_images")
        for key in numbers:
            if type(state.get(key)) is not int or state[key] < 0:
                raise ValueError(f"the place in the data has {key} {state.get(key)!r}")

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a place that `get_state` returned, whatever the workers and hosts were then.

        Raises:
          ValueError: it is none that `get_state` returned.
        """
        self.check_state(state)
        for key, value in self._identity.items():
            if state.get(key, value) != value:
                logging.warning(
                    "The order of images is not the saved run's: %s was %s and is %s now.",
                    *(key, state[key], value),
                )
        self.close()
        self._step = state["step"]
        self.bad_images = dict(state["bad_images"])

    def close(self) -> None:
        """Ends worker processes and threads; iterating on starts them again at the same place."""
        _stop(self._running)

    def _start(self):
        batches = self._batches[self._step :]  # random access: the place is a number
        if not self._workers:
            threads = grain.ReadOptions(self._prefetch, self._prefetch)
            return iter(batches.to_iter_dataset(threads))
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags; notebooks parse none
            flags.FLAGS.mark_as_parsed()
        one_by_one = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        options = grain.MultiprocessingOptions(self._workers, self._prefetch)
        # Through pipes: shared memory is 64 MB in many containers, and leaves leaks at exit.
        pipes = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        stream = grain.experimental.WithOptionsIterDataset(
            batches.to_iter_dataset(one_by_one), pipes
        )
        return iter(stream.mp_prefetch(options, worker_init_fn=_init_worker))

    def _count_bad_images(self, bad):
        limit = self._max_bad_images
        for name, reason in bad:
            if name not in self.bad_images:
                self.bad_images[name] = reason
                if len(self.bad_images) <= limit:
                    logging.warning(
                        "%s; skipped, as %d of at most %d.", reason, len(self.bad_images), limit
                    )
        if len(self.bad_images) > limit:
            self.close()
            last = list(self.bad_images.values())[-1]
            raise ImageError(
                f"{len(self.bad_images)} bad images were met where max_bad_images allows {limit}, "
                f"the last: {last}"
            )


@dataclasses.dataclass(frozen=True)
class _LoadBatch:
    """Loads the rows of one batch; runs in the threads or processes of the pipeline."""

    source: Any
    image_size: tuple[int, int]
    first_row: int  # of this host in the global batch
    batch_size: int  # global
    flip_seed: int | None
    max_bad_images: int
    with_factors: bool
    with_targets: bool
    evaluation: bool

    def __call__(self, step, order):
        """(number of the global batch, example of each row [b]) -> batch, with its bad images.

        Bad images travel as "bad", pairs of name and reason: only the consumer sees them all. A
        batch with more of them than allowed is given up, and has no images.
        """
        bad = {}  # example -> reason
        loaded, used = [], []
        at_once = self._at_once(order)
        index = self.first_row + np.arange(len(order), dtype=np.int32)
        for row, example in zip(index, order, strict=True):
            example, images = self._decode(int(example), bad, at_once)
            if len(bad) > self.max_bad_images:
                return {"bad": [(self._name(i), reason) for i, reason in bad.items()]}
            if self._flipped(step * self.batch_size + int(row)):
                images = [image[:, ::-1] for image in images]
            loaded.append(images)
            used.append(example)

        names = ("image", "target") if self.with_targets else ("image",)
        batch: dict[str, Any] = dict(
            zip(names, map(np.stack, zip(*loaded, strict=True)), strict=True)
        )
        batch["index"] = index
        if self.with_factors:
            batch["factors"] = self.source.factors(np.maximum(used, 0))
        if self.evaluation:
            batch["mask"] = np.asarray(used) != _PADDING
        batch["bad"] = [(self._name(i), reason) for i, reason in bad.items()]
        return batch

    def _at_once(self, order):
        """Example -> image of a source that reads many at once; of another one nothing."""
        if not hasattr(self.source, "read_many"):
            return {}
        examples = [int(example) for example in order if example != _PADDING]
        return dict(zip(examples, self.source.read_many(examples), strict=True))

    def _decode(self, example, bad, at_once):
        """Example to read -> (that was read or _PADDING, [image, target]); notes the bad ones."""
        while example != _PADDING and len(bad) <= self.max_bad_images:
            try:
                image = at_once[example] if example in at_once else self.source[example]
                images = [image, self.source.targets[example]] if self.with_targets else [image]
                return example, [self._resized(image, example) for image in images]
            except ImageError as error:
                bad[example] = str(error)
            example = _PADDING if self.evaluation else (example + 1) % len(self.source)
        nothing = np.zeros((*self.image_size, 3), np.uint8)
        return _PADDING, [nothing] * (2 if self.with_targets else 1)

    def _resized(self, image, example):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"{self._name(example)} of {type(self.source).__name__} is {image.dtype} "
                f"{list(image.shape)}, expected uint8 [H, W, 3]"
            )
        return resize_image(image, self.image_size)

    def _flipped(self, position):
        """The coin of a position in the global stream; NumPy keeps SeedSequence stable."""
        if self.flip_seed is None:
            return False
        return bool(np.random.SeedSequence((self.flip_seed, position)).generate_state(1)[0] & 1)

    def _name(self, example):
        names = getattr(self.source, "names", None)
        return names[example] if names else f"example {example}"


def _stop(running):
    while running:
        running.pop().close()


def _start_resource_tracker():
    """Starts multiprocessing's process that removes semaphores, which has SIGINT let in again.

    It also warns of those that a program has left that was ended at once, for which there is no
    need: it removes them.
    """
    if sys.platform != "win32":
        before = os.environ.get("PYTHONWARNINGS")
        os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
        try:
            multiprocessing.resource_tracker.ensure_running()
        finally:
            del os.environ["PYTHONWARNINGS"]
            if before is not None:
                os.environ["PYTHONWARNINGS"] = before


def _init_worker(worker, workers):
    """A worker leaves Ctrl-C to its parent, and ends with it even if that is killed."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker has one
    ends = parent.sentinel

    def follow():
        multiprocessing.connection.wait([ends])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
