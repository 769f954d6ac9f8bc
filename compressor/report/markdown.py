"""The report as Markdown: report.md, which can stand in a model card as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from compressor.report.content import content
from compressor.report.marks import Tone
from compressor.report.table import Table
from compressor.report.value import Report

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~&#$])")
_EMPHASIS: dict[Tone, str] = {"": "", "good": "", "bad": "**", "unsure": "*"}


def render_markdown(report: Report) -> str:
    """All of ``report``, under one heading of the second level."""
    said = content(report)
    parts = [f"## {escape(said.title)}", f"{escape(said.headline)}.", f"Status: {escape(said.status)}."]
    parts += [f"### {escape(table.title)}\n\n{table_markdown(table)}" for table in said.tables]
    if said.verification:
        parts.append("### Verified\n\n" + _bullets(said.verification))
    if said.notes:
        parts.append("### Notes\n\n" + _bullets(said.notes))
    parts.append("### How it was made\n\n" + _bullets(f"{name}: {text}" for name, text in said.facts))
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table) -> str:
    """One table with its note below; what is worse is set in bold."""
    rules = ["---" if number in table.texts else "---:" for number in range(len(table.columns))]
    rows = [[_emphasised(cell.text, _EMPHASIS[cell.tone]) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(line)} |" for line in ([escape(name) for name in table.columns], rules, *rows)]
    return "\n".join([*lines, *(["", escape(table.note)] if table.note else [])])


def escape(text: str) -> str:
    """``text`` with every character that Markdown or HTML would take for its own set apart."""
    return _SPECIAL.sub(r"\\\1", text)


def _emphasised(text: str, sign: str) -> str:
    return f"{sign}{escape(text)}{sign}" if text else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
