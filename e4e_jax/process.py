"""What every program sets before it computes: where compiled programs are kept, memory, XLA."""

import ctypes
import os

import jax
import jaxlib

# glibc's <malloc.h>
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8

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


def choose_xla_flags() -> None:
    """Adds to XLA_FLAGS what is faster here, unless the user has chosen; read at JAX's start."""
    chosen = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(_TESTED_JAXLIB) and _XLA_FLAG not in chosen:
        os.environ["XLA_FLAGS"] = f"{chosen} {_XLA_FLAG}={_XLA_VALUE}".strip()
