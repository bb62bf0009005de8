"""How XLA compiles in tests: four devices, and programs made soon instead of fast ones."""

import importlib.metadata

_FAST_TO_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # 0.6 of the time
    "--xla_cpu_use_fusion_emitters=false",  # the older way to write kernels: half of the time
]


def for_tests(chosen: str) -> str:
    """XLA_FLAGS with `chosen`, those of the environment, which win over what is here."""
    # XLA ends a process that names a flag which it does not know, and may drop the last two.
    known = 4 if importlib.metadata.version("jaxlib").startswith("0.10.") else 2
    ours = [flag for flag in _FAST_TO_COMPILE[:known] if flag.split("=")[0] not in chosen]
    return " ".join([chosen, "--xla_force_host_platform_device_count=4", *ours])
