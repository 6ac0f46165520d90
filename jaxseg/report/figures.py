"""From a matplotlib figure to SVG that stands in a page and takes its colours.

Figures are drawn in a few fixed colours, which then become CSS variables: the page's style says what they are in light,
in dark and on paper. Text stays text.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import warnings
from collections.abc import Iterator

import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, FAINT, PAPER = "#010203", "#040506", "#070809"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767676")
WIDTH = 400  # CSS pixels; wide enough for a phone, and two or three beside each other elsewhere
_DPI = 72
_ID = "figure"  # ids in an image begin with it
_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
    **{color: f"var(--s{i})" for i, color in enumerate(SERIES)},
}
_RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may hold dollars
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": True,
}


@contextlib.contextmanager
def drawing(height: float = 260, width: float = WIDTH) -> Iterator[Figure]:
    """A figure of some CSS pixels under the style of the reports. Render it, with `svg`, inside the block."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def svg(figure: Figure, title: str) -> Markup:
    """The figure as an <svg> element; `title` is what screen readers say."""
    text = io.StringIO()
    with (
        warnings.catch_warnings(),
        matplotlib.rc_context({"svg.hashsalt": title}),
    ):  # same figure, same text
        warnings.filterwarnings("ignore", "Glyph")  # the browser has the font that is lacking here
        figure.canvas.print_svg(text, metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    opening, body = body.split(">", 1)
    size = re.search(r'viewBox="([^"]*)"', opening).group(1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = _renamed(body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    body = body.replace("'DejaVu Sans'", "var(--font)")
    width = size.split()[2]
    return Markup(
        f'<svg viewBox="{size}" width="{width}" role="img" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<title>{escape(title)}</title>{body}"
    )


def distinct(text: str) -> str:
    """A page whose images were drawn apart, with ids that no two of them share: one would clip by another's frame."""
    count = itertools.count(1)

    def number(image: re.Match) -> str:
        name = f"{_ID}{next(count)}-"
        return re.sub(rf'( id="|url\(#|href="#){_ID}-', rf"\g<1>{name}", image.group())

    return re.sub(r"<svg\b.*?</svg>", number, text, flags=re.DOTALL)


def _renamed(body: str) -> str:
    """An image whose ids are `figure-0`, `figure-1`, ...; those that nothing refers to are left out."""
    used = dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    names = {old: f"{_ID}-{i}" for i, old in enumerate(used)}

    def rename(match: re.Match) -> str:
        before, old, after = match.groups()
        if old in names:
            return f"{before}{names[old]}{after}"
        return "" if before == ' id="' else match.group()

    return re.sub(r'( id="|url\(#|href="#)([^)"]+)([)"])', rename, body)
