"""JAX as the tests need it: on the CPU, in full float32, with four simulated devices."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is tested is compiled here and now
# Tests compile much and compute little: LLVM's slow passes would take most of their time.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)

import jax

from e4e_jax import process

jax.config.update("jax_default_matmul_precision", "highest")
# Programs that tests call in their own process: it compiles hundreds, and would keep it all.
process.keep_freed_memory = lambda: None
