"""How many images a second the data pipeline delivers: python -m benchmarks.pipeline.

Writes JPEGs of noise-like detail to a temporary folder and reads them as training does, shuffled
and flipped, by number of worker processes (0: threads of this process).
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.pipeline")

import argparse
import io
import os
import statistics
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import common, machine
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.sources import ImageFolder


def write_jpegs(folder, count: int, side: int) -> float:
    """Writes `count` JPEGs [side, side] of quality 95; returns their mean size in bytes.

    A smooth picture with some noise: about as many bytes as a photograph has.
    """
    rng = np.random.default_rng(0)
    total = 0
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        picture = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=95)
        total += buffer.tell()
        with open(os.path.join(folder, f"{i:06d}.jpg"), "wb") as file:
            file.write(buffer.getvalue())
    return total / count


def images_per_second(folder, side, batch, workers, batches, repeats=3) -> list[float]:
    """Rates of `repeats` stretches of `batches` batches, after the workers have started."""
    pipeline = make_pipeline(
        ImageFolder(folder),
        batch_size=batch,
        image_size=(side, side),
        seed=0,
        flip=True,
        workers=workers,
    )
    rates = []
    try:
        for _ in range(max(2, 2 * workers)):  # past the start and what was read ahead meanwhile
            next(pipeline)
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in range(batches):
                next(pipeline)
            rates.append(batches * batch / (time.perf_counter() - start))
    finally:
        pipeline.close()
    return rates


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--images", type=int, default=1000, help="JPEGs to write")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=100, help="of a timed stretch")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    flags = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = write_jpegs(folder, flags.images, flags.size)
        rates = {
            workers: images_per_second(folder, flags.size, flags.batch, workers, flags.batches)
            for workers in flags.workers
        }
    result = {
        "benchmark": "pipeline",
        "machine": machine.describe(),
        "images": {"count": flags.images, "side": flags.size, "mean_bytes": mean_bytes},
        "batch": flags.batch,
        "images_per_second": rates,
    }
    about = result["machine"]
    print(f"pipeline: {about['device']}, {about['cores']} cores; batches of {flags.batch},")
    print(f"JPEGs of {flags.size}x{flags.size} and {mean_bytes / 1024:.0f} KB\n")
    print(f"{'workers':>8}{'images/s':>10}{'min':>8}{'max':>8}")
    for workers, values in rates.items():
        print(f"{workers:8}{statistics.median(values):10.0f}{min(values):8.0f}{max(values):8.0f}")
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    program.end(program.run("benchmarks.pipeline", main))
