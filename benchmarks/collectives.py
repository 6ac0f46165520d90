"""What devices send each other in a compiled program, read off its optimised HLO."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BITS = {"pred": 8, "c64": 64, "c128": 128}  # the others have their size in their name
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>[^\"]*?) (?P<kind>{'|'.join(KINDS)})"
    r"(?P<phase>-start|-done)?\((?P<operands>[^)]*)\)(?P<attributes>.*)$"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
    """One instruction.

    Attributes:
      kind: one of KINDS.
      bytes: of the whole array that it is about: of all the parts together for a gather or a scatter.
      devices: that take part in one of its groups.
      times: that it runs; a loop of unknown length counts as one round.
      types: of the elements.
    """

    kind: str
    bytes: int
    devices: int
    times: int = 1
    types: str = ""

    @property
    def sent(self) -> float:
        """Bytes that each device sends if they form a ring, which no algorithm does with fewer."""
        share = (self.devices - 1) / self.devices
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return factor.get(self.kind, share) * self.bytes


def parse(text: str, devices: int) -> list[Collective]:
    """The collectives of a module for so many devices; those among one device alone are none."""
    lines = dict(_computations(text))
    times = _times(lines)
    found = []
    for name, body in lines.items():
        started: dict[str, str] = {}
        for line in body:
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            if match["phase"] == "-start":  # its shape has the operands too: that of its end counts
                started[match["name"]] = match["attributes"]
                continue
            attributes = match["attributes"]
            if match["phase"] == "-done":
                attributes = started.get(_last_name(match["operands"]), "")
            group = _group(attributes, devices)
            if group > 1 and times.get(name, 0):
                size = _bytes(match["shape"])
                size *= group if match["kind"] == "reduce-scatter" else 1
                types = "+".join(sorted({kind for kind, _ in _ARRAY.findall(match["shape"])}))
                found.append(Collective(match["kind"], size, group, times[name], types))
    return found


def summary(found: list[Collective]) -> dict[str, dict[str, Any]]:
    """By kind: how many run in a step, of how many bytes (and by type), and what a device of a ring sends of them."""
    totals: dict[str, dict[str, Any]] = {}
    for one in found:
        row = totals.setdefault(one.kind, {"number": 0, "bytes": 0, "sent": 0, "types": {}})
        row["types"][one.types] = row["types"].get(one.types, 0) + one.times * one.bytes
        row["number"] += one.times
        row["bytes"] += one.times * one.bytes
        row["sent"] += round(one.times * one.sent)
    return totals


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of each; that of the entry is ""."""
    name, body = None, []
    for line in text.splitlines():
        if name is None:
            match = _COMPUTATION.match(line)
            if match and "HloModule" not in line:
                name, body = "" if match[1] else match[2], []
        elif line.startswith("}"):
            yield name, body
            name = None
        else:
            body.append(line)


def _times(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs."""
    callers: dict[str, list[tuple[str, int]]] = {}
    for name, body in computations.items():
        for line in body:
            trips = _TRIPS.search(line)
            rounds = int(trips[1]) if trips else 1
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [branch.strip(" %") for branch in branches.split(",")]
            for callee in called:
                callers.setdefault(callee, []).append((name, rounds))
    times = {"": 1}

    def of(name: str) -> int:
        if name not in times:
            times[name] = sum(rounds * of(caller) for caller, rounds in callers.get(name, ()))
        return times[name]

    for name in computations:
        of(name)
    return times


def _last_name(operands: str) -> str:
    return operands.split("%")[-1].strip().split(" ")[-1]


def _group(attributes: str, devices: int) -> int:
    """How many take part in a group; without one, and in `{}`, all do."""
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota[1])
    if named := re.search(r"replica_groups=@?mesh\w*\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        # An axis, or a part of one: 'name':(size before it)size.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return listed[1].count(",") + 1
    return devices


def _bytes(shape: str) -> int:
    total = 0
    for kind, sizes in _ARRAY.findall(shape):
        bits = _BITS.get(kind) or int(re.search(r"\d+", kind)[0])
        total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
    return total
