"""The case: one model with its data, its dense maps and the options of the run; what every method shares."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data import Dataset, array_names, as_dataset
from compressor.errors import CompressorError, reason
from compressor.layers import StructuredLayer, method
from compressor.measure import check_metric, first_output
from compressor.plan import Plan, make_plan, matches, probe
from compressor.progress import Limit, Progress, silent
from compressor.recipe import Recipe
from compressor.sites import (
    Run,
    Site,
    check_types,
    device_of,
    examples_at_once,
    find_runs,
    find_sites,
    other_linears,
    type_name,
)
from compressor_converters.arch import said
from compressor_converters.calling import call_in_order, given_names, spare_inputs
from compressor_converters.graph import to_module
from compressor_converters.load import Loaded, load_model
from compressor_converters.onnx_in import OnnxNetwork, hidden_products, make_example
from compressor_converters.opening import close_model, find_openable, reopen
from compressor_converters.opening.tied import find_tied, merge
from compressor_converters.pt2 import free_batch, silence

_SET_ASIDE = 0.1  # of the data, for evaluation where no evaluation data is given
_EXAMPLE_ROWS = 8


@dataclass
class Case:
    """A loaded model, ready to be compressed."""

    recipe: Recipe
    loaded: Loaded
    model: nn.Module  # the original; never changed
    opened: nn.Module  # the original, or a copy of it in which every dense map is an nn.Linear
    example: tuple[Tensor, ...] | None  # a few rows of input
    data: Dataset | None  # to fit and to train on
    eval_data: Dataset | None  # to report on; never to choose by
    sites: dict[str, Site]
    runs: list[Run] | None
    limit: Limit
    progress: Progress = silent
    kinds: dict[str, str] = field(default_factory=dict)  # of the modules that were opened, by name
    is_rebuilt: bool = False  # `opened` is the original's graph
    notes: list[str] = field(default_factory=list)
    temporary: list[Any] = field(default_factory=list)  # folders that live as long as the case

    def plan(
        self, name: str, settings: dict[str, Any], budget: dict[str, int] | None = None, *, window: str | None = None
    ) -> Plan:
        """What each site becomes under method ``name``."""
        return make_plan(
            list(self.sites.values()),
            self.runs,
            name,
            settings,
            target=self._within(self.recipe.target),
            ignore=self._within(self.recipe.ignore),
            window=window or self.recipe.window,
            seed=self.recipe.seed,
            budget=budget,
        )

    def probe(self) -> StructuredLayer | None:
        """A block as the recipe asks for, to be asked what it is; None when every site is kept."""
        return probe(
            list(self.sites.values()),
            self.recipe.method,
            self.recipe.settings,
            target=self._within(self.recipe.target),
            ignore=self._within(self.recipe.ignore),
        )

    def copy(self) -> nn.Module:
        """A fresh copy of the opened network, to be changed."""
        return copy.deepcopy(self.opened)

    def close(self, student: nn.Module) -> None:
        """Put back the original's modules in ``student`` where none of their dense maps was replaced."""
        if not self.is_rebuilt:
            close_model(student, self.model)

    def rebuild(self) -> nn.Module:
        """The network that the written parameters belong to, anew, before structured layers are put in."""
        return copy.deepcopy(self.opened if self.is_rebuilt else self.model)

    def _within(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """``patterns`` with those that name an opened module standing for all dense maps inside it."""
        inside = [f"{name}.*" for name in self.kinds if matches(name, patterns) and name not in self.sites]
        kept = [one for one in patterns if fnmatch.filter(self.sites, one) or not fnmatch.filter(self.kinds, one)]
        return (*kept, *inside)

    @property
    def examples_at_once(self) -> int:
        """How many examples are run together where the results do not depend on it."""
        return examples_at_once(self.sites.values(), self.example or ())

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        """``rows`` rows of input: of the data where there is any, else the example's, repeated as needed."""
        assert self.example is not None
        first = self.eval_data or self.data
        have = first.head(rows).inputs if first is not None else self.example
        repeat = -(-rows // len(have[0]))
        return tuple(x.repeat(repeat, *[1] * (x.ndim - 1))[:rows] for x in have)


def open_case(
    recipe: Recipe,
    *,
    model: nn.Module | None = None,
    data: object = None,
    eval_data: object = None,
    meta: bool = False,
    unsafe: bool = False,
    progress: Progress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Case:
    """Load what ``recipe`` names (or take the live ``model`` and ``data``), and find the dense maps.

    With ``meta`` a model made by code is built without weights: enough to count.
    """
    limit = Limit(recipe.time_limit, stop)
    method(recipe.method).config(recipe.settings)  # a wrong option is said before anything is read
    recipe.how()
    check_metric(recipe.metric)
    source: Any = _copied(model) if model is not None else recipe.model  # the caller's own stays as it is
    if source is None:
        raise CompressorError("no model: give a file, or module:callable")
    loaded = load_model(source, arch=recipe.arch, unsafe=unsafe, meta=meta)
    if recipe.model_sha256 is not None and loaded.sha256 != recipe.model_sha256:
        raise CompressorError(
            f"{recipe.model}: is not the file of the recipe (sha256 {loaded.sha256}, there {recipe.model_sha256})"
        )
    network = loaded.model.eval()
    check_types(network, loaded.arch or loaded.source)
    notes: list[str] = []
    _take_inputs(loaded, data if data is not None else recipe.data, recipe)
    data_set = _open(data if data is not None else recipe.data, loaded, recipe)
    eval_set = _open(eval_data if eval_data is not None else recipe.eval_data, loaded, recipe)
    recipe = _identified(recipe, loaded, data_set)
    if data_set is not None and eval_set is None:
        data_set, eval_set = data_set.split(_SET_ASIDE, recipe.seed)
        notes.append(f"no evaluation data was given: {len(eval_set):,} examples of the data were set aside for it")
    if data_set is None:
        notes.append("no data was given: fitted in the space of weights (Σ = I), without distillation")
    example = _example(recipe, loaded, data_set)
    if example is not None:
        try_out(network, example, trains=data_set is not None and not meta and recipe.how().epochs != 0)
        example = tuple(x.to(device_of(network)) for x in example)
    notes += (left := [*_left_out(network), *other_linears(network)])
    packed = _packed(network, example)
    notes += [f"{name}: left as it is, since it is given packed sequences" for name in sorted(packed)]
    kinds = find_openable(network, recipe.target, leave=packed)
    tied = find_tied(network)
    opened = copy.deepcopy(network) if kinds or tied else network
    reopen(opened, kinds)
    merge(opened, tied)
    found = find_sites(opened, example)
    if not found:
        raise _nothing_found(loaded, left)
    case = Case(
        recipe, loaded, network, opened, example, data_set, eval_set, {site.name: site for site in found}, None,
        limit, progress, kinds, False, notes,
    )  # fmt: skip
    _trace(case)
    return case


def _identified(recipe: Recipe, loaded: Loaded, data: Dataset | None) -> Recipe:
    """``recipe`` with what tells its model and data from others, and the number of threads that sums depend on."""
    found = data.fingerprint() if data is not None else None
    if recipe.data_fingerprint is not None and found != recipe.data_fingerprint:
        raise CompressorError(
            f"{recipe.data}: is not the data of the recipe (fingerprint {found}, there {recipe.data_fingerprint});"
            " name it with --data to take it all the same"
        )
    threads = recipe.threads or torch.get_num_threads()
    known = {"model_sha256": loaded.sha256, "data_fingerprint": found, "threads": threads}
    return recipe.model_copy(update=known)


def _take_inputs(loaded: Loaded, data: object, recipe: Recipe) -> None:
    """Where the data names its arrays, the network's inputs are those that it holds."""
    names = given_names(loaded.model, loaded.input_names, array_names(data, recipe.label_key))
    if names != loaded.input_names:
        loaded.input_names = names
        call_in_order(loaded.model, names)


def _open(spec: object, loaded: Loaded, recipe: Recipe) -> Dataset | None:
    if spec is None:
        return None
    shape = next(iter((recipe.input_shape or {}).values()), None)
    return as_dataset(
        spec, loaded.input_names, label_key=recipe.label_key, normalize=recipe.normalize,
        image_shape=shape[1:] if shape else None,
    )  # fmt: skip


def _example(recipe: Recipe, loaded: Loaded, data: Dataset | None) -> tuple[Tensor, ...] | None:
    if data is not None:
        return data.head(_EXAMPLE_ROWS).inputs
    if recipe.input_shape:
        generator = torch.Generator().manual_seed(recipe.seed)
        shapes = dict(recipe.input_shape)
        if len(shapes) == 1 and len(loaded.input_names) == 1:
            shapes = {loaded.input_names[0]: next(iter(shapes.values()))}
        missing = [name for name in loaded.input_names if name not in shapes]
        if missing:
            raise CompressorError(
                f"--input-shape names {', '.join(shapes)}; the model's inputs are {', '.join(loaded.input_names)}"
            )
        return tuple(_noise(name, shapes[name], generator) for name in loaded.input_names)
    if isinstance(loaded.model, OnnxNetwork):
        return make_example(loaded.model)
    return loaded.example


def _noise(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    try:
        return torch.randn(_EXAMPLE_ROWS, *shape[1:], generator=generator)
    except (RuntimeError, TypeError):  # torch's answers to sizes past the memory, and past 64 bits
        sizes = ",".join(map(str, shape))
        raise CompressorError(
            f"--input-shape {name}:{sizes}: {_EXAMPLE_ROWS} such examples do not fit in memory"
        ) from None


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # tensors that were computed, as the weights of torch.nn.utils.prune are
        raise CompressorError(
            f"the model cannot be copied: {reason(error)}; where prune or weight_norm computes its weights, make them"
            " parameters again first (prune.remove, remove_weight_norm)"
        ) from None


def try_out(model: nn.Module, example: tuple[Tensor, ...], *, trains: bool = False, what: str = "") -> None:
    """Run the model once: data which does not fit is said before the work begins, data that it changes is spared."""
    trains = trains and not isinstance(model, OnnxNetwork)  # a graph says itself what it lacks, and goes without
    device = device_of(model)
    given = [x.to(device).clone() for x in example]
    before = [x._version for x in given]
    try:
        with torch.set_grad_enabled(trains):
            y = model(*given)
    except CompressorError:
        raise
    except Exception as error:  # the user's code: any kind
        shapes = ", ".join(f"{tuple(x.shape)} {type_name(x.dtype)}" for x in example)
        raise CompressorError(f"{what}the model does not take this input ({shapes}): {said(error)}") from None
    if before != [x._version for x in given]:
        spare_inputs(model)
    if not trains:
        return
    if not (output := first_output(y)).is_floating_point():
        raise CompressorError(
            f"the model gives {type_name(output.dtype)}, by which nothing can be trained: let it return its scores"
            " (before argmax or round), or give --epochs 0"
        )
    if not output.requires_grad and any(p.requires_grad for p in model.parameters()):
        raise CompressorError(
            "the model's forward switches gradients off (torch.no_grad, inference_mode), so that nothing can be"
            " trained: take that out, or give --epochs 0"
        )


def _left_out(model: nn.Module) -> list[str]:
    """What of a graph is not looked at, in words."""
    if not isinstance(model, OnnxNetwork):
        return []
    inside = hidden_products(model.view)
    quantized = sum("Integer" in node.op_type or node.op_type.startswith("QLinear") for node in model.view.nodes)
    found = {
        f"{inside} dense maps in branches and loops": inside,
        f"{quantized} operators on whole numbers": quantized,
        **{f"the weights of {node}: {why}": 1 for node, why in model.left.items()},
    }
    return [f"left as they are: {what}" for what, count in found.items() if count]


def _nothing_found(loaded: Loaded, left: list[str]) -> CompressorError:
    return CompressorError("; ".join([f"{loaded.source}: has no dense layers, so there is nothing to replace", *left]))


def _packed(model: nn.Module, example: tuple[Tensor, ...] | None) -> set[str]:
    """The modules that are given packed sequences, which an opened module does not take."""
    found: set[str] = set()

    def look(name: str) -> Any:
        def note(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if any(isinstance(value, nn.utils.rnn.PackedSequence) for value in inputs):
                found.add(name)

        return note

    recurrent = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.RNNBase)]
    if example is None or not recurrent:
        return found
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, module in recurrent:
            hooks.enter_context(module.register_forward_pre_hook(look(name)))
        model(*example)
    return found


def _trace(case: Case) -> None:
    """Find the runs of sites; where a window crosses a plain function call, work on the model's graph instead."""
    if case.example is None:
        return
    try:
        with silence():
            case.runs = find_runs(case.opened, case.example)
    except Exception as error:  # torch.export raises many kinds; the reason is passed on
        case.notes.append(f"the model could not be traced, so that no windows were looked for: {reason(error)}")
        return
    block = case.probe()
    wants_windows = case.recipe.window not in ("auto", "off") or (block is not None and not block.is_linear)
    in_functions = any(None in run.activations[:-1] for run in case.runs)
    if not (wants_windows and in_functions and case.recipe.window != "off"):
        return
    try:
        with silence(), torch.no_grad():
            shapes = free_batch(case.example)
            program = torch.export.export(case.opened, case.example, strict=False, dynamic_shapes=shapes)
    except Exception as error:  # likewise
        case.notes.append(f"no window goes over an activation that is a plain function call: {reason(error)}")
        return
    case.opened, case.is_rebuilt = to_module(program), True
    case.notes.append("activations are plain function calls: the model was rebuilt from its graph")
    case.sites = {site.name: site for site in find_sites(case.opened, case.example)}
    case.runs = find_runs(case.opened, case.example)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch with ``count`` threads inside; as it was, afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    from importlib.metadata import version

    names: Sequence[str] = ("structured-compress", "torch", "onnx", "onnxruntime", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def processor() -> str:
    """The processor's own name where the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
