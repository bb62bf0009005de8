"""What every program sets before it computes: where compiled programs are kept, memory, XLA."""

import ctypes
import os
import re
from typing import Any

import jax
import jaxlib

# glibc's <malloc.h>
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8

# Bytes of the free pieces that `settle_memory` takes: XLA's convolutions ask for such blocks.
_RETIRED = range(8 << 10, 1 << 20)

# XLA:CPU's library of fused kernels is the fast one for reductions, and the slow one for
# convolutions (3x3 with stride 2 at 64x64x512: 136 instead of 173 GFLOP/s on two cores).
# An unknown flag ends the process, so these are for the versions that were tested.
_TESTED_JAXLIB = "0.10."
_FUSION_TYPE = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"

# The order of operations that frees memory soonest, instead of the one that lets most of them run
# at once: 1.4 GB less for the encoder's step at 256x256, and 1 to 5% more time, since its large
# operations fill the cores one by one. Small ones do not: the toy step takes a tenth more.
_MEMORY_FIRST = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def set_up(*, memory_first: bool = False) -> None:
    """Makes this process start and compute faster; to be called before JAX's first computation.

    Args:
      memory_first: whether a processor uses less memory at the cost of some time: a little for a
        training step of large images, 8% for synthesis and encoding, 10% for small networks.
    """
    enable_compilation_cache()
    tune(memory_first=memory_first)


def tune(*, memory_first: bool = False) -> None:
    """The part of `set_up` that changes how a processor computes."""
    keep_freed_memory()
    choose_xla_flags(_FUSION_TYPE, *([_MEMORY_FIRST] if memory_first else []))


def enable_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/e4e_jax/programs, or under XDG_CACHE_HOME.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it
    off. A folder that cannot be written costs a warning of JAX and nothing else.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "e4e_jax", "programs"))
    # A network's first weights are a hundred programs of 30 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def quick_compilation() -> dict[str, Any]:
    """Options of `jax.jit` for a program that computes little, and is compiled as fast as can be.

    A network's first weights are such a program: a few milliseconds of random numbers, which take
    a processor's compiler a minute to make the best of.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def keep_freed_memory() -> None:
    """Lets malloc keep what is freed, for the next array, instead of returning it to Linux.

    By default every large array is new memory, which Linux clears page by page when it is first
    written: a third of the time of a synthesis on a CPU. Arrays of 32 MB and more stay new memory:
    kept, they leave holes that the next ones do not fit into. See `settle_memory`. Other C
    libraries are left as they are.
    """
    if libc := _glibc():
        libc.mallopt(_ARENA_MAX, 1)  # other arenas cannot grow beyond 64 MB
        libc.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        libc.mallopt(_TRIM_THRESHOLD, -1)


def settle_memory() -> None:
    """Lets malloc keep memory of any size, and forget the free pieces that a compilation left.

    For a process that will call one large program again and again, such as a training step, once
    that is compiled. Its arrays come in the same order every time and fill the same holes, and to
    clear them anew would be a tenth of the step. Compiling it has left more than 10,000 pieces of
    32 KB and more, and more still of 8 KB, between what it keeps; malloc walks through them for
    the workspace of every block of a convolution: a fifth of the step. Pieces of 8 KB to 1 MB are
    taken out of its lists for good, and their pages go back to Linux.
    """
    if not (libc := _glibc()):
        return
    libc.mallopt(_MMAP_MAX, 0)
    malloc, free = libc.malloc, libc.free
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    libc.malloc_trim(0)
    free(malloc(_RETIRED.stop))  # sorts what was freed last into the lists
    # The rest of a split piece joins a list of smaller ones, which the next round takes.
    for _ in range(3):
        for size, count in sorted(_free_pieces(libc), reverse=True):
            if size in _RETIRED:
                for _ in range(count):
                    malloc(size - ctypes.sizeof(ctypes.c_size_t))


def _glibc():
    """The C library if it is GNU's, else None."""
    try:
        libc = ctypes.CDLL(None)
        _ = libc.mallopt, libc.malloc_trim, libc.malloc_info
    except (AttributeError, OSError, TypeError):
        return None
    return libc


def _free_pieces(libc):
    """malloc's lists of free pieces: [(bytes of the smallest piece, pieces)]."""
    text, length = ctypes.c_char_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(length)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    first_arena = (text.value or b"").decode().split("</sizes>")[0]
    libc.free(text)
    found = re.findall(r'<size from="(\d+)" to="\d+" total="\d+" count="(\d+)"/>', first_arena)
    return [(int(size) & ~15, int(count)) for size, count in found]  # the low bits are flags


def choose_xla_flags(*flags: str) -> None:
    """Adds to XLA_FLAGS, read at JAX's start, what is better here unless the user has chosen."""
    chosen = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(_TESTED_JAXLIB):
        ours = [flag for flag in flags if flag.split("=")[0] not in chosen]
        os.environ["XLA_FLAGS"] = " ".join([chosen, *ours]).strip()
