"""Filling templates: HTML that needs neither a network nor a script, with everything from outside escaped."""

from __future__ import annotations

import math
from typing import Any

import jinja2

from jaxseg.report import charts, figures


def render(template_name: str, package: str, **context: Any) -> str:
    """Fills a template of a package's folder `templates`.

    It may extend `base.html` and import `macros.html` of this package. Everything that is not `Markup` is escaped. A
    name that the context lacks is an error.

    Args:
      template_name: e.g. "run.html".
      package: e.g. "jaxseg.report".
      context: what the template needs.

    Returns:
      The page.
    """
    packages = dict.fromkeys((package, "jaxseg.report"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "templates") for name in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(percent=percent, number=charts.number, shortened=charts.shortened)
    text = environment.get_template(template_name).render(**context)
    return figures.distinct(text) + "\n"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent without the sign, as tables of AP have it; a dash for no value (None, -1, NaN)."""
    if value is None or not math.isfinite(value) or value == -1:
        return "–"  # noqa: RUF001
    return f"{100 * value:.{digits}f}".replace("-", charts.MINUS)
