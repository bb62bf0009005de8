"""What every row shares: inputs, random weights, conversion, and the error of an output."""

import dataclasses
import pathlib

import numpy as np

import convert_weights.__main__


@dataclasses.dataclass
class Trial:
    """One run of a row.

    Attributes:
      folder: for files.
      small: lower resolutions, to try the program.
      errors: output -> `largest_error`.
      same_bits: whether every tensor came back as it was; None where no layout is gone back to.
    """

    folder: pathlib.Path
    small: bool = False
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    same_bits: bool | None = None

    def compare(self, output: str, ours, published) -> None:
        """Notes the error of an output; images of PyTorch come as [B, C, H, W]."""
        published = np.asarray(published)
        if published.ndim == 4:
            published = published.transpose(0, 2, 3, 1)
        self.errors[output] = largest_error(np.asarray(ours), published)

    def convert(self, *sources, to: str) -> pathlib.Path:
        """Runs `python -m convert_weights` on files; back to PyTorch where `to` ends in .pt."""
        back = ["--to", "pytorch"] if to.endswith(".pt") else []
        arguments = [str(path) for path in (*sources, self.folder / to)]
        if convert_weights.__main__.main(arguments + back):
            raise ValueError(f"{' and '.join(arguments[:-1])} could not be converted.")
        return self.folder / to


def largest_error(ours: np.ndarray, published: np.ndarray) -> float:
    """max|ours − published| / max|published|.

    Raises:
      ValueError: the shapes differ, or the published numbers are not finite.
    """
    if ours.shape != published.shape:
        raise ValueError(f"ours has shape {ours.shape}, the published output {published.shape}.")
    if not np.all(np.isfinite(published)):
        raise ValueError("the published output is not finite.")
    difference = np.abs(np.subtract(ours, published, dtype=np.float64)).max()
    return float(difference / np.abs(published).max())


def randomize(network):
    """Random numbers in every parameter and running statistic, none of them 0 or 1.

    Plain convolutions and products get N(0, 1/fan_in); equalised weights are N(0, 1) from the
    start. What is constant at the start moves by 0.1 to 0.3.
    """
    import torch

    plain = (torch.nn.Conv2d, torch.nn.Linear)
    for module in network.modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if not tensor.is_floating_point():
                continue
            if isinstance(module, plain) and name == "weight":
                torch.nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5)
            elif torch.all(tensor == tensor.flatten()[0]):
                sign = torch.randn_like(tensor).sign()
                tensor.data += sign * (0.1 + 0.2 * torch.rand_like(tensor))
    return network.eval()


def random_images(batch, height, width):
    """[B, H, W, 3] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def to_tensor(images):
    """[B, H, W, C] -> [B, C, H, W] on the CPU."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def load_tensors(path):
    """The contents of a .pt file."""
    import torch

    return torch.load(path, mmap=True, weights_only=True)


def same_bits(before, after, *parts) -> bool:
    """Whether these parts of two checkpoints hold the same tensors, bit for bit."""
    import torch

    def tensors(part):
        return part if isinstance(part, dict) else {"": part}

    pairs = [(tensors(before[part]), tensors(after[part])) for part in parts]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs
    )
