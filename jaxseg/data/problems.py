"""What was skipped and why: counted by reason, told once, never once per item."""

from __future__ import annotations

import collections

_EXAMPLES = 3


class Problems:
    """Counts skipped things by reason and keeps the first few examples of each.

    `counts` maps a reason (a phrase such as "image file is missing") to how often it occurred.
    """

    def __init__(self):
        self.counts: collections.Counter[str] = collections.Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, reason: str, example: object) -> None:
        self.counts[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(str(example))

    def total(self) -> int:
        return self.counts.total()

    def summary(self) -> str:
        """One line: every reason with its count and the first examples."""
        parts = []
        for reason, count in self.counts.most_common():
            shown = ", ".join(self.examples[reason])
            parts.append(f"{count} x {reason} ({shown}{', ...' if count > _EXAMPLES else ''})")
        return "; ".join(parts)

    def __repr__(self) -> str:
        return f"Problems({self.summary()})"
