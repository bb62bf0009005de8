"""Work of a program: what the compiler counts, and what its convolutions and products need."""

import math

import jax
import numpy as np
from jax.interpreters import partial_eval


def compiled_cost(compiled) -> dict[str, float]:
    """The compiler's own account of one call.

    XLA counts the body of a loop once, so a scan over heads or units counts as one of them: `count`
    has them all.

    Returns:
      "flops" and "bytes", from `compiled.cost_analysis()`, fused as it will run, and
      "planned_bytes", the memory of arguments, results and temporaries.
    """
    analysis, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    planned = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    planned += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "flops": analysis.get("flops"),
        "bytes": analysis.get("bytes accessed"),
        "planned_bytes": planned,
    }


def count(function, *arguments) -> dict[str, float]:
    """FLOPs and least bytes of the convolutions and matrix products of `function(*arguments)`.

    A multiplication with padding or with a zero that dilation inserts is none, as in XLA's own
    count. Bytes are those that convolutions and products read and write once each, as if all else
    were fused into them. A scan counts as often as it runs; of a conditional the dearest branch.

    Args:
      function: anything that can be traced.
      *arguments: arrays or `jax.ShapeDtypeStruct`; nothing is computed.

    Returns:
      "flops" and "bytes".
    """

    def work(equation):
        flops = _FLOPS[equation.primitive.name](equation)
        return np.array([flops, _bytes([*equation.invars, *equation.outvars])])

    flops, moved = _sum(_program(function, arguments), {name: work for name in _FLOPS}, np.zeros(2))
    return {"flops": float(flops), "bytes": float(moved)}


def count_primitives(names, function, *arguments) -> int:
    """How often `function(*arguments)` runs JAX's primitives of these names."""
    return _sum(_program(function, arguments), {name: lambda _: 1 for name in names}, 0)


def _program(function, arguments):
    """Its jaxpr, without gradients that nobody asks for, such as those of frozen weights."""
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _sum(jaxpr, costs, zero):
    """The sum of what `costs`, by name of the primitive, say of the equations."""
    total, by_platform = zero, set()
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in costs:
            total = total + costs[name](equation)
            continue
        if name == "platform_index":
            by_platform.update(equation.outvars)
        inner = [_sum(program, costs, zero) for program in _programs(params)]
        if name == "cond":
            # The last form of a platform's choice is the plain one.
            plain = equation.invars[0] in by_platform
            inner = inner[-1:] if plain else [max(inner, key=lambda cost: np.sum(cost))]
        times = params["length"] if name == "scan" else 1
        total = total + times * sum(inner, zero)
    return total


def _bytes(operands):
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in operands)


def _programs(params):
    """The programs inside an equation."""
    found = []
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found


def _convolution(equation):
    """Two FLOPs for each pair of an output and a kernel's tap that meet a value of the input."""
    params = equation.params
    lhs, rhs = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    layout = params["dimension_numbers"]
    pairs = 1
    for i, axis in enumerate(layout.lhs_spec[2:]):
        pairs *= _meetings(
            lhs[axis],
            rhs[layout.rhs_spec[2 + i]],
            out[layout.out_spec[2 + i]],
            params["window_strides"][i],
            params["padding"][i][0],
            params["lhs_dilation"][i],
            params["rhs_dilation"][i],
        )
    channels_in = rhs[layout.rhs_spec[1]]  # of one group
    channels_out = out[layout.out_spec[1]]
    batch = out[layout.out_spec[0]]
    return 2 * batch * channels_in * channels_out * pairs / params["batch_group_count"]


def _meetings(n_in, taps, n_out, stride, before, lhs_dilation, rhs_dilation):
    """Pairs of an output and a tap, along one axis, that meet a value instead of a zero."""
    place = np.arange(n_out)[:, None] * stride + np.arange(taps) * rhs_dilation - before
    inside = (place >= 0) & (place <= (n_in - 1) * lhs_dilation) & (place % lhs_dilation == 0)
    return int(inside.sum())


def _product(equation):
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    out = math.prod(equation.outvars[0].aval.shape)
    return 2 * out * math.prod(lhs[axis] for axis in contracted)


_FLOPS = {"conv_general_dilated": _convolution, "dot_general": _product}
