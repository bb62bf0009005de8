"""What `e4e_jax.load` returns: a bundle's networks behind a few compiled methods."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from e4e_jax import bundle
from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import resize_image, to_float, to_uint8
from e4e_jax.data.inputs import input_source, to_input
from e4e_jax.data.registry import Source
from e4e_jax.data.sources import ImageFiles
from e4e_jax.editing.edits import Edit, Latents
from e4e_jax.editing.files import load_directions
from e4e_jax.editing.finders import Finder, Found, Scored, find_directions
from e4e_jax.editing.written import WrittenEdit, parse_edit, resolve_edit
from e4e_jax.inversion.contract import Inverted, Method
from e4e_jax.inversion.invert import encode
from e4e_jax.inversion.methods import invert
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.stylegan2 import Generator, StyleCodes, class_generator

_DIRECTIONS = "directions.npz"  # beside a bundle


class GeneratorModel:
    """A generator: z -> w -> images.

    Attributes:
      generator: the network.
      latent_avg: [L, D], the code of the average image.
      resolution: R, side of the images.
      drawn_size: (height, width) of the part of the images that the model is about: the square, or
        of wide formats (cars) what lies between the bands above and below.
      num_styles: L.
      num_classes: of a class-conditional generator; 0 for one without classes.
      metadata: what its bundle notes, such as the images that it was trained on.
      directions_file: of `directions`; None for none.
    """

    def __init__(self, generator: Generator):
        self.metadata = {}
        self.generator = generator
        self.num_classes = generator.config.num_classes
        self.resolution = generator.config.resolution
        self.drawn_size = (self.resolution, self.resolution)
        self.num_styles = generator.config.num_styles
        self.latent_avg = generator.broadcast(generator.latent_avg[...][None])[0]
        self.directions_file: str | None = None
        self._edits: dict[WrittenEdit, Edit] = {}
        self._map = _compiled(generator, Generator.map)  # z, truncation_psi, label
        self._synthesize = _compiled(generator, _synthesize)

    def map(
        self, z: ArrayLike, label: ArrayLike | None = None, *, truncation_psi: float = 1.0
    ) -> jax.Array:
        """z [B, z_dim] -> w [B, D], pulled towards the average for `truncation_psi` < 1.

        Args:
          z: standard normal.
          label: of a class-conditional generator: a class, a class for each z [B], or weights of
            the classes [B, num_classes]. Its average is one for all classes, as published.
          truncation_psi: 1 for w as it is, 0 for the average.

        Raises:
          ValueError: z of another shape, or a label that does not fit the generator.
        """
        codes = _checked("z", z, (None, self.generator.config.z_dim))
        label = _checked_label(label, len(codes), self.num_classes)
        return self._map(codes, truncation_psi, label)

    def for_class(self, label: int) -> "GeneratorModel":
        """The generator of one class, without classes; see `stylegan2.class_generator`.

        Its `latent_avg` is the mean of that class.

        Raises:
          ValueError: the generator has no classes, or no such one.
        """
        model = GeneratorModel(class_generator(self.generator, label))
        model.directions_file = self.directions_file
        return model

    def broadcast(self, w: ArrayLike) -> jax.Array:
        """w [B, D] -> w_plus [B, L, D], the same w for every style."""
        return self.generator.broadcast(_checked("w", w, (None, self.generator.config.w_dim)))

    @functools.cached_property
    def directions(self) -> dict[str, np.ndarray]:
        """Editing directions by name, [D] or [L, D], of the file directions.npz beside the bundle.

        Training writes it beside the bundle of a generator. Empty where there is none.

        Raises:
          ValueError: the file is damaged; in one sentence.
        """
        return {} if self.directions_file is None else load_directions(self.directions_file)

    def edit(
        self, codes: Latents, *edits: str, directions: Mapping[str, np.ndarray] | None = None
    ) -> Latents:
        """Codes after edits, one after another, written as for the command `edit`.

        Args:
          codes: w_plus [B, L, D], or what an edit before has given.
          edits: such as "smile=1", "age@4-7=-0.5", "sefa_0=3", "pca_10@7-8:=-2" or "style:3:12=5",
            each with one strength; see `parse_edit` and `resolve_edit`.
          directions: by name, in place of the model's own.

        Returns:
          w_plus [B, L, D], or `StyleCodes` behind an edit of StyleSpace; `synthesize` takes both.

        Raises:
          ValueError: an edit that is not understood, that this model does not have, or that has
            several strengths; or codes of another shape; in one sentence.
        """
        codes = self._checked_codes(codes)
        for text in edits:
            written = parse_edit(text)
            if len(written.strengths) != 1:
                raise ValueError(
                    f"the edit {text:.80} has {len(written.strengths)} strengths; expected one."
                )
            edit = self.resolve_edit(written, directions)
            codes = edit.apply(self.generator, codes, written.strengths[0])
        return codes

    def resolve_edit(
        self, written: WrittenEdit, directions: Mapping[str, np.ndarray] | None = None
    ) -> Edit:
        """What a written edit does to codes of this model, among its own directions if None.

        Raises:
          ValueError: the model has no such edit; in one sentence.
        """
        if directions is not None:
            return resolve_edit(written, directions, self.generator)
        known = dataclasses.replace(written, strengths=())
        if known not in self._edits:  # it may take an eigendecomposition, or thousands of samples
            self._edits[known] = resolve_edit(written, self.directions, self.generator)
        return self._edits[known]

    def find_directions(
        self, method: str | Finder = "sefa", scored: Scored | None = None, **options
    ) -> Found:
        """Directions for `edit`, by a finder of `editing.registry.FINDERS`.

        Args:
          method: "sefa" and "ganspace", which need no scores; "interfacegan" and "stylespace",
            which do; or one of others', as an import path or a function; see `finders.Finder`.
          scored: codes with scores, such as `finders.score_samples` makes.
          **options: of the finder, such as `count=3`.

        Returns:
          name -> direction, whose `step` is an edit of strength 1.

        Raises:
          ValueError: there is no such finder or option, or it fails; in one sentence.
        """
        return find_directions(self, method, scored, **options)

    def synthesize(
        self,
        codes: Latents,
        key: jax.Array | None = None,
        *,
        noises: Sequence[jax.Array] | None = None,
    ) -> jax.Array:
        """Codes -> images [B, R, R, 3] in [-1, 1].

        Args:
          codes: w_plus [B, L, D], or what `edit` gives.
          key: draws random noise; without it the noise is the generator's constant one.
          noises: noise images of one's own, [B, r, r] for each layer.

        Raises:
          ValueError: codes of another shape, such as those of another generator.
        """
        return self._synthesize(self._checked_codes(codes), key, noises)

    def draw(self, codes: Latents, batch_size: int = 8) -> np.ndarray:
        """Codes of any number of images -> pictures as the commands write them.

        Args:
          codes: w_plus [N, L, D], or what `edit` gives.
          batch_size: images at a time.

        Returns:
          uint8 [N, height, width, 3] of `drawn_size`.

        Raises:
          ValueError: codes of another shape, or from which the generator draws no numbers.
        """
        return in_batches(
            lambda batch: _pictures(self.drawn(self.synthesize(batch))), (codes,), batch_size
        )

    def drawn(self, images: jax.Array) -> jax.Array:
        """The part [B, height, width, 3] of images [B, R, R, 3] that the model is about."""
        height, _ = self.drawn_size
        band = (self.resolution - height) // 2
        return images[:, band : band + height]

    def _checked_codes(self, codes) -> Latents:
        """The codes in float32, or a ValueError."""
        config, advice = self.generator.config, "; broadcast(w) makes them of w"
        own = isinstance(codes, StyleCodes)
        w_plus = codes.w_plus if own else codes
        w_plus = _checked("codes", w_plus, (None, self.num_styles, config.w_dim), advice=advice)
        if not own:
            return w_plus
        sizes = [(len(w_plus), conv.kernel.shape[2]) for conv in self.generator.synthesis.convs]
        if len(codes.styles) != len(sizes):
            raise ValueError(f"there are {len(codes.styles)} styles; expected {len(sizes)}.")
        styles = zip(codes.styles, sizes, strict=True)
        return StyleCodes(w_plus, tuple(_checked("styles", *style) for style in styles))


class Inverter(GeneratorModel):
    """An encoder and its generator: images -> codes -> images.

    Attributes:
      encoder: the network, in evaluation mode.
      image_size: (height, width) of the images that it reads.
      iterations: how often `encode` runs the encoder: 1, or as its configuration says (ReStyle).
      reads: what the encoder takes: "rgb" images, "grey" sketches or maps of "labels".

    Raises:
      ValueError: the encoder's codes are not the generator's.
    """

    def __init__(self, encoder: Encoder, generator: Generator):
        super().__init__(generator)
        self.encoder = encoder
        self.image_size = encoder.config.image_size
        self.reads = str(encoder.config.reads)
        height, width = self.image_size
        self.drawn_size = (self.resolution * height // width, self.resolution)
        codes = (encoder.config.num_styles, encoder.config.style_dim)
        if codes != self.latent_avg.shape:
            raise ValueError(
                f"The encoder makes codes of shape [B, {codes[0]}, {codes[1]}]; its generator "
                f"takes [B, {self.num_styles}, {generator.config.w_dim}]."
            )
        self.iterations = int(encoder.config.iterations or 1)
        self._encode = _compiled(
            nnx.Dict(encoder=encoder, generator=generator),
            lambda networks, images, iterations: encode(
                networks.encoder, networks.generator, images, iterations=iterations
            ),
        )

    def source(self, source: Source) -> Source:
        """Files of sketches or of maps of labels as RGB images; see `inputs.input_source`.

        Raises:
          ValueError: maps of labels are asked of a source that is no files.
        """
        return input_source(source, self.encoder.config)

    def to_input(self, images: ArrayLike) -> jax.Array:
        """RGB images [B, H, W, 3] in [-1, 1], as `source` gives them -> what `encode` takes."""
        checked = _checked_images(images, (None, *self.image_size, 3))
        return to_input(checked, self.encoder.config)

    def read_input(self, path: str | os.PathLike) -> jax.Array:
        """An image file -> what `encode` takes of it, [1, H, W, C], resized to `image_size`.

        Raises:
          ImageError: it cannot be decoded, or holds labels that the encoder does not know.
        """
        image = resize_image(self.source(ImageFiles([path]))[0], self.image_size)
        return self.to_input(to_float(image)[None])

    def encode(self, images: ArrayLike, iterations: int | None = None) -> jax.Array:
        """Images -> codes w_plus [B, L, D], `latent_avg` added.

        Args:
          images: [B, H, W, 3] in [-1, 1]; of an encoder that `reads` "grey" [B, H, W, 1] in [0, 1],
            of one of "labels" one-hot [B, H, W, C], both as `to_input` and `read_input` make them.
          iterations: of an iterative encoder; None for `self.iterations`.

        Raises:
          ValueError: images of another size than `image_size`, not of a float type, or sketches
            and labels of another range; or iterations of an encoder that has none.
        """
        config = self.encoder.config
        images = _checked_images(images, (None, *self.image_size, config.image_channels))
        if self.reads != "rgb":
            _check_range(images, self.reads)
        iterations = self.iterations if iterations is None else iterations
        if iterations < 1 or (iterations > 1 and not config.iterative):
            expected = "1 or more" if config.iterative else "1, for the encoder is not iterative"
            raise ValueError(f"iterations is {iterations}; expected {expected}.")
        return self._encode(images, iterations)

    def invert(self, images: jax.Array, method: str | Method = "encoder", **options) -> Inverted:
        """Images -> codes and their pictures, by a method of `inversion.registry.METHODS`.

        Args:
          images: as of `encode`.
          method: "encoder"; "w_plus", "w" and "pti", which optimise behind it; or one of others',
            as an import path or a function; see `inversion.contract.Method`.
          **options: of the method, such as `steps=100` and `perceptual="bundles/lpips"`.

        Returns:
          `codes` [B, L, D] and `images` [B, height, width, 3] of `drawn_size`; and what the method
          made besides: `noises`, or `generators`.

        Raises:
          ValueError: there is no such method or option, or the method fails; in one sentence.
        """
        return invert(self, images, method, **options)


class FeatureModel:
    """A network that measures images: a call is the network's, compiled.

    Attributes:
      network: the network, in evaluation mode, with what else it can do.
    """

    def __init__(self, network: nnx.Module):
        self.network = network
        self._call = _compiled(network, lambda network, *images: network(*images))

    def __call__(self, *images) -> jax.Array:
        """ArcFace, MoCo and the like: images [B, H, W, 3] -> [B, D]; LPIPS: two of them -> [B]."""
        return self._call(*(_checked_images(batch, (None, None, None, 3)) for batch in images))


def load(
    name: str | os.PathLike, *, dtype: DTypeLike | None = None
) -> GeneratorModel | FeatureModel:
    """See `e4e_jax.load`."""
    model = of_bundle(bundle.load_bundle(name, dtype=dtype))
    if isinstance(model, GeneratorModel):
        beside = os.path.join(os.path.dirname(bundle.resolve(name)), _DIRECTIONS)
        model.directions_file = beside if os.path.isfile(beside) else None
    return model


def of_bundle(opened: bundle.Bundle) -> GeneratorModel | FeatureModel:
    """What `load` gives of a bundle that is open already."""
    if opened.kind in ("inverter", "generator"):
        networks = opened.networks
        inverts = opened.kind == "inverter"
        model = Inverter(**networks) if inverts else GeneratorModel(networks["generator"])
        model.metadata = opened.metadata
        return model
    (network,) = opened.networks.values()
    return FeatureModel(network)


def _compiled(network, function):
    """function(network, ...) with the network's variables as arguments of the program.

    Unlike `nnx.jit` it does not look through the whole network at each call.
    """
    graph, state = nnx.split(network)
    program = jax.jit(lambda state, *args: function(nnx.merge(graph, state), *args))
    return lambda *args: program(state, *args)


def _synthesize(generator: Generator, codes, key, noises):
    if key is None:
        return generator.synthesis(codes, noise="constant" if noises is None else noises)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(codes.shape[0]))
    return generator.synthesis(codes, noise="random", keys=keys)


def _pictures(images) -> np.ndarray:
    images = np.asarray(images)
    if not np.isfinite(images).all():
        raise ValueError("the generator draws no finite numbers from these codes.")
    return to_uint8(images)


def _checked(name, array, shape, advice=""):
    """The array in float32, of the given shape (None for any size) or a ValueError."""
    array = jnp.asarray(array, jnp.float32)
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {array.shape}; expected [{expected}]{advice}.")
    return array


def _checked_label(label, batch, classes):
    """Weights of the classes [B, C] in float32, or None where there are none; or a ValueError."""
    if label is None and not classes:
        return None
    if label is None or not classes:
        found = "there is no label" if label is None else f"label is {np.asarray(label)!s:.40}"
        expected = f"a label of 0 to {classes - 1}" if classes else "none (truncation_psi by name)"
        raise ValueError(f"{found} and the generator has {classes} classes; expected {expected}.")
    label = np.asarray(label)
    if label.dtype.kind in "iu":
        if label.shape not in ((), (batch,)) or label.min() < 0 or label.max() >= classes:
            raise ValueError(
                f"label is {label!s:.40} of shape {label.shape}; expected one class or [{batch}] "
                f"classes, 0 to {classes - 1}."
            )
        label = np.eye(classes, dtype=np.float32)[np.broadcast_to(label, (batch,))]
    return _checked("label", label, (batch, classes), advice=", or whole numbers")


def _check_range(images, reads):
    """Raises ValueError for images that are no grey in [0, 1] or no one-hot labels."""
    lowest, highest = float(jnp.min(images)), float(jnp.max(images))
    if not (0 <= lowest and highest <= 1):
        raise ValueError(
            f"images are from {lowest:.3g} to {highest:.3g}; expected {reads} from 0 to 1, as "
            "read_input and to_input give it."
        )
    if reads == "labels" and float(jnp.min(jnp.sum(images, axis=-1))) < 0.99:
        raise ValueError("images have pixels without a class; expected one-hot labels.")


def _checked_images(images, shape):
    dtype = getattr(images, "dtype", None) or np.asarray(images).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"images are {dtype}; expected floats in [-1, 1], as uint8 / 127.5 - 1.")
    return _checked("images", images, shape)
