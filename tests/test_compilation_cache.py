import os
import subprocess
import sys

PROGRAM = """
import jax
from e4e_jax.compilation_cache import enable_compilation_cache
enable_compilation_cache()
jax.jit(lambda x: x * 2 + 1)(1.0)
"""


def run(**variables):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "true", **variables}
    command = [sys.executable, "-c", PROGRAM]
    subprocess.run(command, env=environment, check=True, timeout=60)


def test_programs_are_kept_in_the_users_cache_or_where_they_say(tmp_path):
    home, chosen, off = tmp_path / "home", tmp_path / "chosen", tmp_path / "off"
    run(XDG_CACHE_HOME=str(home))
    assert any((home / "e4e_jax" / "programs").iterdir())
    run(XDG_CACHE_HOME=str(off), JAX_COMPILATION_CACHE_DIR=str(chosen))
    assert any(chosen.iterdir()) and not off.exists()
    run(XDG_CACHE_HOME=str(off), JAX_ENABLE_COMPILATION_CACHE="false")
    assert not off.exists()
