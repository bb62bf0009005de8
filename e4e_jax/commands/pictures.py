"""What commands share: codes from files, and what they look like."""

import functools
import os
import pathlib

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from e4e_jax import model as models
from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import resize_image, to_float, to_uint8
from e4e_jax.data.sources import open_images
from e4e_jax.inversion.folder import check_output, load_latents
from e4e_jax.inversion.invert import synthesize_like

_FRAME_SECONDS = 0.08


def load_generator(name) -> models.GeneratorModel:
    """The bundle of a generator or an inverter; ValueError for another one."""
    model = models.load(name)
    if not isinstance(model, models.GeneratorModel):
        raise ValueError(f"{name} has no generator; expected an inverter or a generator.")
    return model


def read_codes(name, model: models.GeneratorModel, out, batch_size: int):
    """Codes of a latents.npz, or of images, which are inverted.

    Args:
      name: the file, or images: a folder, a file or a pattern.
      model: whose codes; images need an inverter.
      out: folder that results will be written to.
      batch_size: images at a time.

    Returns:
      Names, codes [N, L, D], and the images as uint8 [N, H, W, 3], at the size that `draw` gives;
      None where codes were given.

    Raises:
      FileNotFoundError, ValueError: nothing usable is there, or results would replace it; in one
        sentence.
    """
    if batch_size < 1:
        raise ValueError(f"--batch_size is {batch_size}; expected at least 1.")
    if name.endswith(".npz"):
        if os.path.realpath(os.path.join(out, "latents.npz")) == os.path.realpath(name):
            raise ValueError(f"{name} would be replaced; choose another folder for OUT.")
        names, codes = load_latents(name)
        expected = (model.num_styles, model.generator.config.w_dim)
        if codes.shape[1:] != expected or not len(codes):
            raise ValueError(
                f"{name} holds codes {list(codes.shape)}; expected [N, {expected[0]}, "
                f"{expected[1]}], as this generator takes them."
            )
        return names, codes, None
    if not isinstance(model, models.Inverter):
        raise ValueError(f"{name} are images and the model has no encoder; expected a latents.npz.")
    source = open_images(name)
    check_output(out, source)
    images = np.stack([resize_image(source[i], model.image_size) for i in range(len(source))])
    codes = in_batches(lambda batch: model.encode(to_float(batch)), (images,), batch_size)
    size = drawn_size(model)
    return source.names, codes, np.stack([resize_image(image, size) for image in images])


def drawn_size(model: models.GeneratorModel) -> tuple[int, int]:
    """(height, width) at the generator's resolution, of the shape that an encoder reads."""
    height, width = getattr(model, "image_size", (model.resolution, model.resolution))
    return model.resolution * height // width, model.resolution


def draw(model: models.GeneratorModel, codes, batch_size: int) -> np.ndarray:
    """Codes [N, L, D] -> uint8 [N, H, W, 3]."""
    size = drawn_size(model)
    return in_batches(
        lambda batch: to_uint8(synthesize(model.generator, batch, size=size)), (codes,), batch_size
    )


@functools.partial(nnx.jit, static_argnames=("size",))
def synthesize(generator, codes, styles=None, noises=None, *, size):
    """`synthesize_like`, compiled: styles and noises are the codes' and the generator's if None."""
    noise = "constant" if noises is None else noises
    return synthesize_like(generator, jnp.asarray(codes), size, styles=styles, noise=noise)


def save_gif(path, frames) -> None:
    """An animation of uint8 [H, W, 3] images there and back again, whole or not at all.

    Raises:
      OSError: the disk takes no more.
    """
    path = pathlib.Path(path)
    frames = [Image.fromarray(frame) for frame in [*frames, *frames[-2:0:-1]]]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=frames[1:],
            duration=int(1000 * _FRAME_SECONDS), loop=0,
        )  # fmt: skip
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error
