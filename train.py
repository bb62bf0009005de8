"""Trains an encoder, a generator or a feature network: python train.py [--config=configs/ffhq.py].

Without arguments it trains e4e on the built-in toy domain.

On several hosts start one process each, with the same --workdir on a disk that all see:

  python train.py --coordinator=HOST0:1234 --num_processes=2 --process_id=0   (and 1 on the other)

A host that comes late is waited for. Where one ends, all end within a minute: that one with its
own exit code (1 for a mistake), the others with 75, "start all again": it may work the next time.
SIGTERM to one of them stops all at the same step, saved, with code 0.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("train.py")

import math
import os

from absl import app, flags, logging

from configs.command_line import define_config, parse_flags
from e4e_jax.training.config_table import check_run

_CONFIG = define_config("What to train")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, logs, pictures and the bundle go; by default runs/NAME."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, on clusters.")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes train together.", lower_bound=1, upper_bound=10**6
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "This process's number, from 0.", lower_bound=0, upper_bound=10**6
)


def main(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; options start with --.")
    logging.set_verbosity(logging.WARNING)  # Orbax tells a story of every save
    config = _CONFIG.value
    # Heavy imports wait until flags and config are known to be good.
    check_run(config)
    from e4e_jax.runtime import parallel
    from e4e_jax.runtime.tuning import set_up
    from e4e_jax.training import loop

    set_up(memory_first=_are_large(config.data.image_size))
    workdir = os.path.abspath(_WORKDIR.value or os.path.join("runs", config.name))
    hosts = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    with parallel.all_hosts(*hosts, advice="start all again with the same work directory"):
        loop.train(config, workdir)


def _are_large(size):
    """Whether images of this [height, width] fill a processor's cores."""
    return math.prod(size) >= 128 * 128  # measured at 256x256, and not so at 64x64


if __name__ == "__main__":
    program.end(program.run("train.py", lambda: app.run(main, flags_parser=parse_flags)))
