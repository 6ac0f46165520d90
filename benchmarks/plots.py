"""Pictures of measurements."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# Told apart by the colour-blind, too.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767676")


def colors(count: int) -> list[str]:
    """So many, again from the first on if there are more than seven."""
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


@contextlib.contextmanager
def png(path: str, panels: int, *, size: tuple[float, float] = (5.0, 4.0)) -> Iterator[list]:
    """Panels beside each other, `size` inches each, written to `path` when the block ends. Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] * panels, size[1]), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    yield axes
    figure.savefig(path, format="png")
