"""What became of every array of a file and of every array of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SHOWN = 3  # names of each reason


@dataclasses.dataclass(frozen=True)
class Report:
    """Names in full; `str` is a short table.

    Attributes:
      layout: what the file was recognised as.
      used: their name -> our path.
      ignored: their name -> why.
      constant: our path -> the constant it was set to, and why; parts of norms that the file has folded away.
      initial: our path -> why it keeps its initial value.
      notes: what the user should know, a sentence each.
    """

    layout: str
    used: Mapping[str, str]
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    constant: Mapping[str, str] = dataclasses.field(default_factory=dict)
    initial: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"layout   {self.layout}",
            f"used     {len(self.used)} of the file's {len(self.used) + len(self.ignored)} arrays",
        ]
        groups = {"ignored": self.ignored, "constant": self.constant, "initial": self.initial}
        for title, names in groups.items():
            for why, members in _by_reason(names).items():
                lines.append(f"{title:<9}{len(members)}: {why} ({_few(members)})")
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)


def _by_reason(names: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, why in names.items():
        found.setdefault(why, []).append(name)
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
