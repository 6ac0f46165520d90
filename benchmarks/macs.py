"""Multiply-adds (MACs) of a JAX function by the part of it that does them, counted over its jaxpr: nothing is computed.

Convolutions and matrix products count, everything else does not. A convolution counts what it does at every output,
multiplications with zero padding included, as papers do; of a transposed one (`lhs_dilation`) the zeros between the
inputs do not count. Work whose result nobody uses is counted too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core

_LABEL = re.compile(r"@<([^>]*)>")
_MANY_TIMES = ("while", "pallas_call")  # run their body a number of times that is not known here


class Operation(NamedTuple):
    """A convolution or matrix product.

    Attributes:
      label: of the innermost `label` around it; "" without one.
      primitive: its name.
      macs: of all the times that it runs; in a loop of unknown length, of one round.
      batch: of the result of a convolution; of a matrix product the first axis that is longer than 1.
      unbounded: lies in a loop of unknown length (`while`), or in a kernel.
    """

    label: str
    primitive: str
    macs: int
    batch: int
    unbounded: bool = False


def label(text: str) -> Any:
    """A context manager: what is traced inside of it carries `text` (without ">" and "/")."""
    return jax.named_scope(f"@<{text}>")


def operations(jaxpr: core.Jaxpr, outer: str = "", times: int = 1) -> Iterator[Operation]:
    """Every convolution and matrix product of `jaxpr`, in all that it calls.

    The body of `scan` counts as often as it runs, that of `shard_map` once a device, of the branches of `cond` the most
    expensive, or that of platforms without one of their own. `outer` and `times` are the label and the number of runs
    of the whole jaxpr.
    """
    for equation in jaxpr.eqns:
        # A jaxpr that is called says nothing about where it is called from.
        labels = _LABEL.findall(str(equation.source_info.name_stack))
        inner = labels[-1] if labels else outer
        name = equation.primitive.name
        if name in _MACS:
            yield Operation(inner, name, times * _MACS[name](equation), _batch(equation))
            continue
        if name == "cond":
            branches = [list(operations(body, inner, times)) for body in _branches(equation)]
            yield from max(branches, key=total)
            continue
        repeats = times * _repeats(equation)
        for body in _bodies(equation.params):
            for operation in operations(body, inner, repeats):
                yield operation._replace(unbounded=operation.unbounded or name in _MANY_TIMES)


def total(operations: list[Operation]) -> int:
    return sum(operation.macs for operation in operations)


def _repeats(equation: core.JaxprEqn) -> int:
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "shard_map":
        return equation.params["mesh"].size
    return 1


def _branches(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """All of them; of a choice by platform, that of the platforms without one of their own."""
    branches = list(_bodies({"branches": equation.params["branches"]}))
    platforms = equation.params.get("branches_platforms")
    if platforms and None in platforms:
        return [branches[platforms.index(None)]]
    return branches


def _bodies(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _convolution(equation: core.JaxprEqn) -> int:
    kernel, params = equation.invars[1].aval.shape, equation.params
    # With groups a kernel has the input channels of one of them alone.
    each = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    return equation.outvars[0].aval.size * each // math.prod(params["lhs_dilation"])


def _product(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _batch(equation: core.JaxprEqn) -> int:
    shape = equation.outvars[0].aval.shape
    if equation.primitive.name == "conv_general_dilated":
        return shape[equation.params["dimension_numbers"].out_spec[0]]
    return next((length for length in shape if length > 1), 1)


_MACS = {"conv_general_dilated": _convolution, "dot_general": _product}
