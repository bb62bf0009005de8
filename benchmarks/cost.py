"""Work of a program: what the compiler counts, and what its convolutions and products need."""

import math

import jax
import numpy as np
from jax.interpreters import partial_eval


def compiled_cost(compiled) -> dict[str, float]:
    """The compiler's own account of one call.

    XLA counts the body of a loop once, so the map-to-style heads, which are a scan, count as three
    instead of L: `count` has them all.

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
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    # Gradients that nobody asks for, such as those of frozen weights, are not computed.
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    flops, moved = _count(jaxpr)
    return {"flops": flops, "bytes": moved}


def _count(jaxpr):
    flops = moved = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in _FLOPS:
            flops += _FLOPS[name](equation)
            moved += _bytes([*equation.invars, *equation.outvars])
        else:
            costs = [_count(inner) for inner in _programs(params)]
            if name == "cond":
                costs = [max(costs)]
            times = params["length"] if name == "scan" else 1
            flops += times * sum(cost[0] for cost in costs)
            moved += times * sum(cost[1] for cost in costs)
    return flops, moved


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
