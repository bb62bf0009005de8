"""What the measurements were taken on: devices, versions, measured ceilings, peaks of memory."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def describe() -> dict[str, object]:
    """Device, cores and versions, for the head of every result."""
    device = jax.devices()[0]
    found = {
        "device": _processor() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "cores": cores(),
        "python": platform.python_version(),
    }
    names = ["jax", "jaxlib", "flax"]
    if has_torch():
        import torch

        cuda = torch.cuda.is_available()
        found["torch device"] = torch.cuda.get_device_name() if cuda else _processor()
        names.append("torch")
    return found | {name: importlib.metadata.version(name) for name in names}


def _processor():
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def ceilings(precision: str) -> dict[str, float]:
    """Rates that this device reaches in the simplest programs.

    Args:
      precision: "float32", "tf32" or "bfloat16", of the matrix product.

    Returns:
      "flops": FLOP/s of a large matrix product; "bytes": bytes/s of a large copy, read and written.
    """
    small = jax.default_backend() == "cpu"
    size, length = (2048, 2**26) if small else (8192, 2**28)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    matrix = jnp.ones((size, size), dtype)
    vector = jnp.ones((length,), jnp.float32)
    return {
        "flops": 2 * size**3 / _seconds(jax.jit(lambda x: x @ x), matrix),
        "bytes": 2 * vector.nbytes / _seconds(jax.jit(lambda x: x + 1), vector),
    }


def _seconds(function, operand, calls=5):
    """Median of `calls` calls; several in flight, so that launching them does not count."""
    jax.block_until_ready(function(operand))
    seconds, in_flight = [], 1 if jax.default_backend() == "cpu" else 10
    for _ in range(calls):
        start = time.perf_counter()
        for _ in range(in_flight):
            result = function(operand)
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / in_flight)
    return statistics.median(seconds)


class PeakMemory:
    """Peak of this process's memory from `start`, in bytes: resident on the CPU, else the device's.

    On the CPU the peak counts from what was resident when this object was made, so that the
    interpreter and its libraries do not count. A GPU's counts from the start of the process.
    """

    def __init__(self):
        self._before = _resident("VmRSS")

    def start(self):
        """Forgets what was allocated for a moment before, such as by the compiler."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            pass  # another C library, which keeps what was freed
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # Linux: the peak starts anew
        except OSError:
            pass

    def read(self, *, torch_side: bool) -> int:
        if torch_side:
            import torch

            if torch.cuda.is_available():
                return torch.cuda.max_memory_allocated()
        elif stats := jax.devices()[0].memory_stats():
            return stats["peak_bytes_in_use"]
        return _resident("VmHWM") - self._before


def _resident(field):
    """A field of /proc/self/status in bytes; the peak of `getrusage` where there is none."""
    try:
        with open("/proc/self/status") as file:
            lines = [line for line in file if line.startswith(field)]
        return int(lines[0].split()[1]) * 1024
    except (OSError, IndexError):
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
