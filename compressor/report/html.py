"""The report as one HTML page that needs nothing else: no script, no font, no picture from outside."""

from __future__ import annotations

from importlib.resources import files

from compressor.report.charts import WIDTH, latency_charts, parameter_chart
from compressor.report.content import content
from compressor.report.spectra import HEIGHT, spectra
from compressor.report.spectra import WIDTH as SPECTRUM_WIDTH
from compressor.report.table import plain
from compressor.report.tiles import tiles
from compressor.report.value import Report

_TEMPLATE = "page.html.j2"


def render_html(report: Report) -> str:
    """All of ``report`` with its charts; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("compressor.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    bars = parameter_chart(report)
    page = environment.from_string(source).render(
        said=content(report),
        method=plain(report.method),
        tiles=tiles(report),
        bars=bars,
        any_kept=bars is not None and any(row.kept for row in bars.rows),
        spans=latency_charts(report),
        width=WIDTH,
        spectra=spectra(report),
        spectrum_size=(SPECTRUM_WIDTH, HEIGHT),
    )
    return page + "\n"
