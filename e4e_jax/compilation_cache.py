"""Compiled programs that outlive the process: a second start does not compile again."""

import os

import jax


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
