"""What became of every array of a file and of every array of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

SHOWN = 4  # names of each reason


@dataclasses.dataclass(frozen=True)
class Report:
    """Names in full; `str` is a short table.

    Attributes:
      layout: what the file was recognised as.
      used: their name -> our path.
      ignored: their name -> why.
      constant: our path -> the constant it was set to, and why; parts of norms that the file has folded away.
      copied: our path -> our path that it is a copy of.
      initial: our path -> why it keeps its initial value.
      notes: what the user should know, a sentence each.
    """

    layout: str
    used: Mapping[str, str]
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    constant: Mapping[str, str] = dataclasses.field(default_factory=dict)
    copied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    initial: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"layout   {self.layout}",
            f"used     {len(self.used)} of the file's {len(self.used) + len(self.ignored)} arrays",
        ]
        others = [*self.used.values(), *self.constant, *self.copied]
        for why, names in _by_reason(self.ignored).items():
            lines.append(f"ignored  {len(names)}: {why} ({_few(names)})")
        for why, paths in _by_reason(self.constant).items():
            lines.append(f"constant {len(paths)}: {why} ({_few(paths)})")
        if self.copied:
            names = _few(modules(self.copied, [*self.used.values(), *self.initial]))
            lines.append(f"copied   {len(self.copied)}: from what they refine ({names})")
        for why, paths in _by_reason(self.initial).items():
            lines.append(f"initial  {len(paths)}: {why} ({_few(modules(paths, others))})")
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)


def modules(paths: Iterable[str], others: Iterable[str]) -> list[str]:
    """The largest modules that hold nothing but `paths`, where everything else is `others`; paths as in a tree."""
    inner = [path.partition("/")[2] for path in paths]
    elsewhere = {prefix for path in others for prefix in _prefixes(path.partition("/")[2])}
    found = (next(p for p in _prefixes(path) if p not in elsewhere) for path in inner)
    return sorted(dict.fromkeys(found))


def _prefixes(path: str) -> list[str]:
    """`a`, `a/b`, `a/b/c` of `a/b/c`."""
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _by_reason(names: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, why in names.items():
        found.setdefault(why, []).append(name)
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
