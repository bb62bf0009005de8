"""Measures a model or a folder of images: python eval.py [--checkpoint=...] [--metrics=l2,fid,...].

Without arguments it evaluates the shipped toy inverter on drawn faces that it has not seen.

  python eval.py --checkpoint=bundles/e4e_ffhq --images=CELEBA_HQ_TEST --metrics=l2,lpips,id,fid
  python eval.py --checkpoint=runs/ffhq --config=configs/ffhq.py   (the config's held-out images;
      of a run that goes on or was stopped the newest checkpoint, or that of --step=100000)
  python eval.py --images=INVERSIONS --against=ORIGINALS --metrics=l2,lpips
  python eval.py --checkpoint=bundles/stylegan2_ffhq --images=FFHQ --metrics=fid50k_full
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("eval.py")

import dataclasses
import os
import re
import sys

from absl import app, flags, logging

from configs.command_line import define_config, parse_flags
from e4e_jax.training.config_table import check_config

_CONFIG = define_config(
    "Whose held-out images are taken where --images names none, and whose edits LEC makes"
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "A bundle, or the work directory of a run, also of one that goes on; by default 'toy'.",
)
_STEP = flags.DEFINE_integer(
    "step", None, "Of a run: the checkpoint to take; by default the newest.", lower_bound=0
)
_CLASS = flags.DEFINE_integer(
    "class", None, "Of a class-conditional generator: the class that samples are drawn of, from 0."
)
_IMAGES = flags.DEFINE_string(
    "images", None, "Folder of images to invert; of those that --against is compared with."
)
_AGAINST = flags.DEFINE_string(
    "against", None, "Folder of reference images: no model, two folders are compared."
)
_METRICS = flags.DEFINE_list(
    "metrics", None, "Names of metrics, see e4e_jax/metrics/table.py; fid10k takes 10,000 images."
)
_EDITS = flags.DEFINE_spaceseplist(
    "edits", None, "Edits of LEC, such as 'smile=1 age@4-7=-1,1'; by default those of the config."
)
_DIRECTIONS = flags.DEFINE_multi_string(
    "directions", None, "Files of directions for --edits; by default that of the config."
)
_NETWORKS = flags.DEFINE_string("networks", "bundles", "Folder of the bundles that measure.")
_SIZE = flags.DEFINE_list(
    "size", None, "Height,width to which the images of both folders are resized, with --against."
)
_ALLOW_UNMATCHED = flags.DEFINE_bool(
    "allow_unmatched", False, "Leave out images that have no counterpart, with --against."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 16, "Images at a time, of all devices together.",
    lower_bound=1, upper_bound=2**20,
)  # fmt: skip
_CACHE = flags.DEFINE_string(
    "cache", None, "Folder that remembers results; by default ~/.cache/e4e_jax, '' for none."
)
_OUT = flags.DEFINE_string("out", "runs/evaluation", "Where metrics.json and images.csv go.")

_TOY_METRICS = ["l2", "ms_ssim", "toy_perceptual", "toy_id", "toy_fid", "swd", "lec", "toy_r2",
                "time"]  # fmt: skip
_METRICS_OF_THE_PAPER = ["l2", "lpips", "id", "fid", "swd"]


def main(argv):
    if code := program.run("eval.py", lambda: _main(argv), several_lines=True):
        sys.exit(code)


def _main(argv):
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; options start with --.")
    logging.set_verbosity(logging.WARNING)
    config = _CONFIG.value
    # Heavy imports wait until flags and config are known to be good.
    check_config(config)
    from e4e_jax.runtime import parallel
    from e4e_jax.runtime.tuning import set_up

    set_up()
    with parallel.all_hosts():
        _evaluate(config)


def _evaluate(config):
    import jax

    from e4e_jax import api
    from e4e_jax.bundle import hash_files
    from e4e_jax.metrics import figures, networks, table
    from e4e_jax.metrics.cache import Cache, default_folder
    from e4e_jax.metrics.speed import seconds_per_image
    from e4e_jax.runtime.progress import ProgressBar
    from e4e_jax.training.export import open_model

    if os.path.lexists(_OUT.value) and not os.path.isdir(_OUT.value):  # before the work
        raise ValueError(f"--out is {_OUT.value}, which is no folder.")
    on_toy = not (_IMAGES.value or _AGAINST.value) and config.data.source == "toy"
    names = _METRICS.value or (_TOY_METRICS if on_toy else _METRICS_OF_THE_PAPER)
    requests = [table.parse_metric(name) for name in dict.fromkeys(names)]
    paths = networks.find_networks({r.metric.network for r in requests} - {None}, _NETWORKS.value)
    if _AGAINST.value:
        model, model_networks, passes = None, {}, _folder_passes(requests)
    else:
        checkpoint = _CHECKPOINT.value or "toy"
        model, key = open_model(checkpoint, _STEP.value)
        if not isinstance(model, api.GeneratorModel):
            raise ValueError(
                f"{checkpoint} is a feature network; expected an inverter or a generator."
            )
        if _CLASS.value is not None:
            model, key = model.for_class(_CLASS.value), [key, _CLASS.value]
        elif model.num_classes:
            raise ValueError(
                f"{checkpoint} draws one of {model.num_classes} classes; expected --class, 0 to "
                f"{model.num_classes - 1}."
            )
        model_networks, passes = _model_passes(config, requests, model, key)
    requests = [_completed(request, config, model) for request in requests]

    folder = default_folder() if _CACHE.value is None else os.path.expanduser(_CACHE.value)
    with jax.default_matmul_precision("highest"):
        found, values, rows = figures.measure(
            requests,
            passes,
            networks.load_networks(paths) | model_networks,
            {name: hash_files(path) for name, path in paths.items()},
            cache=Cache(folder or None),
            progress=ProgressBar,
        )
    for request in requests:
        if isinstance(request.metric, table.SpeedMetric):
            label = f"{request.metric.features}, {jax.devices()[0].device_kind}"
            for part, seconds in seconds_per_image(model).items():
                found.append(figures.Figure(f"{request.name} {part}, s", seconds, 1, None, label))
    if jax.process_index() == 0:
        _report(found, values, rows)


def _report(found, values, rows):
    import e4e_jax
    from e4e_jax.metrics import figures

    print(figures.format_figures(found))
    os.makedirs(_OUT.value, exist_ok=True)
    written = [os.path.join(_OUT.value, "metrics.json")]
    about = {
        "checkpoint": None if _AGAINST.value else _CHECKPOINT.value or "toy",
        "images": _IMAGES.value or f"held-out images of config {_CONFIG.value.name}",
        "against": _AGAINST.value,
        "version": e4e_jax.__version__,
    }
    figures.write_json(written[0], found, about)
    if values:
        written.append(os.path.join(_OUT.value, "images.csv"))
        figures.write_csv(written[1], rows, values)
    print("\n" + "\n".join(written))


def _completed(request, config, model):
    """The request with what only the config and the model know; says what does not fit."""
    from e4e_jax.metrics import table
    from e4e_jax.toy.faces import FACTORS

    metric = request.metric
    if isinstance(metric, table.SpeedMetric) and model is None:
        raise ValueError(f"{request.name} needs a model; --against compares images alone.")
    if isinstance(metric, table.FactorMetric):
        metric = dataclasses.replace(metric, names=FACTORS)
    if isinstance(metric, table.ConsistencyMetric):
        if not hasattr(model, "encode"):
            raise ValueError(f"{request.name} needs an encoder and its generator (an inverter).")
        metric = dataclasses.replace(metric, edits=tuple(_edits(config, model)))
    return dataclasses.replace(request, metric=metric)


def _edits(config, model):
    """(name, direction, strength) of the edits that the flags name, or else the config shows."""
    from e4e_jax import bundle
    from e4e_jax.editing.edits import DirectionEdit
    from e4e_jax.editing.files import load_directions
    from e4e_jax.editing.written import parse_edit, resolve_edit

    directions = {}
    section = config.get("edits", {"directions": "", "shown": ()})  # only an encoder's has some
    for file in _DIRECTIONS.value or filter(None, [section["directions"]]):
        directions |= load_directions(bundle.resolve(file))
    texts = _EDITS.value or [f"{name}={strength:g}" for name, strength in section["shown"]]
    if not texts:
        raise ValueError(f"lec needs edits, and config {config.name} shows none; expected --edits.")
    for text in texts:
        written = parse_edit(text)
        edit = resolve_edit(written, directions, model.generator)
        if not isinstance(edit, DirectionEdit):
            raise ValueError(f"{text} is no step along a direction of codes, as lec takes it.")
        for strength in written.strengths:
            yield f"{written.label}={strength:g}", edit.direction, strength


def _model_passes(config, requests, model, model_key):
    """The networks of an inverter or a generator, and the ways through its images."""
    from e4e_jax.data.registry import build_source
    from e4e_jax.data.same_on_hosts import check_same_on_hosts
    from e4e_jax.data.sources import ImageFolder
    from e4e_jax.metrics import passes

    if _IMAGES.value:
        source = ImageFolder(os.path.expanduser(_IMAGES.value))
    else:
        source = build_source(config.data, held_out=True)
    check_same_on_hosts(source, "images")
    batch_size = _global_batch_size()
    if hasattr(model, "encode"):
        inversions = passes.inversion_pass(
            source,
            *passes.inversion_functions(model),
            image_size=model.image_size,
            batch_size=batch_size,
            model_key=model_key,
        )
        return {"encoder": model.encoder, "generator": model.generator}, [inversions]

    def generate(networks, z):
        generator = networks["generator"]
        return generator.synthesis(generator.broadcast(generator.mapping(z)))

    size = (model.resolution, model.resolution)
    samples = passes.sample_pass(
        generate,
        max(request.count or len(source) for request in requests),
        z_dim=model.generator.config.z_dim,
        image_size=size,
        batch_size=batch_size,
        model_key=model_key,
    )
    references = passes.image_pass(source, "reference", image_size=size, batch_size=batch_size)
    return {"generator": model.generator}, [references, samples]


def _folder_passes(requests):
    """The ways through the images of two folders: each by itself, and in pairs if need be."""
    from e4e_jax.data.same_on_hosts import check_same_on_hosts
    from e4e_jax.data.sources import ImageFolder
    from e4e_jax.metrics import passes

    if _CHECKPOINT.value or not _IMAGES.value:
        raise ValueError(
            "--against names the reference of another folder; expected --images beside it and no "
            "--checkpoint."
        )
    measured, reference = (
        ImageFolder(os.path.expanduser(path)) for path in (_IMAGES.value, _AGAINST.value)
    )
    check_same_on_hosts(measured, "images")
    check_same_on_hosts(reference, "reference images")
    if _SIZE.value:
        size = _parse_size(_SIZE.value)
    else:
        size = reference[0].shape[:2]
        measured, reference = (passes.SameSize(source, size) for source in (measured, reference))
    common = {"image_size": size, "batch_size": _global_batch_size()}
    found = [
        passes.image_pass(reference, "reference", **common),
        passes.image_pass(measured, "measured", **common),
    ]
    if any(c.role == "pairs" for r in requests for c in r.metric.columns().values()):
        allowed = _ALLOW_UNMATCHED.value
        found.append(passes.pair_pass(reference, measured, allow_unmatched=allowed, **common))
    return found


def _global_batch_size() -> int:
    """--batch_size, rounded up to the same number of images for every device."""
    import jax

    return -(-_BATCH_SIZE.value // jax.device_count()) * jax.device_count()


def _parse_size(values):
    if len(values) != 2 or not all(re.fullmatch(r" *[1-9][0-9]{0,3} *", v) for v in values):
        raise ValueError(
            f"--size is {','.join(values):.80}; expected height,width such as 256,256, of at most "
            "9999 each."
        )
    return int(values[0]), int(values[1])


if __name__ == "__main__":
    program.end(program.run("eval.py", lambda: app.run(main, flags_parser=parse_flags)))
