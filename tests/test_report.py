"""The report: one value, and the same facts on every page that shows it."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from compressor.errors import CompressorError
from compressor.report import (
    Baseline,
    Check,
    Fidelity,
    LatencyRow,
    LayerRow,
    Report,
    Side,
    Stand,
    read_report,
    render_text,
    write_reports,
)
from compressor.report.charts import WIDTH, latency_charts, parameter_chart
from compressor.report.compare import comparison, rows_of
from compressor.report.content import headline
from compressor.report.html import render_html
from compressor.report.markdown import render_markdown
from compressor.report.marks import count_change, latency_change, quality_change, times
from compressor.report.spectra import spectra

HOSTILE = "<script>alert(1)</script>|**x**`[a](b)\x1b[45m\n# y"


def span(median: float, spread: float = 0.05) -> LatencyRow:
    return LatencyRow(median=median, p10=median * (1 - spread), p90=median * (1 + 2 * spread))


def latency(factor: float) -> dict[str, dict[str, LatencyRow]]:
    base = {"torch": {"1": 0.2131, "32": 4.217}, "onnxruntime": {"1": 0.1283, "32": 2.531}}
    return {runtime: {batch: span(ms * factor) for batch, ms in batches.items()} for runtime, batches in base.items()}


def side(dense: int, accuracy: float | None, factor: float, **other: Any) -> Side:
    judged: dict[str, Any] = {}
    if accuracy is not None:
        judged = {"metric": "accuracy", "value": accuracy, "accuracy": accuracy, "error": 1 - accuracy}
        judged["higher_is_better"] = True
    sizes = {"model.safetensors": 4 * dense, "model.onnx": 4 * dense + 30_123, "model.pt2": 4 * dense + 51_234}
    counts = {"params": dense + 25_570, "dense_params": dense, "macs": 1_893_000 + dense}
    return Side(**{**counts, "size_bytes": sizes, "latency_ms": latency(factor), **judged, **other})


CURVE: dict[str, Any] = {
    "low_rank": [(1, 0.9), (10, 0.5), (100, 0.1), (500, 0.0)],
    "stands": [Stand(method="acdc", params=4_807, error=0.4321), Stand(method="svd", params=10_000_000, error=0.5)],
}


def layer(name: str = "classifier.ip1", **other: Any) -> LayerRow:
    given = {"name": name, "sites": [name], "in_features": 800, "out_features": 501, "method": "acdc"}
    given |= {"config": {"depth": 3, "basis": "dct"}, "params_before": 401_301, "params_after": 4_807}
    return LayerRow(**{**given, "macs_before": 400_800, "macs_after": 61_234, "fit_error": 0.4321, **CURVE, **other})


def make(**other: Any) -> Report:
    kept = layer("classifier.ip2", method=None, config={}, params_before=5_019, params_after=5_019, fit_error=None)
    kept = kept.model_copy(update={"in_features": 501, "out_features": 10, "kept_because": "it is the last layer"})
    given: dict[str, Any] = {"model": "weights.pth", "method": "acdc", "status": "complete", "seed": 7, "threads": 2}
    given |= {"before": side(406_320, 0.9905, 1.0), "after": side(9_826, 0.9897, 1.01), "layers": [layer(), kept]}
    int8 = Side(size_bytes={"model.onnx": 471_001}, latency_ms={"onnxruntime": latency(1.4)["onnxruntime"]})
    given["baselines"] = [Baseline(name="svd", side=side(10_233, 0.9764, 0.8)), Baseline(name="int8", side=int8)]
    check = Check(file="model.onnx", against="model in memory", max_abs=3e-6, max_rel=2e-7, tolerance=1e-4, rows=64)
    given |= {"verification": [check], "notes": ["1,000 examples were set aside"], "wall_time_s": 271.3}
    return Report(**{**given, "versions": {"torch": "2.13.0"}, "machine": {"cores": 2}, **other})


def counts_only(of: Side) -> Side:
    return Side(params=of.params, dense_params=of.dense_params, macs=of.macs)


def unlabelled(agreement: float | None = 0.9812) -> Report:
    sides = (side(406_320, None, 1.0), side(9_826, None, 1.01))
    kept = Fidelity(agreement=agreement, relative_error=0.123, examples=1_000)
    return make(before=sides[0], after=sides[1].model_copy(update={"fidelity": kept}), baselines=[])


def dry_run() -> Report:
    full = make()
    sides = {"before": counts_only(full.before), "after": counts_only(full.after)}
    return make(**sides, status="dry run", layers=[layer(fit_error=None)], baselines=[], verification=[])


def hostile() -> Report:
    rows = [layer(HOSTILE, sites=[HOSTILE, "b"]), layer("c", method=None, config={}, kept_because=HOSTILE)]
    baseline = Baseline(name=HOSTILE, side=side(9, 0.9, 1), note=HOSTILE)
    return make(model=HOSTILE, layers=rows, notes=[HOSTILE], baselines=[baseline], machine={HOSTILE: HOSTILE})


def many_layers() -> Report:
    rows = [layer(f"model.layers.{n}.self_attention.q_proj", config={"depth": n % 3}) for n in range(200)]
    return make(layers=rows)


REPORTS = {
    "full": make(),
    "stopped": make(status="stopped early: time limit"),
    "unlabelled": unlabelled(),
    "regression": unlabelled(agreement=None),
    "no data": make(before=side(406_320, None, 1.0), after=side(9_826, None, 1.01), baselines=[]),
    "dry run": dry_run(),
    "hostile": hostile(),
    "many layers": many_layers(),
    "nothing measured": make(before=Side(), after=Side(), layers=[], baselines=[], verification=[], notes=[]),
}
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


def as_text(report: Report, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render_text(report))
    return stream.getvalue()


@every_report
def test_a_report_that_is_written_reads_back_the_same(report: Report, tmp_path: Path) -> None:
    write_reports(report, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "report.html"}
    assert read_report(tmp_path) == report


def test_the_json_has_the_names_that_scripts_read() -> None:
    plain = json.loads(make().to_json())
    assert plain["before"]["accuracy"] - plain["after"]["accuracy"] == pytest.approx(0.0008)
    assert plain["after"]["latency_ms"]["onnxruntime"]["32"].keys() == {"median", "p10", "p90"}
    assert plain["after"]["size_bytes"]["model.onnx"] == 4 * 9_826 + 30_123
    assert plain["layers"][1]["kept_because"] == "it is the last layer"


def test_a_figure_that_is_not_a_number_stays_one_in_the_file(tmp_path: Path) -> None:
    write_reports(make(after=side(9, float("nan"), 1.0)), tmp_path)
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    value = read_report(tmp_path).after.value
    assert value is not None
    assert math.isnan(value)


def test_a_side_takes_the_fidelity_that_was_measured_elsewhere() -> None:
    @dataclass(frozen=True)
    class Measured:
        agreement: float | None
        relative_error: float
        examples: int

    found = Side(fidelity=Measured(0.5, 0.25, 4))
    assert found.fidelity == Fidelity(agreement=0.5, relative_error=0.25, examples=4)


@pytest.mark.parametrize("wrong", [{"status": "done"}, {"speed": 3}, {"wall_time_s": -1.0}])
def test_a_report_refuses_what_it_does_not_know(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**wrong)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no report.json"), (b"{", "is not a report"), (b'{"model": "m"}', "Field required"), (b"\xff", "read")],
)
def test_a_folder_without_a_whole_report_is_refused_in_one_line(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(CompressorError, match=says) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "text", "mark", "tone"),
    [
        (span(1.0), span(2.0), "2.00× slower", "slower", "bad"),
        (span(1.0), span(1.02), "1.02× slower (overlap)", "slower", "unsure"),
        (span(2.0), span(1.0), "2.00× faster", "", "good"),
        (span(1.02), span(1.0), "1.02× faster (overlap)", "", ""),
        (span(1.0), span(1.0), "same", "", ""),
        (None, span(1.0), "", "", ""),
    ],
)
def test_a_higher_median_is_slower_and_overlapping_spans_are_said(
    before: LatencyRow | None, after: LatencyRow, text: str, mark: str, tone: str
) -> None:
    change = latency_change(before, after)
    assert (change.text, change.mark, change.tone) == (text, mark, tone)


@pytest.mark.parametrize(
    ("before", "after", "text", "mark"),
    [
        (402_826, 20_106, "20.0× fewer", ""),
        (100, 125, "1.25× more", "larger"),
        (5, 5, "same", ""),
        (5, None, "", ""),
        (0, 3, "∞× more", "larger"),
        (3, 0, "∞× fewer", ""),
        (1, 1001, "1,001× more", "larger"),
    ],
)
def test_a_count_that_grows_is_marked_larger(before: int | None, after: int | None, text: str, mark: str) -> None:
    change = count_change(before, after)
    assert (change.text, change.mark) == (text, mark)


@pytest.mark.parametrize(("ratio", "text"), [(1.004, "1.00×"), (9.996, "10.0×"), (99.96, "100×"), (12.34, "12.3×")])
def test_ratios_have_three_figures(ratio: float, text: str) -> None:
    assert times(ratio) == text


def judged(value: float, metric: str = "mse", higher: bool | None = False) -> Side:
    return Side(metric=metric, value=value, higher_is_better=higher)


@pytest.mark.parametrize(
    ("before", "after", "text", "mark"),
    [
        (side(1, 0.9905, 1), side(1, 0.9897, 1), "−0.08 points, worse", "worse"),
        (side(1, 0.9, 1), side(1, 0.95, 1), "+5.00 points", ""),
        (side(1, 0.9, 1), side(1, 0.9, 1), "same", ""),
        (judged(0.5), judged(0.75), "+0.25, worse", "worse"),
        (judged(0.5), judged(0.25), "−0.25", ""),
        (judged(0.5, "f", None), judged(0.25, "f", None), "−0.25", ""),
        (judged(0.5, "f"), judged(0.25, "g"), "", ""),
        (judged(0.5), judged(float("nan")), "not a number", "worse"),
        (Side(), Side(), "", ""),
    ],
)
def test_a_lower_quality_is_marked_worse_whichever_way_the_metric_points(
    before: Side, after: Side, text: str, mark: str
) -> None:
    change = quality_change(before, after)
    assert (change.text, change.mark) == (text, mark)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@every_report
def test_no_line_of_the_text_is_wider_than_the_terminal_and_no_figure_is_cut(report: Report, width: int) -> None:
    text = as_text(report, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for figure in figures(report):
        assert figure in text, figure


def figures(report: Report) -> list[str]:
    counts = [n for of in (report.before, report.after) for n in (of.params, of.dense_params, of.macs) if n is not None]
    counts += [n for row in report.layers for n in (row.params_before, row.params_after)]
    medians = [f"{row['1'].median:.3f} (" for of in (report.after,) for row in of.latency_ms.values()]
    return [f"{count:,}" for count in counts] + medians


@every_report
def test_the_text_carries_no_escape_codes_where_there_is_no_terminal(report: Report) -> None:
    assert "\x1b" not in as_text(report)


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=True, color_system="standard").print(render_text(hostile()))
    assert "\x1b[45m" not in stream.getvalue()
    assert "\\x1b[45m # y" in stream.getvalue()


@every_report
def test_every_row_of_the_markdown_has_the_cells_of_its_heading(report: Report) -> None:
    text = render_markdown(report)
    blocks = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert len(blocks) == text.count("\n| ---")
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_markdown_takes_nothing_in_a_name_for_its_own() -> None:
    text = render_markdown(hostile())
    assert not re.search(r"(?<!\\)<script", text)
    assert not re.search(r"(?<!\\)\[a", text)
    assert not re.search(r"(?<!\\)\*\*x", text)
    assert "\n# y" not in text


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, text; unbalanced elements fail."""

    VOID = frozenset({"meta", "br", "line", "rect", "circle"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@every_report
def test_the_page_needs_nothing_from_outside_and_runs_nothing(report: Report) -> None:
    source = render_html(report)
    page = Page(source)
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
    names = {name for _, attributes in page.seen for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href", "srcset")}
    assert not re.search(r"url\(|@import|https?:", source)


def test_the_page_shows_a_hostile_name_as_text() -> None:
    page = Page(render_html(hostile()))
    assert page.text.count("<script>alert(1)</script>") >= 6


@every_report
def test_every_chart_of_the_page_has_a_title_and_a_description_of_its_own(report: Report) -> None:
    page = Page(render_html(report))
    identities = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(identities) == len(set(identities))
    charts = [attributes for tag, attributes in page.seen if tag == "svg"]
    assert len(charts) == len(latency_charts(report)) + bool(report.layers) + len(spectra(report))
    for chart in charts:
        assert set((chart["aria-labelledby"] or "").split()) <= set(identities)


@every_report
def test_every_page_says_the_headline_the_status_and_the_notes(report: Report) -> None:
    page = Page(render_html(report)).text
    markdown = re.sub(r"\\(.)", r"\1", render_markdown(report))
    text = " ".join(as_text(report, 1000).split())
    for said in (headline(report), report.status, *(() if report is REPORTS["hostile"] else report.notes)):
        assert said in page
        assert said in markdown
        assert said in text


def test_bars_are_to_scale_and_the_smallest_is_still_seen() -> None:
    rows = [layer("a", params_before=1_000_000, params_after=50_000), layer("b", params_before=500_000, params_after=3)]
    chart = parameter_chart(make(layers=rows))
    assert chart is not None
    first, second = chart.rows
    assert first.after.length == pytest.approx(first.before.length / 20)
    assert second.before.length == pytest.approx(first.before.length / 2)
    assert 2 <= second.after.length < first.after.length
    assert (second.after.figure, first.before.figure) == ("3", "1,000,000")


def test_the_smaller_ones_of_many_layers_are_summed_and_not_drawn() -> None:
    sizes = [1000 + n * 37 % 200 for n in range(200)]
    rows = [layer(f"l{n}", params_before=size, params_after=10) for n, size in enumerate(sizes)]
    chart = parameter_chart(make(layers=rows))
    assert chart is not None
    assert [row.name for row in chart.rows] == [f"l{n}" for n, size in enumerate(sizes) if size >= 1170]
    assert f"170 smaller layers, not drawn, together: {sum(1000 + n for n in range(170)):,} → 1,700" in chart.rest


@pytest.mark.parametrize("scale", [1e-3, 0.07, 1.0, 37.0, 12_345.0])
def test_spans_lie_inside_the_drawing_and_ticks_are_round(scale: float) -> None:
    slow = {"torch": {"1": span(scale * 1.7)}}
    report = make(before=Side(latency_ms={"torch": {"1": span(scale)}}), after=Side(latency_ms=slow), baselines=[])
    (chart,) = latency_charts(report)
    for row in chart.rows:
        assert chart.left < row.left < row.middle < row.right < WIDTH - 100
    assert chart.rows[1].middle - chart.left == pytest.approx(1.7 * (chart.rows[0].middle - chart.left))
    assert 3 <= len(chart.ticks) <= 6
    assert all(chart.left <= x <= WIDTH for x, _ in chart.ticks)
    assert chart.rows[1].figure.endswith("slower")


def test_a_dry_run_shows_counts_and_nothing_that_was_not_measured() -> None:
    text = as_text(dry_run())
    assert "dry run" in text
    assert "if it were done" in text
    assert "batch" not in text
    assert "quality" not in text


def test_a_report_without_data_says_that_quality_was_not_measured() -> None:
    assert "quality was not measured" in headline(REPORTS["no data"])
    assert "quality was not measured" not in headline(make())


def test_a_window_names_the_layers_it_stands_for() -> None:
    assert "one block for a, b" in as_text(make(layers=[layer("a", sites=["a", "b"])]))


def test_the_comparison_judges_every_network_against_the_original() -> None:
    table = comparison(rows_of(make()))
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert rows["original"][2:3] + rows["original"][-1:] == ["–", ""]
    assert rows["acdc"][1:3] == ["9,826", "41.4×"]
    assert rows["acdc"][-1] == "worse, slower (overlap)"
    assert rows["svd"][-1] == "worse"
    assert rows["int8"][1:5] == ["–"] * 4
    assert rows["int8"][-1] == "slower"
