"""python -m e4e_jax export WORKDIR OUT: a bundle of a run that goes on or was stopped."""

from typing import Any

from e4e_jax.inversion.domain import STEP
from e4e_jax.training.export import export_run


def add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export", help="make a bundle of a training run, which may go on meanwhile"
    )
    parser.add_argument("workdir", help="the work directory of train.py")
    parser.add_argument("out", help="the bundle's folder")
    parser.add_argument(
        "--step", type=int, help="of the checkpoint to take (default: the newest whole one)"
    )
    parser.add_argument(
        "--half", action="store_true", help="numbers in float16: half the size, three digits"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle at OUT")
    parser.set_defaults(run=_run)


def _run(flags):
    made = export_run(
        flags.workdir, flags.out, flags.step, half=flags.half, overwrite=flags.overwrite
    )
    print(f"{made.kind} of step {made.metadata[STEP]} ({', '.join(made.networks)}): {flags.out}")
