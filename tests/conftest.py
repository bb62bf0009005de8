"""JAX as the tests need it: on the CPU, in full float32, with four simulated devices."""

import ctypes
import gc
import os

import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is tested is compiled here and now
# Tests compile much and compute little: what makes programs fast would take most of their time.
os.environ["XLA_FLAGS"] = xla_flags.for_tests(os.environ.get("XLA_FLAGS", ""))

import jax
import pytest

from e4e_jax.runtime import tuning

jax.config.update("jax_default_matmul_precision", "highest")
# Programs that tests call in their own process: it compiles hundreds, and would keep it all.
tuning.keep_freed_memory = lambda: None


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_end_with_their_module():
    """Kept for a next module, which rarely calls them, they would fill 5 GB by the last one."""
    yield
    jax.clear_caches()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc keeps what is freed
        libc.malloc_trim(0)
