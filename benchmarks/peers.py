"""Published code with our weights, for --peer=PATH: e4e's, and NVIDIA's generators.

Each computes as it was published: with its own operators for CUDA where there is a GPU, in float32
(or TF32) where ours is in bfloat16 and it has no lower precision, NVIDIA's generators in float16.
"""

import contextlib
import importlib
import types

import numpy as np
from flax import nnx

from benchmarks import sides
from benchmarks.published_code import checkouts
from convert_weights.export import export, state_dict
from convert_weights.stylegan2 import nvidia_generator_rows
from e4e_jax.bundle import Bundle
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

# NVIDIA's training computes the highest resolutions in float16 and clamps the activations there.
_FLOAT16_RESOLUTIONS = 4
_CLAMP = 256


def precision(name: str, ours: str, *, on_gpu: bool) -> str:
    """What a published code computes in.

    Args:
      name: of the clone.
      ours: what ours computes in, of `sides.PRECISIONS`.
      on_gpu: elsewhere there is float32 alone.
    """
    if not on_gpu:
        return "float32"
    if ours != "bfloat16":
        return ours
    return "tf32" if name == "e4e" else "float16"


def e4e_synthesis(path, generator: Generator, *, device=None):
    """e4e's generator as a function of codes [B, L, 512], with its constant noise.

    `device` is PyTorch's, by default `sides.torch_device()`. Raises ValueError as `importing` does.
    """
    with importing("e4e", path):
        from models.stylegan2.model import Generator as Published
    checkpoint, _ = export(Bundle("generator", {"generator": generator}, {}))
    config = generator.config
    network = Published(config.resolution, config.w_dim, config.mapping_layers)
    network = load(network, checkpoint["g_ema"], device)
    return lambda codes: network([codes], input_is_latent=True, randomize_noise=False)[0]


def nvidia_synthesis(name: str, path, generator: Generator, *, precision: str, device=None):
    """NVIDIA's synthesis network as a function of codes [B, L, D], with its constant noise.

    Args:
      name: "stylegan2-ada" or "stylegan3".
      path: the clone.
      generator: ours.
      precision: "float16" for the highest resolutions, as in its training; anything else is what
        the process is set to.
      device: PyTorch's, by default `sides.torch_device()`.

    Raises:
      ValueError: as `importing` does.
    """
    module = {"stylegan2-ada": "networks", "stylegan3": "networks_stylegan2"}[name]
    with importing(name, path):
        published = importlib.import_module(f"training.{module}").SynthesisNetwork
        if on_gpu():
            for operator in ("bias_act", "upfirdn2d"):
                if not importlib.import_module(f"torch_utils.ops.{operator}")._init():
                    raise RuntimeError(f"its {operator} could not be compiled")
    config, float16 = generator.config, precision == "float16"
    network = published(
        config.w_dim,
        config.resolution,
        img_channels=3,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        num_fp16_res=_FLOAT16_RESOLUTIONS if float16 else 0,
        conv_clamp=_CLAMP if float16 else None,
    )
    prefix = "synthesis."
    rows = [row for row in nvidia_generator_rows(generator) if row.source.startswith(prefix)]
    state = state_dict(generator, rows)
    filters = {k: v for k, v in network.state_dict().items() if k.endswith("resample_filter")}
    network = load(network, {k.removeprefix(prefix): v for k, v in state.items()} | filters, device)
    return lambda codes: network(codes, noise_mode="const")


def e4e_encoder(path, network: Encoder):
    """e4e's encoder as a function of images [B, 3, 256, 256]; ValueError as of `importing`."""
    config = network.config
    resolution = 2 ** (config.num_styles // 2 + 1)
    with importing("e4e", path):
        from models.encoders.psp_encoders import Encoder4Editing
    # What it is exported with does not matter: the generator's half is not loaded.
    other = Generator(GeneratorConfig(resolution, channel_max=8), rngs=nnx.Rngs(0))
    state = inverter_state(network, other)["state_dict"]
    state = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    published = Encoder4Editing(50, "ir_se", types.SimpleNamespace(stylegan_size=resolution))
    return load(published, state)


def inverter_state(encoder: Encoder, generator: Generator) -> dict:
    """A checkpoint in e4e's layout, its tensors NumPy arrays."""
    return export(Bundle("inverter", {"encoder": encoder, "generator": generator}, {}))[0]


def on_gpu() -> bool:
    return sides.torch_device() != "cpu"


@contextlib.contextmanager
def importing(name, path):
    """For imports of a clone, which compile its operators where there is a GPU.

    Raises:
      ValueError: they cannot be imported.
    """
    checkouts.prepare(name, path, gpu=on_gpu())
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"the code at {path} cannot be used: {reason}") from error


def tensors(arrays: dict) -> dict:
    """NumPy's or PyTorch's arrays as PyTorch's, of their own memory."""
    import torch

    return {name: torch.as_tensor(np.array(array)) for name, array in arrays.items()}


def load(network, state: dict, device=None):
    """Fills a PyTorch network, in evaluation mode, and moves it to the device."""
    network.load_state_dict(tensors(state))
    return network.eval().to(device or sides.torch_device())
