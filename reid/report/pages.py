"""Pages from the Jinja2 templates of ``templates/``, which escape all data; a page loads nothing from the network.

Only this project's own text is inserted unescaped: the charts, and the script of the one page that has one.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from reid.features import RANKS
from reid.files import atomic
from reid.report.drawing import Plot
from reid.report.records import Thumbnail
from reid.report.tables import percent

_NUMBER = re.compile(r"[-+−]?[\d.,]+( ± [\d.,]+)?%?")


def render(template: str, **context: object) -> str:
    """Render a template with its variables; a missing variable is an error.

    Args:
        template: the name of a file in ``reid/report/templates``.
        context: its variables.
    """
    return _environment().get_template(template).render(context)


def write_page(path: str | Path, page: str) -> None:
    """Write the page atomically: readers of ``path`` see the old page or the new one, never a part of one.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(page.encode("utf-8", "replace"))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reid.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "drawing": _drawing,
        "data_uri": _data_uri,
        "words": _words,
        "script": Markup,
    }
    environment.globals |= {"ranks": RANKS}
    return environment


def _drawing(plot: Plot) -> Markup:
    """The chart's SVG with its alternative text."""
    return Markup(plot.svg.replace("<svg ", f'<svg role="img" aria-label="{escape(plot.alt)}" ', 1))


def _data_uri(thumbnail: Thumbnail) -> str:
    return f"data:{thumbnail.media_type};base64,{base64.b64encode(thumbnail.image).decode('ascii')}"


def _words(rows: Sequence[Sequence[str]], count: int) -> list[bool]:
    """For each column of a table, whether it contains no number."""
    return [not any(_NUMBER.fullmatch(row[i]) for row in rows) for i in range(count)]
