"""Measures a model or a folder of images: python eval.py [--checkpoint=...] [--metrics=l2,fid,...].

Without arguments it evaluates the shipped toy inverter on drawn faces that it has not seen.

  python eval.py --checkpoint=bundles/e4e_ffhq --images=CELEBA_HQ_TEST --metrics=l2,lpips,id,fid
  python eval.py --checkpoint=runs/ffhq --config=configs/ffhq.py   (the config's held-out images)
  python eval.py --images=INVERSIONS --against=ORIGINALS --metrics=l2,lpips
  python eval.py --checkpoint=bundles/stylegan2_ffhq --images=FFHQ --metrics=fid50k_full
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("eval.py")

import os
import sys

from absl import app, flags, logging

from configs.command_line import define_config, parse_flags, parse_size
from e4e_jax.training.config_table import check_config

_CONFIG = define_config("Whose images, metrics and edits are taken where no flag names any")
flags.DEFINE_string("checkpoint", None, "A bundle, or a run's work directory; or else 'toy'.")
flags.DEFINE_integer("step", None, "Of a run: the checkpoint; the newest if None.", lower_bound=0)
flags.DEFINE_integer("class", None, "Of a class-conditional generator: the class, from 0.")
flags.DEFINE_string("images", None, "Folder of images to measure with, or to compare.")
flags.DEFINE_string("against", None, "Folder that --images is compared with; no model.")
flags.DEFINE_list("metrics", None, "Of e4e_jax/metrics/registry.py, or package.module:object.")
flags.DEFINE_spaceseplist("edits", None, "Edits for lec, such as 'smile=1 age@4-7=-1,1'.")
flags.DEFINE_multi_string("directions", None, "Files of directions for --edits.")
flags.DEFINE_string("networks", "bundles", "Folder of the bundles of published networks.")
flags.DEFINE_list("size", None, "Height,width to which images of two folders are resized.")
flags.DEFINE_bool("allow_unmatched", False, "Leave out images that have no counterpart.")
flags.DEFINE_integer("batch_size", 16, "Images at a time, of all devices together.", 1, 2**20)
flags.DEFINE_string("cache", None, "Folder of results; ~/.cache/e4e_jax if None, '' for none.")
flags.DEFINE_string("out", "runs/evaluation", "Where metrics.json and images.csv go.")


def main(argv):
    if code := program.run("eval.py", lambda: _main(argv, flags.FLAGS), several_lines=True):
        sys.exit(code)


def _main(argv, given):
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; options start with --.")
    if os.path.lexists(given.out) and not os.path.isdir(given.out):  # before the work
        raise ValueError(f"--out is {given.out}, which is no folder.")
    logging.set_verbosity(logging.WARNING)
    check_config(_CONFIG.value)
    # Heavy imports wait until flags and config are known to be good.
    from e4e_jax.runtime import parallel
    from e4e_jax.runtime.tuning import set_up

    set_up()
    with parallel.all_hosts():
        _evaluate(given, _CONFIG.value)


def _evaluate(given, config):
    import e4e_jax
    from e4e_jax.data.registry import build_source
    from e4e_jax.training.export import open_model

    if given.against and (given.checkpoint or not given.images):
        raise ValueError("with --against expected --images beside it and no --checkpoint.")
    checkpoint = None if given.against else given.checkpoint or "toy"
    own = not (given.images or given.against)  # the config's own images
    shown = config.get("edits", {"directions": "", "shown": ()})  # an encoder's config has some
    report = e4e_jax.evaluate(
        open_model(checkpoint, given.step) if checkpoint else None,
        build_source(config.data, held_out=True) if own else given.images,
        given.metrics or (config.evaluation.metrics if own else None),
        edits=given.edits or [f"{name}={strength:g}" for name, strength in shown["shown"]],
        directions=given.directions or list(filter(None, [shown["directions"]])),
        reference=given.against,
        label=given["class"].value,
        bundles=given.networks,
        image_size=given.size and parse_size(given.size),
        allow_unmatched=given.allow_unmatched,
        batch_size=given.batch_size,
        cache=given.cache,
    )
    images = given.images or f"held-out images of config {config.name}"
    report.publish(given.out, checkpoint=checkpoint, images=images, against=given.against)


if __name__ == "__main__":
    program.end(program.run("eval.py", lambda: app.run(main, flags_parser=parse_flags)))
