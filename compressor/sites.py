"""Where dense maps stand in a model, and the runs of them that one block can replace.

A *site* is a place where a dense map stands. A *window* is one site, or a run of sites with only
elementwise activations and dropout between them. Both are replaced by putting a module at the place of
the first site and `torch.nn.Identity` at all others of the window.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from compressor.errors import CompressorError
from compressor.layers import StructuredLayer
from compressor_converters.onnx_in import OnnxNetwork
from compressor_converters.opening.tied import holders

_MOST_EXAMPLES = 256
_MOST_ROWS = 1 << 16  # at any site
_MOST_NUMBERS = 1 << 23  # of one input

# Elementwise operators that may stand between the sites of one window.
_ACTIVATIONS = {
    "relu", "relu_", "gelu", "tanh", "sigmoid", "silu", "silu_", "leaky_relu", "leaky_relu_", "elu", "elu_",
    "hardtanh", "hardtanh_", "hardsigmoid", "hardswish", "softplus", "dropout", "dropout_", "relu6", "clone",
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A dense map ``y = x Wᵀ + b`` in a model."""

    name: str
    in_features: int
    out_features: int
    bias: bool
    calls: int = 1  # times it is called in one forward pass
    rows: float = 1.0  # rows it maps for one example (tokens, for instance), all calls together
    is_last: bool = False  # no other site comes after it
    tied_to: str | None = None  # another module that holds its weight or bias too
    is_split: bool = False  # a batch of examples is more than one forward pass
    obstacle: str | None = None  # why nothing else can stand there

    @property
    def params(self) -> int:
        """Weights and biases of the dense map."""
        return self.in_features * self.out_features + (self.out_features if self.bias else 0)

    @property
    def is_repeated(self) -> bool:
        """Whether the first call for a batch does not see all of its rows."""
        return self.calls > 1 or self.is_split

    @property
    def macs(self) -> int:
        """Multiply-adds for one example."""
        return round(self.in_features * self.out_features * self.rows)


@dataclass(frozen=True)
class Run:
    """A maximal chain of sites with only activations between: ``sites[0] act sites[1] act …``.

    ``activations[i]`` names the modules between ``sites[i]`` and ``sites[i + 1]`` (and, for the last site,
    after it); None where one of them is a plain function call, which cannot be taken out of the model.
    ``functions[i]`` are the same as functions of a tensor, without dropout.
    """

    sites: tuple[str, ...]
    activations: tuple[tuple[str, ...] | None, ...]
    functions: tuple[tuple[Callable[[Tensor], Tensor], ...], ...] = field(compare=False, default=())


def dense_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """The modules that are sites, by their first name, outside of structured layers; none without inputs or outputs."""
    inside = {
        name + "." + child
        for name, module in model.named_modules()
        if isinstance(module, StructuredLayer | nn.MultiheadAttention)
        for child, _ in module.named_modules()
        if child
    }
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name and name not in inside and _weight(module) is not None
    }


def other_linears(model: nn.Module) -> list[str]:
    """Dense layers of ``model`` that are no sites, in words, with what would make them such."""
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or type(module) is NonDynamicallyQuantizableLinear:  # in an attention
            continue
        if not name:
            found.setdefault("it is the whole model: put it into a torch.nn.Sequential", []).append("the layer")
        elif "weight" not in module._parameters:
            made = "its weight is computed (by prune, weight_norm or the like): make it a parameter again"
            found.setdefault(made, []).append(name)
        elif type(module) is not nn.Linear:
            found.setdefault(f"a {type(module).__name__} is no torch.nn.Linear", []).append(name)
    return [f"left as it is: {', '.join(names)}: {why}" for why, names in found.items()]


def _weight(linear: nn.Linear) -> nn.Parameter | None:
    """The weight of ``linear`` where it is a parameter with numbers in it, and not what a hook makes of others."""
    weight = linear._parameters.get("weight")
    return weight if weight is not None and weight.numel() else None


class _Watched(nn.Linear):
    """A dense map while the example is run: it notes when its parameters are read by others than its own call."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self._parameters["weight"], self._parameters["bias"])  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in self._parameters:
            self.__dict__["was_read"] = True
        return super().__getattr__(name)


@contextlib.contextmanager
def _watching(linears: Mapping[str, nn.Linear]) -> Iterator[set[str]]:
    """The names of those of ``linears`` whose parameters something reads, complete when the block ends."""
    read: set[str] = set()
    for linear in linears.values():
        linear.__class__ = _Watched
    try:
        yield read
    finally:
        for name, linear in linears.items():
            linear.__class__ = nn.Linear
            if linear.__dict__.pop("was_read", False):
                read.add(name)


def check_types(model: nn.Module, source: str) -> None:
    """CompressorError where no weight of ``model`` is float32, as the layers that replace it are, or one is complex.

    A graph's own types are looked at where its weights are read.
    """
    if isinstance(model, OnnxNetwork):
        return
    weights = [value for value in model.parameters() if value.ndim > 1]
    types = {value.dtype for value in weights if value.is_floating_point() or value.is_complex()}
    if any(dtype.is_complex for dtype in types):
        raise CompressorError(f"{source}: has complex weights, which cannot be written as ONNX")
    if types and torch.float32 not in types:
        raise CompressorError(
            f"{source}: its weights are {' and '.join(sorted(map(type_name, types)))}, and only float32 ones are"
            " replaced: call .float() on the network where it is made (before torch.export, for a .pt2)"
        )


def type_name(dtype: torch.dtype) -> str:
    """``dtype`` as users write it."""
    return str(dtype).removeprefix("torch.")


def find_sites(model: nn.Module, example: tuple[Tensor, ...] | None) -> list[Site]:
    """Every dense map of ``model``, in the order of the calls where an example input can be run.

    Without an example the order is that of registration, and each is taken to be called once.
    """
    found = dense_modules(model)
    called: dict[str, list[int]] = {}
    by_name: set[str] = set()
    read: set[str] = set()
    if example is not None:
        with contextlib.ExitStack() as hooks, _watching(found) as read, torch.no_grad():
            for name, module in found.items():
                hooks.enter_context(module.register_forward_pre_hook(_counter(called, by_name, name), with_kwargs=True))
            model(*example)
    order = [*called, *(name for name in found if name not in called)]
    passes = model.passes(example) if isinstance(model, OnnxNetwork) and example is not None else 1
    owners = holders(model)
    last = [name for name in order if example is None or name in called][-1:]
    return [
        Site(
            name,
            found[name].in_features,
            found[name].out_features,
            found[name].bias is not None,
            calls=len(called.get(name, [])) // passes if example is not None else 1,
            rows=sum(called[name]) / example[0].shape[0] if example is not None and name in called else 1.0,
            is_last=[name] == last,
            tied_to=_other_holder(found[name], name, owners),
            is_split=passes > 1,
            obstacle=None if isinstance(model, OnnxNetwork) else _obstacle(found[name], name in read, name in by_name),
        )
        for name in order
    ]


def examples_at_once(sites: Iterable[Site], inputs: Sequence[Tensor]) -> int:
    """How many examples may go through the network together: fewer where each is long, so that memory stays bounded."""
    rows = max((site.rows for site in sites), default=1.0)
    numbers = max((x[:1].numel() for x in inputs), default=1)
    return max(1, min(_MOST_EXAMPLES, int(_MOST_ROWS / max(1.0, rows)), _MOST_NUMBERS // max(1, numbers)))


def _obstacle(linear: nn.Linear, is_read: bool, is_called_by_name: bool) -> str | None:
    if linear._forward_hooks or linear._forward_pre_hooks:
        return "it has hooks, which would be lost with it"
    if is_called_by_name:
        return "its input is given by name, where only the first argument is looked at"
    if is_read:
        return "the network reads its weight or bias itself, which no other layer has"
    if linear.weight.dtype != torch.float32:
        return f"its weights are {type_name(linear.weight.dtype)}, and only float32 ones are replaced"
    return None


def _other_holder(linear: nn.Linear, name: str, owners: Mapping[int, Sequence[str]]) -> str | None:
    return next((other for p in linear.parameters() for other in owners[id(p)] if other != name), None)


def _counter(called: dict[str, list[int]], by_name: set[str], name: str) -> Any:
    def count(_module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        by_name.update({name} if named else ())
        called.setdefault(name, []).append(math.prod((inputs or tuple(named.values()))[0].shape[:-1]))

    return count


def find_runs(model: nn.Module, example: tuple[Tensor, ...]) -> list[Run]:
    """The chains of sites in the model's graph, longest possible; a site alone is a chain of one.

    Raises whatever `torch.export.export` raises where the model cannot be traced.
    """
    if isinstance(model, OnnxNetwork):
        return [
            Run(names, passed, tuple(tuple(map(model.get_submodule, after)) for after in passed))
            for names, passed in model.chains()
        ]
    graph = torch.export.export(model, example, strict=False).graph
    sites = dense_modules(model)
    nodes = {
        name: node
        for node in graph.nodes
        if node.op == "call_function" and _op(node) == "linear" and (name := _module(node)) in sites
    }
    position = {node: name for name, node in nodes.items()}
    calls = [_module(node) for node in graph.nodes if node.op == "call_function" and _op(node) == "linear"]
    follows = {}
    between: dict[str, tuple[Any, ...]] = {}
    for name, node in nodes.items():
        after, end = _activations(node)
        between[name] = after
        if end in position and calls.count(name) == 1 and calls.count(position[end]) == 1:
            follows[name] = position[end]
    uses = Counter(_module(node) for node in graph.nodes if node.op == "call_function" and _op(node) in _ACTIVATIONS)
    runs = []
    for start in (name for name in nodes if name not in follows.values()):
        chain = [start]
        while chain[-1] in follows:
            chain.append(follows[chain[-1]])
        calls_between = tuple(between[name] for name in chain)
        names = tuple(_module_names(model, acts, uses) for acts in calls_between)
        functions = tuple(tuple(_function(c) for c in acts if "dropout" not in _op(c)) for acts in calls_between)
        runs.append(Run(tuple(chain), names, functions))
    return runs


def activation_after(runs: Sequence[Run] | None, site: str) -> Callable[[Tensor], Tensor] | None:
    """What the network does to the output of ``site`` before anything else, dropout left out; None if nothing."""
    for run in runs or ():
        if site in run.sites:
            functions = run.functions[run.sites.index(site)]
            if functions:
                return lambda x: reduce(lambda value, function: function(value), functions, x)
    return None


def _function(call: fx.Node) -> Callable[[Tensor], Tensor]:
    """What ``call`` does to its first argument, which is left as it is."""
    target = call.target
    assert callable(target)
    in_place = _op(call).endswith("_")
    return lambda x: target(x.clone() if in_place else x, *call.args[1:], **call.kwargs)


def _op(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).split(".")[-1]


def _module(node: fx.Node) -> str:
    """The name of the module that made the call."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _activations(node: fx.Node) -> tuple[tuple[fx.Node, ...], fx.Node | None]:
    """The elementwise calls after ``node`` while it is used once, and the node where they end."""
    passed: list[fx.Node] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_function" or _op(node) not in _ACTIVATIONS:
            return tuple(passed), node
        passed.append(node)
    return tuple(passed), None


def _module_names(model: nn.Module, calls: tuple[fx.Node, ...], uses: Mapping[str, int]) -> tuple[str, ...] | None:
    """The modules that make ``calls``; None where one is no module of its own, or is used elsewhere too."""
    names = []
    for call in calls:
        name = _module(call)
        module = model.get_submodule(name) if name else model
        if (
            uses[name] > 1
            or next(module.children(), None) is not None
            or not type(module).__module__.startswith("torch.nn.modules")
            or module._forward_hooks
            or module._forward_pre_hooks
        ):
            return None
        names.append(name)
    return tuple(names)


def extract(model: nn.Module, names: tuple[str, ...]) -> nn.Sequential:
    """A frozen copy of the modules ``names`` in a row: what a block that replaces them must imitate."""
    copies = nn.Sequential(*(copy.deepcopy(model.get_submodule(name)) for name in names))
    return copies.eval().requires_grad_(False)


def structured(model: nn.Module) -> Iterator[tuple[str, StructuredLayer]]:
    """The structured layers of ``model`` with their names."""
    for name, module in model.named_modules():
        if isinstance(module, StructuredLayer):
            yield name, module


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of ``model`` are; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
