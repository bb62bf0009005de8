"""The metrics by name, and how a metric is written: NAME, NAME@NETWORK, or an import path.

To add one, write it in a file of this folder, after `metric.Metric`, and add its name here. One of
others is named by where it is, as `package.module:object`.
"""

import dataclasses
import re

from e4e_jax.runtime.registry import Registry

METRICS = Registry("metric", {
    # Of an image and its counterpart.
    "l2": "e4e_jax.metrics.pairs:L2",
    "psnr": "e4e_jax.metrics.pairs:PSNR",
    "ms_ssim": "e4e_jax.metrics.ms_ssim:MS_SSIM",
    "lpips": "e4e_jax.metrics.pairs:LPIPS",
    "perceptual": "e4e_jax.metrics.pairs:PERCEPTUAL",
    "id": "e4e_jax.metrics.pairs:ID",
    # Of two sets of images.
    "fid": "e4e_jax.metrics.fid:FID",
    "kid": "e4e_jax.metrics.kid:KID",
    "pr": "e4e_jax.metrics.precision_recall:PR",
    "swd": "e4e_jax.metrics.sliced_wasserstein:SWD",
    "is": "e4e_jax.metrics.inception_score:IS",
    # Of a model.
    "fid_edited": "e4e_jax.metrics.edited:FID_EDITED",
    "lec": "e4e_jax.metrics.lec:LEC",
    "ppl_z": "e4e_jax.metrics.path_length:PPL_Z",
    "ppl_w": "e4e_jax.metrics.path_length:PPL_W",
    "ppl_wend": "e4e_jax.metrics.path_length:PPL_WEND",
    "factors": "e4e_jax.metrics.regression:FACTORS",
    "time": "e4e_jax.metrics.speed:TIME",
})  # fmt: skip

_MOST = 10_000_000  # images of a set
_COUNT = re.compile(r"([1-9][0-9]{0,8})(k?)(_full)?")


@dataclasses.dataclass(frozen=True)
class Written:
    """A metric as it was written.

    Attributes:
      name: all of it.
      row: its name in `METRICS`, or its import path.
      network: what follows @: the network that is to measure; None for the metric's own.
      count: images of the measured set, None for all.
      reference_count: images of the reference set, None for all.
    """

    name: str
    row: str
    network: str | None = None
    count: int | None = None
    reference_count: int | None = None


def read_name(name: str) -> Written:
    """Takes "lpips", "fid10k", "kid50k_full@bundles/mine" or "package.module:object" apart.

    Counts are in the manner of NVIDIA's `fid50k_full`: `fid10k` compares the first 10,000 images
    of both sets, `fid10k_full` takes all of the reference set. Nothing is imported.

    Raises:
      ValueError: no such metric, or too many images; in one sentence.
    """
    row, at, network = name.partition("@")
    if at and not network:
        raise ValueError(f"{name:.80} names no network; expected one, as in fid@inception.")
    longest_first = sorted(METRICS, key=len, reverse=True)
    known = None if row in METRICS else next(filter(row.startswith, longest_first), None)
    match = _COUNT.fullmatch(row.removeprefix(known)) if known else None
    if known is None or match is None:
        METRICS.check(row)
        return Written(name, row, network or None)
    count = int(match[1]) * (1000 if match[2] else 1)
    if count > _MOST:
        raise ValueError(f"{name} asks for {count:,} images; expected at most {_MOST:,}.")
    return Written(name, known, network or None, count, None if match[3] else count)
