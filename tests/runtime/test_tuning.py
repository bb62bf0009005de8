import mmap
import os
import subprocess
import sys

import jaxlib
import pytest

KEEP_PROGRAMS = """
import jax
from e4e_jax.runtime.tuning import set_up
set_up()
jax.jit(lambda x: x * 2 + 1)(1.0)
"""
ALLOCATE = """
import ctypes, resource
from e4e_jax.runtime import tuning
{setting}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = {megabytes} << 20
def touch():
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(ctypes.c_void_p(block))
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PIECES = """
import ctypes
from e4e_jax.runtime import tuning
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
tuning.keep_freed_memory()
blocks = [libc.malloc(ctypes.c_size_t(size)) for size in range(80_000, 120_000, 160) for _ in "ab"]
pieces = blocks[::2]  # what lies between them stays
for piece in pieces:
    libc.free(ctypes.c_void_p(piece))
{setting}
print(sum(libc.malloc(ctypes.c_size_t(80_000)) in pieces for _ in range(50)))
"""
FLAGS = """
import os, jax
from e4e_jax.runtime import tuning
tuning.tune(memory_first={memory_first})
tuning.tune(memory_first={memory_first})
jax.devices()
print(os.environ.get("XLA_FLAGS", ""))
"""
FUSION_TYPE = "--xla_cpu_experimental_ynn_fusion_type"
SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def run(program, **variables):
    unset = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "true", **variables}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, check=True, timeout=300, text=True, stdout=subprocess.PIPE
    )
    return done.stdout.strip()


def test_programs_are_kept_in_the_users_cache_or_where_they_say(tmp_path):
    home, chosen, off = tmp_path / "home", tmp_path / "chosen", tmp_path / "off"
    run(KEEP_PROGRAMS, XDG_CACHE_HOME=str(home))
    assert any((home / "e4e_jax" / "programs").iterdir())
    run(KEEP_PROGRAMS, XDG_CACHE_HOME=str(off), JAX_COMPILATION_CACHE_DIR=str(chosen))
    assert any(chosen.iterdir()) and not off.exists()
    run(KEEP_PROGRAMS, XDG_CACHE_HOME=str(off), JAX_ENABLE_COMPILATION_CACHE="false")
    assert not off.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="malloc of Linux")
@pytest.mark.parametrize(
    "setting, megabytes, kept",
    [
        ("", 16, False),
        ("tuning.keep_freed_memory()", 16, True),
        ("tuning.keep_freed_memory()", 256, False),
        ("tuning.keep_freed_memory(); tuning.settle_memory()", 256, True),
    ],
)
def test_freed_memory_is_used_again(setting, megabytes, kept):
    cleared = int(run(ALLOCATE.format(setting=setting, megabytes=megabytes)))
    pages = (megabytes << 20) // mmap.PAGESIZE
    assert cleared < 5 if kept else cleared >= pages / 512  # of 2 MiB where Linux can


@pytest.mark.skipif(sys.platform != "linux", reason="malloc of Linux")
def test_retired_pieces_are_not_used_again():
    assert int(run(PIECES.format(setting=""))) == 50
    assert int(run(PIECES.format(setting="tuning.settle_memory()"))) == 0


@pytest.mark.skipif(not jaxlib.__version__.startswith("0.10."), reason="flags of that version")
def test_xla_flags_are_added_once_and_the_users_stay():
    plain, memory_first = (FLAGS.format(memory_first=value) for value in (False, True))
    ours = f"{FUSION_TYPE}=-individual_convolution"
    assert run(plain) == ours
    assert run(memory_first) == f"{ours} {SCHEDULER}=false"
    devices = "--xla_force_host_platform_device_count=2"
    assert run(plain, XLA_FLAGS=devices) == f"{devices} {ours}"
    assert run(plain, XLA_FLAGS=f"{FUSION_TYPE}=-reduce") == f"{FUSION_TYPE}=-reduce"
    assert run(memory_first, XLA_FLAGS=f"{SCHEDULER}=true") == f"{SCHEDULER}=true {ours}"
