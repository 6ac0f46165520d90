"""What a trace of jax's profiler and a compiled program say about operations: seconds, and parts of the model."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator
from typing import Any

OPS = "XLA Ops"  # of a TPU's lines the one that holds every operation once
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(\S+) \(.*\{$")  # those that are called come first
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (\(.*?\)|[^\s{]+)\S* ([\w-]+)\(")
_CALLED = re.compile(r"\bcalls=%?([^\s,]+)")
_SOURCE = re.compile(r'metadata=\{[^}]*op_name="([^"]*)"')
_WRAPPERS = re.compile(r"(?:jit|pjit|jvp|vmap|transpose|checkpoint|rematted_computation)\(|\)")
_NOT_SHOWN = {
    "while",
    "body",
    "cond",
    "closed_call",
    "custom_vjp_call",
    "custom_jvp_call",
    "main",
    "",
}


def operations(planes: Iterable[Any]) -> dict[str, float]:
    """Seconds by compiled operation: those of devices, or of the host where that is the device.

    Time counts once: what an operation calls (a loop its body) is not part of its own. Operations that run at the same
    time both count, so that all together may take longer than the program.

    Args:
      planes: of jax.profiler.ProfileData.
    """
    of_devices: collections.Counter[str] = collections.Counter()
    of_host: collections.Counter[str] = collections.Counter()
    for plane in planes:
        seconds = of_devices if plane.name.startswith("/device:") else of_host
        lines = list(plane.lines)
        for line in [line for line in lines if line.name == OPS] or lines:
            named = ((_operation(event, line.name), event) for event in line.events)
            spans = [(e.start_ns, e.start_ns + e.duration_ns, name) for name, e in named if name]
            for name, nanoseconds in own_times(spans):
                seconds[name] += nanoseconds / 1e9
    return dict(of_devices or of_host)


def _operation(event: Any, line: str) -> str | None:
    return dict(event.stats).get("hlo_op") or (event.name if line == OPS else None)


def own_times(spans: Iterable[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """(name, length) of each of the (start, end, name) of a line, without the spans that lie inside of it."""
    around = []  # (end, name, [own]), each inside of the one before
    for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while around and around[-1][0] <= start:
            _, closed, own = around.pop()
            yield closed, own[0]
        if around:
            around[-1][2][0] -= min(end, around[-1][0]) - start
        around.append((end, name, [end - start]))
    for _, name, own in around:
        yield name, own[0]


def parts(program: str) -> dict[str, str]:
    """Of each instruction of a compiled program in HLO: what part of the model, and which primitive, it comes from.

    A fusion without a name has that of what it holds, rather of a convolution or product than of others. Where XLA kept
    no name at all: the operation and the shape of its result.
    """
    found, held, inside = {}, {}, ""
    for line in program.splitlines():
        if begun := _COMPUTATION.match(line):
            inside = begun.group(1)
        elif instruction := _INSTRUCTION.match(line):
            name, shape, operation = instruction.groups()
            source, callee = _SOURCE.search(line), _CALLED.search(line)
            unnamed = held.get(callee and callee.group(1), f"{operation} {shape}")
            found[name] = part(source.group(1)) if source else unnamed
            if operation != "parameter" and not _is_product(held.get(inside, "")):
                held[inside] = found[name]
    return found


def part(source: str) -> str:
    """Of an `op_name`: "jit(step)/transpose(jvp(Model))/head/conv/dot_general" is "head/conv dot_general, backward"."""
    path = [word for word in _WRAPPERS.sub("/", source).split("/") if word not in _NOT_SHOWN]
    where, primitive = "/".join(path[2:-1]), path[-1] if path else ""
    return f"{where} {primitive}".strip() + (", backward" if "transpose(" in source else "")


def _is_product(part: str) -> bool:
    return "conv" in part or "dot" in part
