import jax
import pytest

from benchmarks import ahead, step_work


def test_a_step_for_several_devices_has_a_batch_and_pools_for_each():
    devices = jax.devices()[:2]
    _, (state, batch, _) = step_work.abstract_step(3, "float32", small=True, devices=devices)
    assert batch["image"].shape[0] == 6
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state.fake_pool)} == {2}


def test_a_missing_compiler_is_named(monkeypatch, capsys):
    def missing(*args, **kwargs):
        raise RuntimeError("not here\nand more")

    monkeypatch.setattr(ahead.topologies, "get_topology_desc", missing)
    with pytest.raises(SystemExit) as stop:
        ahead.main(["--targets=v5e", "--programs=synthesis", "--small"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        "benchmarks.ahead: no compiler for tpu (not here); pip install libtpu.\n"
    )
