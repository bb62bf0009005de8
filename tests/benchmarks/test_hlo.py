import jax
import jax.numpy as jnp
import pytest

from benchmarks import hlo

PROGRAM = """HloModule example

%fused (p: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %c = bf16[2,8]{1,0} convolution(%a, %a), window={size=1x1}
  ROOT %d = bf16[1024,1024]{1,0} copy(%c)
}

%body (p: (f32[4])) -> (f32[4]) {
  %e = bf16[1024,1024]{0,1} copy(%p)
  ROOT %f = f32[4]{0} fusion(%e), calls=%fused, backend_config={"estimated_cycles":"100"}
}

%cheap (p: f32[4]) -> f32[4] {
  ROOT %k = f32[4]{0} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"1"}
}

%dear (p: f32[4]) -> f32[4] {
  ROOT %l = f32[4]{0} fusion(%p), calls=%fused, backend_config={"estimated_cycles":"20"}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %g = (f32[4,8]{1,0}, u8[0]{0}) custom-call(%p), a=b, custom_call_target="__cudnn$convForward"
  %h = f32[8]{0} copy(%p)
  %i = (f32[4]) while(%p), body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %m = f32[4]{0} conditional(%q, %p, %p), branch_computations={%cheap, %dear}
  ROOT %j = f32[4]{0} fusion(%i), calls=%fused, backend_config={"estimated_cycles":"7"}
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_what_is_fused_or_small_is_no_copy():
    found = hlo.read(PROGRAM)
    assert found["cycles"] == 3 * 100 + 20 + 7
    assert found["convolutions"] == {"bf16": 1, "f32": 1}
    assert (found["copies"], found["copied_bytes"]) == (3, 3 * 2 * 1024**2)


def traffic(function, *arguments):
    return hlo.read(jax.jit(function).lower(*arguments).compile().as_text())["traffic_bytes"]


def test_traffic_of_a_fusion_is_what_goes_in_and_out():
    x = jnp.ones((64, 32))
    assert traffic(lambda x: jnp.tanh(2 * x) + 1, x) == 2 * 64 * 32 * 4


def test_traffic_of_a_loop_is_that_of_its_slices():
    """A scan reads one slice and writes one slice in each of its turns, not the whole arrays.

    Before it runs, the result is filled with zeros.
    """

    def scan(x):
        return jax.lax.scan(lambda carry, row: (carry, jnp.tanh(row) + carry), 1.0, x)[1]

    x = jnp.ones((16, 4096))
    assert traffic(scan, x) == pytest.approx(3 * 16 * 4096 * 4, rel=0.01)


UPDATES = """HloModule example

%fused (p: f32[8,4]) -> (f32[8,4], f32[8,4]) {
  %p = f32[8,4]{1,0} parameter(0)
  %u = f32[1,4]{1,0} parameter(1)
  %s = s32[] parameter(2)
  %zero = f32[8,4]{1,0} broadcast(%s), dimensions={}
  %b = f32[8,4]{1,0} bitcast(%p)
  %d = f32[8,4]{1,0} dynamic-update-slice(%b, %u, %s, %s)
  %e = f32[8,4]{1,0} dynamic-update-slice(%zero, %u, %s, %s)
  ROOT %t = (f32[8,4]{1,0}, f32[8,4]{1,0}) tuple(%d, %e)
}

%cheap (p: f32[8,4]) -> f32[8,4] {
  ROOT %c = f32[8,4]{1,0} constant(0)
}

%dear (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %c = f32[8,4]{1,0} negate(%p)
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %u = f32[1,4]{1,0} parameter(1)
  %s = s32[] parameter(2)
  PROGRAM
}
"""


@pytest.mark.parametrize(
    "program, numbers",
    [
        # In place: the row is read and written. In zeros: the row is read, all is written.
        ("%f = (f32[8,4], f32[8,4]) fusion(%p, %u, %s), kind=kLoop, calls=%fused", 4 + 1 + 4 + 32),
        ("%f = f32[8,4] conditional(%s, %p, %p), branch_computations={%cheap, %dear}", 64),
        ("%f = (f32[8,4], f32[8,4]) all-reduce-start(%p), to_apply=%add", 32),
        ("%f = f32[8,4]{1,0} all-reduce-done(%p)", 32),
        ("%f = (f32[8,4], f32[8,4]) tuple(%p, %p)", 0),
    ],
)
def test_traffic_of_updates_branches_and_asynchronous_operations(program, numbers):
    assert hlo.read(UPDATES.replace("PROGRAM", program))["traffic_bytes"] == 4 * numbers


PRODUCTS = """HloModule example

%fused (p: bf16[8,16]) -> f32[8,4] {
  %p = bf16[8,16]{1,0} parameter(0)
  %q = bf16[16,4]{1,0} parameter(1)
  ROOT %d = f32[8,4]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[2,8,8,4]) -> f32[8,4] {
  %x = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %k = bf16[6,3,3,4]{3,2,1,0} parameter(1)
  %p = bf16[8,16]{1,0} parameter(2)
  %q = bf16[16,4]{1,0} parameter(3)
  %y = (bf16[2,4,4,6]{3,2,1,0}, u8[9]{0}) custom-call(%x, %k), dim_labels=b01f_o01i->b01f, TARGET"
  ROOT %z = f32[8,4]{1,0} fusion(%p, %q), kind=kCustom, calls=%fused
}
"""


@pytest.mark.parametrize(
    "kind, operands, result",
    [
        ("Forward", "%x, %k", "bf16[2,4,4,6]"),
        ("BackwardInput", "%g, %k", "bf16[2,8,8,4]"),
        ("BackwardFilter", "%x, %g", "bf16[6,3,3,4]"),
    ],
)
def test_least_time_of_products(kind, operands, result):
    """A convolution and its two gradients multiply the same pairs."""
    program = PRODUCTS.replace("TARGET", f'custom_call_target="__cudnn$conv{kind}')
    program = program.replace("bf16[2,4,4,6]", result).replace("%x, %k", operands)
    program = program.replace("  %k =", "  %g = bf16[2,4,4,6]{3,2,1,0} parameter(4)\n  %k =")
    rates = hlo.Rates(memory=1e30, flops=1.0, flops32=1e-3)
    convolution, product = 2 * (2 * 4 * 4 * 6) * (3 * 3 * 4), 2 * 8 * 4 * 16
    assert hlo.read(program, rates)["least_seconds"] == convolution + product
    slow = hlo.Rates(memory=1.0, flops=1e30, flops32=1e30)
    found = hlo.read(program, slow)
    assert found["least_seconds"] == found["traffic_bytes"]
