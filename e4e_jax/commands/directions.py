"""python -m e4e_jax directions OUT.npz: finds editing directions of a generator."""

import csv

import jax
import numpy as np
from flax import nnx

from e4e_jax import bundle
from e4e_jax.commands.pictures import add_class_flag, load_generator
from e4e_jax.editing.files import save_directions
from e4e_jax.editing.ganspace import ganspace_directions
from e4e_jax.editing.interfacegan import boundary, condition
from e4e_jax.editing.sefa import sefa_directions
from e4e_jax.editing.stylespace import attribute_channels
from e4e_jax.inversion.folder import load_latents
from e4e_jax.runtime.files import read_arrays, writing
from e4e_jax.runtime.tables import read_table
from e4e_jax.toy.faces import FACTORS
from e4e_jax.toy.features import ToyFeatures

_BATCH = 100


def add_directions(commands):
    parser = commands.add_parser("directions", help="find editing directions of a generator")
    parser.add_argument("out", help="the .npz file to write; a .csv file of stylespace")
    parser.add_argument(
        "--model", default="toy/generator", help="a bundle (default: toy/generator)"
    )
    parser.add_argument(
        "--method", choices=tuple(_METHODS), default="interfacegan",
        help="from scored codes; from the spread of w; from the generator's weights; from scored "
        "samples, single channels",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=10, help="how many; not of interfacegan")
    parser.add_argument("--samples", type=int, help="draws of w, of interfacegan and ganspace")
    parser.add_argument(
        "--scores", metavar="FILE",
        help="interfacegan: a .csv of columns name, ATTRIBUTE, ... with a header, or a .npz of "
        "arrays [N] in the order of --latents",
    )  # fmt: skip
    parser.add_argument("--latents", metavar="FILE", help="latents.npz that --scores are about")
    parser.add_argument(
        "--network", help="interfacegan without --scores: bundle of features that score samples"
    )
    parser.add_argument(
        "--condition", action="store_true", help="keep the other attributes (interfacegan)"
    )
    add_class_flag(parser)
    parser.set_defaults(run=_run)


def _run(flags):
    suffix = ".csv" if flags.method == "stylespace" else ".npz"
    if not flags.out.endswith(suffix):
        raise ValueError(
            f"{flags.out} is to hold what {flags.method} finds; expected a name in {suffix}."
        )
    model = load_generator(flags.model, flags.label)
    found = _METHODS[flags.method](flags, model)
    save = _save_channels if flags.method == "stylespace" else save_directions
    save(flags.out, found)
    print(f"{len(found)} {'attributes' if suffix == '.csv' else 'directions'}: {flags.out}")


def _sefa(flags, model):
    _check_count(flags, model)
    found = sefa_directions(model.generator, flags.count)
    return {f"sefa_{i}": direction for i, direction in enumerate(found)}


def _ganspace(flags, model):
    _check_count(flags, model)
    samples = 1_000_000 if flags.samples is None else flags.samples
    # All of them, for their shares of the whole variance.
    mean, components, deviations = ganspace_directions(
        model.generator, model.generator.config.w_dim, samples=samples
    )
    share = deviations**2 / np.sum(deviations**2)
    found = {"ganspace_mean": mean}
    for i, deviation in enumerate(deviations[: flags.count]):
        print(f"ganspace_{i}: standard deviation {deviation:.3g}, {share[i]:.1%} of the variance")
        found[f"ganspace_{i}"] = components[i] * deviation
    return found


def _check_count(flags, model):
    size = model.generator.config.w_dim
    if not 0 < flags.count <= size:
        raise ValueError(f"--count is {flags.count}; expected 1 to {size}.")


def _stylespace(flags, model):
    """Attribute -> [(layer, channel, mean)]; a channel is no direction of w."""
    if flags.count < 1:
        raise ValueError(f"--count is {flags.count}; expected at least 1.")
    codes, scores = _scored_codes(flags, model)
    found = {}
    for name, values in scores.items():
        known = np.isfinite(values)
        found[name] = attribute_channels(model.generator, codes[known], values[known], flags.count)
        edits = (f"style:{layer}:{channel}={mean:.2g}" for layer, channel, mean in found[name])
        print(f"{name}: {' '.join(edits)}")
    return found


def _save_channels(path, found):
    with writing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["attribute", "layer", "channel", "mean"])
        writer.writerows(
            [name, *channel] for name, channels in found.items() for channel in channels
        )


def _interfacegan(flags, model):
    codes, scores = _scored_codes(flags, model)
    found = {}
    for name, values in scores.items():
        known = np.isfinite(values)
        try:
            found[name], accuracy = boundary(codes[known], values[known])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        print(f"{name}: {accuracy:.1%} of held-out codes on their side of the boundary")
    if flags.condition and len(found) > 1:
        found = {
            name: condition(direction, [other for key, other in found.items() if key != name])
            for name, direction in found.items()
        }
    # A unit is one standard deviation of the codes along the direction, as GANSpace counts.
    return {name: d * np.std(codes @ d).astype(np.float32) for name, d in found.items()}


_METHODS = {
    "interfacegan": _interfacegan,
    "ganspace": _ganspace,
    "sefa": _sefa,
    "stylespace": _stylespace,
}


def _scored_codes(flags, model):
    """Codes w [N, D] and attribute -> scores [N]."""
    if flags.scores:
        if not flags.latents:
            raise ValueError("--scores are about codes; expected --latents=latents.npz with them.")
        names, codes = load_latents(flags.latents)
        size = model.generator.config.w_dim
        if not len(codes) or codes.shape[2] != size:
            raise ValueError(
                f"{flags.latents} holds codes {list(codes.shape)}; expected [N, L, {size}], as "
                "this generator takes them."
            )
        scores = _read_scores(flags.scores, names)
        return codes.mean(axis=1), scores  # in W: of every image its mean style
    if flags.network:
        return _score_samples(model, flags.network, flags.samples or 20_000)
    raise ValueError(f"{flags.method} needs scores: expected --scores=FILE or --network=BUNDLE.")


def _score_samples(model, name, samples):
    network = bundle.load_network(name)
    if not isinstance(network, ToyFeatures):
        raise ValueError(f"{name} gives no scores of attributes; expected toy/features.")

    @nnx.jit
    def draw(generator, network, key):
        w = generator.mapping(jax.random.normal(key, (_BATCH, generator.config.z_dim)))
        return w, network(generator.synthesis(generator.broadcast(w)))

    drawn = [
        jax.device_get(draw(model.generator, network, jax.random.fold_in(jax.random.key(0), i)))
        for i in range(-(-samples // _BATCH))
    ]
    codes, factors = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return codes, dict(zip(FACTORS, factors.T, strict=True))


def _read_scores(path, names) -> dict[str, np.ndarray]:
    """Attribute -> scores [N] in the order of names; NaN where a name has none."""
    if path.lower().endswith(".npz"):
        scores = read_arrays(path, "scores")
        if not scores:
            raise ValueError(f"{path} has no scores; expected arrays [{len(names)}].")
        for key, values in scores.items():
            if values.shape != (len(names),) or values.dtype.kind not in "biuf":
                raise ValueError(
                    f"{path}: {key} is {values.dtype} of shape {list(values.shape)}; expected "
                    f"numbers of shape [{len(names)}], one for each of the latents."
                )
            if np.isinf(values).any():
                raise ValueError(f"{path}: {key} holds infinity; expected numbers, or NaN.")
        return {key: values.astype(np.float64) for key, values in scores.items()}
    columns, known = read_table(path, "scores")
    if known.keys().isdisjoint(names):
        raise ValueError(
            f"{path} and the latents have no name in common, {next(iter(known))!r} and "
            f"{names[0]!r} for instance."
        )
    table = np.array([known.get(name, [np.nan] * len(columns)) for name in names])
    return dict(zip(columns, table.T, strict=True))
