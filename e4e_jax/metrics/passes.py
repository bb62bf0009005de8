"""The ways through images that there are: inversions, samples, a folder, pairs of two folders.

Synthesised images are clipped to [-1, 1], as a file or a screen does it, but not rounded to 8 bits:
rounding would turn the last bit of a float, which depends on the batch size and the device, into
whole levels. A model and the files that it writes therefore differ by the noise of that rounding.

What columns can read, by their role:
  pairs, measured, reference: images [B, H, W, 3] in [-1, 1], "reference" and "measured" as far as
    the pass has them.
  codes: of inversions, beside these: "codes" w_plus [B, L, D], "generator", and the functions
    "encode" (images -> codes) and "synthesize" (latents -> images of the encoder's size).
  latents: of samples, beside "measured": the draws "z" [B, Z], a "key" [B] for each, and the
    functions "mapping" (z -> w) and "synthesize w" (w [B, D] -> images).
  factors: of sources that know them, "factors" [B, K].
Everywhere "index" [B] numbers the images.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from e4e_jax.data.images import ImageError, to_float
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.registry import Source
from e4e_jax.data.sources import Subset
from e4e_jax.inversion import invert
from e4e_jax.metrics.cache import identify_images
from e4e_jax.metrics.columns import Pass
from e4e_jax.runtime.hosts import ALL_OF_IT, Share

_LISTED = 10  # names in an error message


def inversion_functions(model: Any) -> tuple[Callable, Callable]:
    """An inverter's `encode`, and its synthesis at the encoder's size, as `inversion_pass` takes
    them: functions of the networks "encoder" and "generator", traceable.

    Raises:
      ValueError: the encoder reads something else than images.
    """
    config = model.encoder.config
    if config.reads != "rgb":
        what = {"grey": "sketches", "labels": "maps of labels"}[config.reads]
        raise ValueError(
            f"the encoder reads {what}, which its images cannot be compared with; expected "
            "--images=OUT of `invert` and --against=PHOTOGRAPHS."
        )

    def encode(networks, images):
        parts = networks["encoder"], networks["generator"]
        return invert.encode(*parts, images, iterations=model.iterations)

    def synthesize(networks, codes):
        return invert.synthesize_like(networks["generator"], codes, config.image_size)

    return encode, synthesize


def inversion_pass(
    source: Source,
    encode: Callable,
    synthesize: Callable,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    model_key: Any,
    share: Share = ALL_OF_IT,
) -> Pass:
    """Images, or the targets that their source has for them, against their inversions.

    Args:
      source: of images, see `data.sources`.
      encode: (networks, images [B, H, W, 3]) -> codes; traceable.
      synthesize: (networks, codes) -> images of the same size; traceable.
      image_size: (height, width) that `encode` reads; images of another size are resized.
      batch_size: images at a time, of all devices and hosts.
      model_key: what the inversions depend on beside the images, for the cache.
      share: the hosts that go this way together, see `runtime.hosts.Share`.
    """

    def images(networks, arrays):
        codes = encode(networks, to_float(arrays["image"]))
        return arrays | {
            "reference": to_float(arrays.get("target", arrays["image"])),
            "codes": codes,
            "measured": jnp.clip(synthesize(networks, codes), -1, 1),
            "generator": networks["generator"],
            "encode": lambda images: encode(networks, images),
            "synthesize": lambda codes: synthesize(networks, codes),
        }

    with_factors = hasattr(source, "factors")
    key = _images_key(source, image_size)
    inverted = None if None in (key, model_key) else [key, model_key]
    roles = {"pairs": inverted, "codes": inverted, "measured": inverted, "reference": key}
    return Pass(
        count=len(source),
        batch_size=batch_size,
        batches=lambda: _read(source, image_size, batch_size, share, with_factors),
        images=images,
        identities=roles | ({"factors": key} if with_factors else {}),
        share=share,
        image_size=image_size,
        names=_names(source),
        where=_where(source),
    )


def image_pass(
    source: Source,
    role: str,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    share: Share = ALL_OF_IT,
) -> Pass:
    """A set of images alone; role: "reference" or "measured", which comes with its factors."""
    with_factors = role == "measured" and hasattr(source, "factors")
    roles = dict.fromkeys(
        [role, *(["factors"] if with_factors else [])], _images_key(source, image_size)
    )
    return Pass(
        count=len(source),
        batch_size=batch_size,
        batches=lambda: _read(source, image_size, batch_size, share, with_factors),
        images=lambda networks, arrays: arrays | {role: to_float(arrays["image"])},
        identities=roles,
        share=share,
        image_size=image_size,
        names=_names(source),
        where=_where(source),
    )


def networks_of(model: Any) -> dict[str, nnx.Module]:
    """The networks of an inverter or a generator, by the names that the functions here know."""
    found = {"generator": model.generator}
    return found | {"encoder": model.encoder} if hasattr(model, "encode") else found


def sampling_functions() -> tuple[Callable, Callable]:
    """A generator's mapping network, and its synthesis of w, as `sample_pass` takes them."""

    def synthesize(networks, w):
        generator = networks["generator"]
        return generator.synthesis(generator.broadcast(w))

    return lambda networks, z: networks["generator"].mapping(z), synthesize


def sample_pass(
    mapping: Callable,
    synthesize: Callable,
    count: int,
    *,
    z_dim: int,
    image_size: tuple[int, int],
    batch_size: int,
    model_key: Any,
    share: Share = ALL_OF_IT,
) -> Pass:
    """A generator's images of random z; sample i is a function of i.

    Args:
      mapping: (networks, z [B, z_dim]) -> w; traceable.
      synthesize: (networks, w) -> images; traceable.
      count: how many.
      z_dim, image_size: the generator's.
      batch_size, model_key, share: as for `inversion_pass`.
    """
    rows = batch_size // share.hosts
    key = None if model_key is None else [model_key, "samples"]

    def batches():
        for start in range(0, count, batch_size):
            index = start + share.host * rows + np.arange(rows)
            yield index, index < count, {}

    def images(networks, arrays):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(arrays["index"])
        z = jax.vmap(lambda key: jax.random.normal(key, (z_dim,)))(keys)
        return arrays | {
            "key": keys,
            "z": z,
            "measured": jnp.clip(synthesize(networks, mapping(networks, z)), -1, 1),
            "mapping": lambda z: mapping(networks, z),
            "synthesize w": lambda w: synthesize(networks, w),
        }

    return Pass(
        count=count,
        batch_size=batch_size,
        batches=batches,
        images=images,
        identities={"measured": key, "latents": key},
        share=share,
        image_size=image_size,
        names=[f"sample {i}" for i in range(count)],
        where="the generator",
    )


def pair_pass(
    reference: Source,
    measured: Source,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    share: Share = ALL_OF_IT,
    allow_unmatched: bool = False,
) -> Pass:
    """Images of two folders in pairs of one name, whatever their extensions are.

    Raises:
      ValueError: names that only one folder has, unless they are allowed; no common name; a name
        twice in one folder.
    """
    pairs = _match(reference, measured, allow_unmatched)
    sources = [
        Subset(source, [pair[side] for pair in pairs])
        for side, source in enumerate((reference, measured))
    ]

    def batches():
        streams = (_read(source, image_size, batch_size, share) for source in sources)
        for (index, mask, first), (_, _, second) in zip(*streams, strict=True):
            yield index, mask, {"image": first["image"], "other": second["image"]}

    def images(networks, arrays):
        del networks
        return arrays | {
            "reference": to_float(arrays["image"]),
            "measured": to_float(arrays["other"]),
        }

    keys = [_images_key(source, image_size) for source in (reference, measured)]
    return Pass(
        count=len(pairs),
        batch_size=batch_size,
        batches=batches,
        images=images,
        identities={"pairs": None if None in keys else keys},
        share=share,
        image_size=image_size,
        names=[reference.names[i] for i, _ in pairs],
        where=f"{_where(reference)} with {_where(measured)}",
    )


@dataclasses.dataclass(frozen=True)
class SameSize:
    """Images that must all have one size: another one is an ImageError, naming it."""

    source: Any
    image_size: tuple[int, int]

    @property
    def names(self) -> Sequence[str]:
        return _names(self.source)

    @property
    def paths(self) -> Any:
        return self.source.paths

    @property
    def origins(self) -> Any:
        return getattr(self.source, "origins", {})

    @property
    def where(self) -> str:
        return _where(self.source)

    @property
    def factors(self) -> Any:
        return self.source.factors

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        image = self.source[index]
        if image.shape[:2] != tuple(self.image_size):
            found, expected = ("x".join(map(str, s)) for s in (image.shape[:2], self.image_size))
            name = getattr(self.source, "paths", self.names)[index]
            raise ImageError(
                f"{name} is {found} pixels; expected {expected} like the first reference image"
            )
        return image


def _match(reference, measured, allow_unmatched) -> list[tuple[int, int]]:
    """Indices of the images of both folders that share a name, in the order of the first.

    Where a folder holds inversions that know their inputs, these are their names. Equal names go
    first, and then, of the rest, those that differ in their extension alone.
    """
    sides = [_input_names(source) for source in (reference, measured)]
    places = [{name: i for i, name in enumerate(names)} for names in sides]
    found = {i: places[1][name] for name, i in places[0].items() if name in places[1]}
    by_stem = []
    for source, names, paired in zip(
        (reference, measured), sides, (found.keys(), set(found.values())), strict=True
    ):
        stems = {}
        for i, name in enumerate(names):
            stem = os.path.splitext(name)[0]
            if i not in paired and stem in stems:
                raise ValueError(
                    f"{_where(source)} holds {source.names[stems[stem]]} and {source.names[i]}; "
                    "expected names that differ in more than their extension, to pair images by "
                    "them."
                )
            if i not in paired:
                stems[stem] = i
        by_stem.append(stems)
    found |= {i: by_stem[1][stem] for stem, i in by_stem[0].items() if stem in by_stem[1]}
    common = sorted(found.items())
    alone = []
    for source, paired in ((reference, found.keys()), (measured, set(found.values()))):
        names = [name for i, name in enumerate(source.names) if i not in paired]
        if names:
            alone.append(f"{_where(source)}: {_listed(names)}")
    if not common or (alone and not allow_unmatched):
        raise ValueError(
            f"there are images without a counterpart of the same name ({'; '.join(alone)})"
            + (", and no pair at all." if not common else "; --allow_unmatched leaves them out.")
        )
    return common


def _input_names(source) -> list[str]:
    origins = getattr(source, "origins", {})
    return [origins.get(name, name) for name in source.names]


def _listed(names):
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _read(source, image_size, batch_size, share, with_factors=False):
    pipeline = make_pipeline(
        source,
        batch_size=batch_size,
        image_size=image_size,
        seed=0,
        shuffle=False,
        repeat=False,
        with_factors=with_factors,
        host=share.host,
        hosts=share.hosts,
    )
    try:
        for number, batch in enumerate(pipeline):
            index = number * batch_size + batch.pop("index").astype(np.int64)
            yield index, batch.pop("mask"), batch
    except ImageError:
        reason = next(iter(pipeline.bad_images.values()), "an image cannot be decoded")
        raise ImageError(
            f"{reason}; every image counts in a metric: replace or remove it."
        ) from None
    finally:
        pipeline.close()


def _images_key(source, image_size):
    key = identify_images(source)
    return None if key is None else [key, list(image_size)]


def _names(source) -> list[str]:
    return list(getattr(source, "names", None) or (f"image {i}" for i in range(len(source))))


def _where(source) -> str:
    return str(getattr(source, "where", None) or getattr(source, "path", "the source of images"))
