import jax
import pytest

from benchmarks import ahead, step_work

PROGRAM = """HloModule example

%fused (p: f32[4]) -> f32[4] {
  %c = bf16[2,8]{1,0} convolution(%a, %b), window={size=1x1}
  ROOT %d = bf16[1024,1024]{1,0} copy(%c)
}

%body (p: (f32[4])) -> (f32[4]) {
  %e = bf16[1024,1024]{0,1} copy(%p)
  ROOT %f = f32[4]{0} fusion(%e), calls=%fused, backend_config={"estimated_cycles":"100"}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %g = (f32[4,8]{1,0}, u8[0]{0}) custom-call(%p), a=b, custom_call_target="__cudnn$convForward"
  %h = f32[8]{0} copy(%p)
  %i = (f32[4]) while(%p), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %j = f32[4]{0} fusion(%i), calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_what_is_fused_or_small_is_no_copy():
    assert ahead.read(PROGRAM) == {
        "cycles": 3 * 100 + 7,
        "convolutions": {"bf16": 1, "f32": 1},
        "copies": 3,
        "copied_bytes": 3 * 2 * 1024**2,
    }


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
