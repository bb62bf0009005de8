"""Whether all hosts see the same images: each reads its share of one list, by number."""

import dataclasses
import hashlib
import os

from e4e_jax.data.registry import Source
from e4e_jax.runtime.hosts import gather_json


def check_same_on_hosts(source: Source, what: str) -> None:
    """Compares a source of images over the hosts; all make this call, and all get its answer.

    Compared are names and, of files, sizes; of drawn images what they are drawn from; of another
    source what its method `fingerprint` returns, {what it is: its value}.

    Args:
      source: see `sources`.
      what: its images in the message: "training images".

    Raises:
      ValueError: one host differs from most of the others; in one sentence, the same on all, that
        names it and the first file in which it does.
    """
    check_same_entries(fingerprint(source), what)


def check_same_entries(entries: dict[str, str], what: str) -> None:
    """`check_same_on_hosts` for anything that is {name: value}."""
    digest = hashlib.sha256(repr(sorted(entries.items())).encode()).hexdigest()
    digests = gather_json(digest, f"the comparison of the {what}")
    if len(set(digests)) > 1:
        raise ValueError(_difference(gather_json(entries), digests, what))


def fingerprint(source: Source) -> dict[str, str]:
    """What has to be the same everywhere, by name."""
    if hasattr(source, "fingerprint"):
        return {name: str(value) for name, value in source.fingerprint().items()}
    if dataclasses.is_dataclass(source):  # drawn faces
        return {name: repr(value) for name, value in dataclasses.asdict(source).items()}
    if (names := getattr(source, "names", None)) is None:
        return {"number of images": str(len(source))}
    paths = getattr(source, "paths", None) or [None] * len(names)
    return {name: _size(path) for name, path in zip(names, paths, strict=True)}


def _size(path):
    if path is None:
        return "there"
    try:
        return f"{os.path.getsize(path)} bytes"
    except OSError:  # a link to nothing, say; reading it will tell
        return "no readable file"


def _difference(entries, digests, what) -> str:
    """One sentence, from what all hosts have told."""
    usual = max(digests, key=digests.count)  # of equally many that of the first host
    reference = digests.index(usual)
    host = next(i for i, digest in enumerate(digests) if digest != usual)
    expected, found = entries[reference], entries[host]
    name = min(n for n in {*expected, *found} if expected.get(n) != found.get(n))
    if name not in found:
        how = f"{name} is missing there"
    elif name not in expected:
        how = f"{name} is on host {host} alone"
    else:
        how = f"{name} is {found[name]} there and {expected[name]} on host {reference}"
    return (
        f"host {host} has other {what} than host {reference}: {how}; expected the same on all "
        "hosts."
    )
