"""What every program sets before it computes: where compiled programs are kept, memory, XLA."""

import ctypes
import os
import re

import jax
import jaxlib

# glibc's <malloc.h>
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8

# Bytes of the free pieces that `retire_free_pieces` takes: XLA's convolutions ask for such blocks.
_RETIRED = range(8 << 10, 1 << 20)

# XLA:CPU's library of fused kernels is the fast one for reductions, and the slow one for
# convolutions (3x3 with stride 2 at 64x64x512: 136 instead of 173 GFLOP/s on two cores).
# An unknown flag ends the process, so it is for the versions that were tested.
_TESTED_JAXLIB = "0.10."
_XLA_FLAG, _XLA_VALUE = "--xla_cpu_experimental_ynn_fusion_type", "-individual_convolution"


def set_up() -> None:
    """Makes this process start and compute faster; to be called before JAX's first computation."""
    enable_compilation_cache()
    tune()


def tune() -> None:
    """The part of `set_up` that changes how fast a processor computes."""
    keep_freed_memory()
    choose_xla_flags()


def enable_compilation_cache() -> None:
    """Keeps compiled programs in ~/.cache/e4e_jax/programs, or under XDG_CACHE_HOME.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false switches it
    off. A folder that cannot be written costs a warning of JAX and nothing else.
    """
    if jax.config.jax_compilation_cache_dir is None:
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "e4e_jax", "programs"))
    # A network's first weights are a hundred programs of 30 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def keep_freed_memory() -> None:
    """Lets malloc keep what is freed, for the next array, instead of returning it to Linux.

    By default every large array is new memory, which Linux clears page by page when it is first
    written: a third of the time of a synthesis on a CPU. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_ARENA_MAX, 1)  # other arenas cannot grow beyond 64 MB
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)


def retire_free_pieces() -> None:
    """Takes the pieces that a compilation has left free out of malloc's lists, for good.

    To be called once a large program is compiled. A training step's leaves more than 10,000
    pieces of 32 KB and more, and more still of 8 KB, between what it keeps; malloc walks through
    them for the workspace of every block of a convolution: a fifth of the step. Their pages go
    back to Linux. Other C libraries are left as they are.
    """
    try:
        libc = ctypes.CDLL(None)
        malloc, free, trim = libc.malloc, libc.free, libc.malloc_trim
        _ = libc.malloc_info
    except (AttributeError, OSError, TypeError):
        return
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    trim(0)
    free(malloc(_RETIRED.stop))  # sorts what was freed last into the lists
    # The rest of a split piece joins a list of smaller ones, which the next round takes.
    for _ in range(3):
        for size, count in sorted(_free_pieces(libc), reverse=True):
            if size in _RETIRED:
                for _ in range(count):
                    malloc(size - ctypes.sizeof(ctypes.c_size_t))


def _free_pieces(libc):
    """malloc's lists of free pieces: [(bytes of the smallest piece, pieces)]."""
    text, length = ctypes.c_char_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(length)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    first_arena = text.value.decode().split("</sizes>")[0]
    libc.free(text)
    found = re.findall(r'<size from="(\d+)" to="\d+" total="\d+" count="(\d+)"/>', first_arena)
    return [(int(size) & ~15, int(count)) for size, count in found]  # the low bits are flags


def choose_xla_flags() -> None:
    """Adds to XLA_FLAGS what is faster here, unless the user has chosen; read at JAX's start."""
    chosen = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(_TESTED_JAXLIB) and _XLA_FLAG not in chosen:
        os.environ["XLA_FLAGS"] = f"{chosen} {_XLA_FLAG}={_XLA_VALUE}".strip()
