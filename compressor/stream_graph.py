"""`--stream` from ONNX to ONNX: weights in external data are mapped, each is read once, fitted, and let go.

The original graph is never run and never in memory as a whole. The written one is: it must give what the layers in
memory give, and every node and constant that was not replaced must stand in it as it was.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from compressor.case import threads
from compressor.errors import CompressorError
from compressor.fit import put
from compressor.measure import count_params, ort_session
from compressor.plan import Entry, make_plan
from compressor.progress import Progress, silent
from compressor.recipe import Recipe
from compressor.report import Check, LayerRow, Report, write_reports
from compressor.sites import Site, find_sites
from compressor.stream import check_plan, fitted, layer_row, stream_report, weight_error
from compressor.verify import check
from compressor_converters.folder import output_folder
from compressor_converters.load import open_graph
from compressor_converters.onnx_in import FileRun, OnnxNetwork, check_untouched, data_file, make_example, save_network


def stream_graph(recipe: Recipe, output: Path, *, force: bool = False, progress: Progress = silent) -> Report:
    """Compress the ONNX file of ``recipe`` into the folder ``output``, with one weight in memory at a time."""
    started, path = time.monotonic(), Path(recipe.model or "")
    if not path.is_file():
        raise CompressorError(f"{path}: there is no such file")
    network = open_graph(path)
    before = count_params(network) + network.numbers_outside()
    stored = network.view.nbytes
    sites = {site.name: site for site in find_sites(network, None)}
    plan = make_plan(
        list(sites.values()), None, recipe.method, recipe.settings, target=recipe.target, ignore=recipe.ignore,
        window="off", seed=recipe.seed,
    )  # fmt: skip
    check_plan(plan, sites, recipe.method)
    rows = []
    with threads(recipe.threads), torch.no_grad(), output_folder(output, force=force) as staging:
        with progress("fit", len(plan.entries)) as advance:
            for entry in plan.entries:
                rows.append(_replaced(network, entry, sites[entry.name], recipe.seed))
                advance(1, entry.name)
        written = staging / "model.onnx"
        save_network(network, written)
        check_untouched(network, written)
        checks = _read_back(network, written)
        files = [file for file in (written, data_file(written)) if file.is_file()]
        size = sum(file.stat().st_size for file in files)  # as of the original: with the data beside it
        report = stream_report(recipe, rows, before, ({"model.onnx": stored}, {"model.onnx": size}), checks, started)
        (staging / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        write_reports(report, staging)
    return report


def _replaced(network: OnnxNetwork, entry: Entry, site: Site, seed: int) -> LayerRow:
    """Fit one layer and put it into ``network``: nothing holds the mapped weight then."""
    if entry.method is None:
        return layer_row(site, None, None, entry.kept_because)
    dense = network.get_submodule(entry.name)
    assert isinstance(dense, nn.Linear)
    weight, bias = dense.weight.detach(), None if dense.bias is None else dense.bias.detach()
    layer = fitted(entry, site, weight, bias, seed)
    if layer.params() >= site.params:
        return layer_row(site, None, None, f"{entry.method} would not be smaller")
    error = weight_error(layer, weight)
    put(network, entry, layer)
    return layer_row(site, layer, error, None)


def _read_back(network: OnnxNetwork, written: Path) -> list[Check]:
    """Run the written file against the layers in memory; CompressorError where nothing is known that it takes."""
    example = make_example(network)
    if example is None:
        raise CompressorError(
            f"{network.view.file.path}: no input was found that it takes, so that the result cannot be checked; leave"
            " --stream out and give --data"
        )
    session = ort_session(written, exact=network.view.is_quantized)
    return [check("model.onnx", network, example, FileRun(network, session))]
