"""What became of every array of a file and of every array of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxseg.training.starting import by_reason, copied_lines, few, initial_lines


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
        taken = [*self.used.values(), *self.constant]
        for why, names in by_reason(self.ignored).items():
            lines.append(f"ignored  {len(names)}: {why} ({few(names)})")
        for why, paths in by_reason(self.constant).items():
            lines.append(f"constant {len(paths)}: {why} ({few(paths)})")
        lines += copied_lines(self.copied, [*taken, *self.initial])
        lines += initial_lines(self.initial, [*taken, *self.copied])
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)
