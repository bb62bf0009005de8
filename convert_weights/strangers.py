"""Files that cannot be converted: what they are, and what to do."""

import os
import re
from collections.abc import Iterable

from convert_weights.checkpoint import Checkpoint

_PACKED = "; unpack it and give the checkpoint inside"
_NOT_TORCH = "; expected weights of PyTorch"

# What a file begins with -> what it is.
_BEGINNINGS = {
    b"\x1f\x8b": f"it is compressed by gzip{_PACKED}",
    b"BZh": f"it is compressed by bzip2{_PACKED}",
    b"\xfd7zXZ\x00": f"it is compressed by xz{_PACKED}",
    b"\x28\xb5\x2f\xfd": f"it is compressed by zstd{_PACKED}",
    b"7z\xbc\xaf\x27\x1c": f"it is a 7-Zip archive{_PACKED}",
    b"Rar!\x1a\x07": f"it is a RAR archive{_PACKED}",
    b"\x89HDF\r\n\x1a\n": f"it is an HDF5 file, as of Keras{_NOT_TORCH}",
    b"\x89PNG\r\n": f"it is a PNG image{_NOT_TORCH}",
    b"\xff\xd8\xff": f"it is a JPEG image{_NOT_TORCH}",
    b"GIF8": f"it is a GIF image{_NOT_TORCH}",
    b"%PDF": f"it is a PDF document{_NOT_TORCH}",
    b"GGUF": f"it is a GGUF file{_NOT_TORCH}",
    b"MATLAB": f"it is a file of MATLAB{_NOT_TORCH}",
    b"PK\x05\x06": "it is an empty zip archive; download it again",
}
_OLD_TORCH_TAR = ("sys_info", "pickle", "storages", "tensors")


def describe(path: str | os.PathLike, start: bytes, size: int) -> str | None:
    """What a file is, by its first 2048 bytes; None for none of these.

    Files that `read` takes are not looked for here; a zip archive is judged by `describe_zip`.
    """
    if size == 0:
        return "it is empty; download it again"
    if not start.strip(b"\0"):
        return "it begins with zeros alone, as a download that was not finished; download it again"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<" and re.match(rb"<(!doctype|html|head|\?xml|!--|[a-z]+[ />])", text, re.I):
        return _web_page(text)
    if text[:1] == b"{" and b'"' in text[:200] and size < 100_000:
        return "it is a text in JSON, as a server's answer; download the file again"
    if start.startswith(b"version https://git-lfs"):
        found = re.search(rb"^size (\d+)", start, re.M)
        of = f" to a file of {int(found[1]):,} bytes" if found else ""
        return (
            f"it is a Git LFS pointer{of} and not the file; get it by `git lfs pull` in the clone "
            "that it lies in"
        )
    if b"/annex/objects/" in start[:400] and size < 1000:
        return "it is a git-annex pointer and not the file; get it by `git annex get`"
    for beginning, sentence in _BEGINNINGS.items():
        if start.startswith(beginning):
            return sentence
    if start[257:262] == b"ustar":
        if start[:100].rstrip(b"\0").decode("latin1").split("/")[-1] in _OLD_TORCH_TAR:
            return (
                "it is in the tar layout of PyTorch before 0.2; load and save it with a newer one"
            )
        return f"it is a tar archive{_PACKED}"
    length = int.from_bytes(start[:8], "little")
    if 2 <= length < size and start[8:9] == b"{":
        return (
            "it is a safetensors file; save its tensors by torch.save(safetensors.torch.load_file("
            "NAME), 'weights.pt')"
        )
    if start[4:8] == b"TFL3":
        return f"it is a network of TensorFlow Lite{_NOT_TORCH}"
    if start.startswith(b"model_checkpoint_path"):
        return f"it is a checkpoint of TensorFlow{_NOT_TORCH}"
    if start.startswith(b"\x80"):  # a pickle, whatever its name
        return None
    name = os.path.basename(path).lower()
    if name.endswith(".onnx") or (start[:1] == b"\x08" and b"pytorch" in start[:100]):
        return f"it is a network in ONNX{_NOT_TORCH}"
    if name.endswith(".pb") or ".ckpt" in name or re.search(r"\.(index|data-\d+-of-\d+)$", name):
        return f"it is a checkpoint of TensorFlow{_NOT_TORCH}"
    return None


def describe_zip(names: Iterable[str]) -> str | None:
    """What a zip archive is that is not one of torch.save, by the names of its members."""
    inside = [name for name in names if name.endswith((".pt", ".pth", ".pkl", ".ckpt"))]
    if "config.json" in names and "model.weights.h5" in names:
        return f"it is a model of Keras{_NOT_TORCH}"
    if inside:
        return f"it is a zip archive of {inside[0]!r:.80}{_PACKED}"
    return None


def describe_folder(path: str | os.PathLike) -> str:
    """What a folder is that was given for a file."""
    found = set(os.listdir(path))
    if "bundle.json" in found:
        return "it is a bundle already, which e4e_jax.load opens"
    if "data.pkl" in found or "archive" in found:
        return (
            "it is an unpacked file of torch.save, as some browsers leave it; download it again "
            "without unpacking"
        )
    if "saved_model.pb" in found:
        return f"it is a model of TensorFlow{_NOT_TORCH}"
    inside = sorted(name for name in found if name.endswith((".pt", ".pth", ".pkl", ".npy")))
    return (
        f"it is no file but a folder; give a file of it, {inside[0]!r}"
        if inside
        else ("it is no file but a folder; expected a published checkpoint")
    )


def _web_page(text):
    found = re.search(rb"<title[^>]*>([^<]{0,200})", text, re.I)
    title = " ".join(found[1].decode("utf-8", "replace").split())[:80] if found else ""
    called = f" ({title!r})" if title else ""
    page = "a text in XML, as a server's answer" if text[:5].lower() == b"<?xml" else "a web page"
    return (
        f"it is {page}{called} and not the file: a login, a limit or a question stood before the "
        "download; open the address in a browser and download it there"
    )


def describe_tensors(checkpoint: Checkpoint) -> str | None:
    """What a file holds that is known and cannot be converted."""
    if any("hypernet." in name for name in checkpoint.tensors):
        return (
            "it holds HyperStyle's hypernetwork, which is not here; its W encoder, in a file of "
            "its own, can be converted"
        )
    if any("synthesis.input." in name for name in checkpoint.tensors):
        return "it holds a StyleGAN3 generator; expected StyleGAN2"
    if checkpoint.path.endswith(".npz") and all(
        array.ndim in (1, 2) and array.dtype.kind == "f" for array in checkpoint.tensors.values()
    ):
        return "it is a .npz of directions already, as it seems, which the commands take as it is"
    if all(name.startswith(("mapper.", "state_dict/mapper.")) for name in checkpoint.tensors) and (
        checkpoint.tensors
    ):
        return "it holds a mapper of StyleCLIP, which is not here"
    return None
