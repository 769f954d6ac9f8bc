"""A model as an ONNX file that stock runtimes run: each structured layer one node of our domain, with its body.

Nothing of the machine that wrote it stands in the file (the exporter notes stack traces), and the same model
gives the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, reason
from compressor.layers.base import StructuredLayer, onnx_export
from compressor.layers.onnx_body import DOMAIN, DOMAIN_VERSION, OPSET, translations
from compressor_converters.calling import plain_output
from compressor_converters.onnx_names import nodes, shorten_names
from compressor_converters.pt2 import MOST_ROWS, FreeAxes, silence

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_IR_VERSION = 8  # onnxruntime from 1.13 on
_BATCH = "batch"
_FOLDED = 1024  # numbers in the largest constant that folding may make: a runtime expands compact weights as it loads


def save_onnx(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str] = (),
    free: FreeAxes = (),
) -> str | None:
    """Write ``model``, in eval mode, to ``path``; what had to be given up, None when nothing.

    ``example``: inputs whose first axis is the batch, which becomes dynamic where the model allows it; the axes that
    ``free`` names too. The file has passed onnx's full check and strict shape inference. CompressorError when there
    is no way to write it.
    """
    from onnx import helper

    names = list(input_names) if len(input_names) == len(example) else [f"input_{i}" for i in range(len(example))]
    proto, note = _traced(model, example, names, free if len(free) == len(example) else tuple({} for _ in example))
    for entry in list(proto.opset_import):
        if entry.domain == DOMAIN:
            proto.opset_import.remove(entry)
    functions = bodies(model, proto)
    if functions:
        proto.functions.extend(functions)
        proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
        shorten_names(proto)
    proto.ir_version = _IR_VERSION
    _strip(proto)
    _check(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return note


def _two_rows(x: Tensor) -> Tensor:
    """At least two rows: a batch of one is traced as a constant."""
    return x if x.ndim == 0 or x.shape[0] != 1 else torch.cat((x, x))


def _traced(
    model: nn.Module, example: tuple[Tensor, ...], names: list[str], free: FreeAxes
) -> tuple[onnx.ModelProto, str | None]:
    """The exporter's model with a dynamic batch, else with the example's own and a note that says why."""
    batch = torch.export.Dim(_BATCH, min=1, max=MOST_ROWS)
    sizes = {name: torch.export.Dim(name, min=1) for axes in free for name in axes.values()}
    shapes = tuple(
        {0: batch, **{axis: sizes[name] for axis, name in axes.items()}} if x.ndim else None
        for x, axes in zip(example, free, strict=True)
    )
    two = tuple(_two_rows(x) for x in example)
    note = None
    if sizes:
        try:
            return _export(model, two, names, shapes), None
        except Exception as error:
            note = f"model.onnx takes inputs of one length only: the exporter refused another ({reason(error)})"
    try:
        return _export(model, two, names, tuple({0: batch} if x.ndim else None for x in example)), note
    except Exception as error:
        said = reason(error)
    try:
        proto = _export(model, example, names, None)
    except Exception as error:
        raise CompressorError(
            f"the model cannot be written as ONNX: {reason(error)}; "
            "change the operation that the exporter names, or leave that part out"
        ) from error
    rows = example[0].shape[0]
    return proto, f"model.onnx takes batches of {rows} only: the exporter refused a dynamic batch ({said})"


def trace_module(
    model: nn.Module, example: tuple[Tensor, ...], names: list[str], shapes: tuple[Any, ...]
) -> onnx.ModelProto:
    """The nodes and functions that ``model``, called with ``*inputs``, is written as.

    ``shapes`` names the axes of each input that may have any size.
    """
    try:
        proto = _export(model, example, names, (shapes,))
    except Exception as error:
        raise CompressorError(f"the layers cannot be written as ONNX: {reason(error)}; take another method") from error
    proto.functions.extend(bodies(model, proto))
    shorten_names(proto)
    _strip(proto)
    return proto


def _export(
    model: nn.Module, example: tuple[Tensor, ...], names: list[str], shapes: tuple[Any, ...] | None
) -> onnx.ModelProto:
    from onnxscript.optimizer import optimize_ir

    with onnx_export(), torch.no_grad(), _evaluating(model), plain_output(model), silence():
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            dynamic_shapes=shapes,
            verbose=False,
            external_data=False,
            optimize=False,
            custom_translation_table=translations(),
        )
        assert program is not None
        optimize_ir(program.model, output_size_limit=_FOLDED)
    _name(program.model.graph, names)
    _name_sizes(program.model.graph, shapes or ())
    proto: onnx.ModelProto = program.model_proto
    return proto


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and then as it was; by the flag, as exported programs refuse ``eval()``."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _name(graph: ir.Graph, inputs: list[str]) -> None:
    """Name what goes in and what comes out; any other value that has such a name makes way.

    The exporter's own ``input_names`` lets an input and a parameter share a name, and so be taken for each other.
    """
    outputs = ["output"] if len(graph.outputs) == 1 else [f"output_{i}" for i in range(len(graph.outputs))]
    outputs = [f"{name}_of_model" if name in inputs else name for name in outputs]
    inner = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    taken = {*inputs, *outputs, *(value.name for value in inner)}
    for value in inner:
        if value.name in inputs or value.name in outputs:
            name = next(name for i in itertools.count() if (name := f"{value.name}_inner{i}") not in taken)
            taken.add(name)
            value.name = name
    for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        value.name = name


def _name_sizes(graph: ir.Graph, shapes: Sequence[Any]) -> None:
    """Name the free sizes of inputs and outputs as ``shapes`` does: torch before 2.8 leaves its own symbols there."""
    import onnx_ir as ir

    every = shapes[0] if shapes and isinstance(shapes[0], tuple) else shapes
    asked = [
        (str(value.shape[axis]), size.__name__)
        for value, axes in zip(graph.inputs, every, strict=False)
        if value.shape is not None
        for axis, size in (axes or {}).items()
    ]
    names = {symbol: name for symbol, name in asked if symbol != name and symbol.isidentifier()}
    if not names:
        return
    symbols = re.compile(rf"\b({'|'.join(names)})\b")
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None:
            sizes = [
                size if isinstance(size, int) else symbols.sub(lambda found: names[found[1]], str(size.value))
                for size in value.shape
            ]
            value.shape = ir.Shape(sizes)


def bodies(model: nn.Module, proto: onnx.ModelProto) -> list[onnx.FunctionProto]:
    """The functions that the nodes of our domain call, each once, in the order of their names."""
    found: dict[str, onnx.FunctionProto] = {}
    for module in model.modules():
        if not isinstance(module, StructuredLayer):
            continue
        for function in module.onnx_functions():
            if found.setdefault(function.name, function) != function:
                raise ValueError(f"two different ONNX functions are called '{function.name}'")
    pending = [node for node in nodes(proto.graph) if node.domain == DOMAIN]
    used: set[str] = set()
    while pending:
        node = pending.pop()
        if node.op_type in used:
            continue
        if node.op_type not in found:
            raise ValueError(f"no structured layer gives the body of the ONNX function '{node.op_type}'")
        used.add(node.op_type)
        pending += [inner for inner in found[node.op_type].node if inner.domain == DOMAIN]
    return [found[name] for name in sorted(used)]


def _strip(proto: onnx.ModelProto) -> None:
    """Drop notes, stack traces and the shapes of inner values: privacy, same bytes, and quantisers trip on them."""
    del proto.graph.value_info[:]
    proto.producer_version = ""
    _strip_message(proto)


def _strip_message(message: Any) -> None:
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if _is_repeated(value) else [value]:
                _strip_message(inner)


def _is_repeated(value: Any) -> bool:
    return hasattr(value, "__len__")


def _check(proto: onnx.ModelProto) -> None:
    """onnx's own full check, and shapes that follow strictly from the inputs."""
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompressorError(
            f"the model was written as ONNX, but onnx's check refuses it: {reason(error)}; "
            "change the operation that it names, or leave that part out"
        ) from error
