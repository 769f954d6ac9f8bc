"""An exported program as a module whose dense maps and activations are modules again.

`torch.export` flattens a model to calls of functions on parameters. Where such a call is what a module of
`torch.nn` does, that module is put back, under the name that the model had for it, so that it can be found,
replaced and exported anew.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from compressor.errors import CompressorError

_CHECKS = {
    "_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size",
}  # fmt: skip


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def _dropout(node: fx.Node) -> nn.Module:
    return nn.Dropout(float(_argument(node, 1, "p", 0.5)))


# The elementwise functions that have a module, with the module that does the same.
_MODULES: dict[str, Callable[[fx.Node], nn.Module]] = {
    "relu": lambda node: nn.ReLU(),
    "relu6": lambda node: nn.ReLU6(),
    "sigmoid": lambda node: nn.Sigmoid(),
    "tanh": lambda node: nn.Tanh(),
    "silu": lambda node: nn.SiLU(),
    "mish": lambda node: nn.Mish(),
    "hardswish": lambda node: nn.Hardswish(),
    "hardsigmoid": lambda node: nn.Hardsigmoid(),
    "gelu": lambda node: nn.GELU(approximate=_argument(node, 1, "approximate", "none")),
    "leaky_relu": lambda node: nn.LeakyReLU(_argument(node, 1, "negative_slope", 0.01)),
    "hardtanh": lambda node: nn.Hardtanh(_argument(node, 1, "min_val", -1.0), _argument(node, 2, "max_val", 1.0)),
    "softplus": lambda node: nn.Softplus(_argument(node, 1, "beta", 1.0), _argument(node, 2, "threshold", 20.0)),
    "dropout": _dropout,
}

# Operators whose result is never a view of their input, so that changing it changes nothing else.
_FRESH = {
    "linear", "conv1d", "conv2d", "conv3d", "batch_norm", "layer_norm", "group_norm", "add", "sub", "mul", "matmul",
}  # fmt: skip


def to_module(program: ExportedProgram) -> fx.GraphModule:
    """``program`` as a module in eval mode that can be trained: dense maps are `nn.Linear` at their own names.

    Parameters are those of the program, shared ones stay shared, a module that was called twice stays one.
    Checks of the input's shape are dropped. CompressorError for a program that was exported in training mode.
    """
    unlifted = unlift(program)
    _check_eval(unlifted.graph)
    model = _plain(unlifted)
    _Rebuild(model).run()
    model.graph.lint()
    model.recompile()
    return model.eval()


def as_module(program: ExportedProgram) -> fx.GraphModule:
    """``program`` as a module like any other, in eval mode, with all that it stores; it is not rebuilt."""
    unlifted = unlift(program)
    model, saved = _plain(unlifted), unlifted.state_dict().keys()
    tensors = (unlifted.named_parameters(remove_duplicate=False), unlifted.named_buffers(remove_duplicate=False))
    for name, tensor in itertools.chain(*tensors):
        owner: nn.Module = model
        *path, last = name.split(".")
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if not isinstance(tensor, nn.Parameter):
            owner.register_buffer(last, tensor, persistent=name in saved)
        elif not hasattr(owner, last):
            owner.register_parameter(last, tensor)
    return model


def _plain(unlifted: fx.GraphModule) -> fx.GraphModule:
    """``unlifted`` in eval mode, without what torch.export surrounds it with: checks of inputs, no eval(), no train().

    What its graph does not read is left out.
    """
    for node in list(unlifted.graph.nodes):
        if is_check(node):
            unlifted.graph.erase_node(node)
    unlifted.graph.eliminate_dead_code()
    return fx.GraphModule(unlifted, unlifted.graph, class_name="ExportedModel").eval()


def free_batch(model: fx.GraphModule, example: tuple[Tensor, ...]) -> bool:
    """Let ``model``, exported for the batch of ``example``, take any; whether it now does.

    Where the batch stands as a number in front of a shape, the input's own is put. The model is changed only if
    each row of a larger batch then gives what it gives in a batch of the old size.
    """
    rows = len(example[0])
    larger = tuple(torch.cat([x, x, x]) for x in example)
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(model(*example))
        if _rows_agree(model, larger, expected):
            return True
        before = copy.deepcopy(model.graph)
        first = next(node for node in model.graph.nodes if node.op == "placeholder")
        last = [node for node in model.graph.nodes if node.op == "placeholder"][-1]
        with model.graph.inserting_after(last):
            size = model.graph.call_function(torch.ops.aten.sym_size.int, (first, 0))
        for node in model.graph.nodes:
            place = _SHAPES.get(_op(node))
            shape = node.args[place] if place is not None and place < len(node.args) else None
            if isinstance(shape, list | tuple) and shape and shape[0] == rows:
                node.update_arg(place, [size, *shape[1:]])
        model.recompile()
        if _rows_agree(model, larger, expected):
            return True
        model.graph = before
    return False


# Operators that are given a shape, and the position of that argument.
_SHAPES = {
    "view": 1, "reshape": 1, "expand": 1, "new_zeros": 1, "new_ones": 1, "new_full": 1, "new_empty": 1,
    "zeros": 0, "ones": 0, "full": 0, "empty": 0,
}  # fmt: skip


def _rows_agree(model: nn.Module, larger: tuple[Tensor, ...], expected: list[Any]) -> bool:
    try:
        got = torch.utils._pytree.tree_leaves(model(*larger))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    wanted = [torch.cat([x, x, x]) if isinstance(x, Tensor) and x.ndim else x for x in expected]
    return all(
        one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
        for one, other in zip(got, wanted, strict=True)
        if isinstance(one, Tensor) and isinstance(other, Tensor)
    )


def unlift(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph with parameters as attributes, without guards on the inputs."""
    options = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    module = program.module(**options)
    assert isinstance(module, fx.GraphModule)
    return module


def _op(node: fx.Node) -> str:
    """The operator's name without its overload, ``linear`` for ``aten.linear.default``; empty for other nodes."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ""
    return str(node.target.overloadpacket).split(".")[-1]


def is_check(node: fx.Node) -> bool:
    """Whether the node only checks that its input is as it was when the program was exported."""
    return _op(node) in _CHECKS or (node.op == "call_module" and "_guards_fn" in str(node.target))


def _check_eval(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if _op(node) == "batch_norm" and _argument(node, 5, "training", False) is True:
            raise CompressorError(
                "the program was exported in training mode (its batch normalisation uses the batch's own"
                " statistics); export it after model.eval()"
            )


class _Rebuild:
    """Puts modules in the place of function calls in one graph module."""

    def __init__(self, model: fx.GraphModule) -> None:
        self.model = model
        self.made: dict[str, nn.Module] = {}  # by the name at which each was put

    def run(self) -> None:
        for node in list(self.model.graph.nodes):
            name = _op(node)
            if name == "linear":
                self._linear(node)
            elif name.removesuffix("_") in _MODULES and self._may_be_a_module(node, name):
                self._call(node, _MODULES[name.removesuffix("_")](node), name.removesuffix("_"))
        self._drop_unread()

    def _may_be_a_module(self, node: fx.Node, name: str) -> bool:
        """An operator in place only where its input is a tensor of its own that nobody reads afterwards."""
        if not name.endswith("_"):
            return True
        (changed,) = node.all_input_nodes
        own = changed.op == "call_module" or _op(changed) in _FRESH
        return own and all(user <= node for user in changed.users)

    def _linear(self, node: fx.Node) -> None:
        weight = self._parameter(_argument(node, 1, "weight", None))
        bias_node = _argument(node, 2, "bias", None)
        bias = self._parameter(bias_node)
        if weight is None or weight.ndim != 2 or (bias is None and bias_node is not None):
            return  # a computed weight is no dense map of the model
        with torch.device("meta"):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        linear.weight = weight
        if bias is not None:
            linear.bias = bias
        read = str(_argument(node, 1, "weight", None).target)
        self._call(node, linear, read.removesuffix(".weight") if read.endswith(".weight") else "linear")

    def _parameter(self, node: Any) -> nn.Parameter | None:
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        owner, _, name = str(node.target).rpartition(".")
        found = getattr(self.model.get_submodule(owner), name)
        return found if isinstance(found, nn.Parameter) else None

    def _call(self, node: fx.Node, module: nn.Module, fallback: str) -> None:
        """Let ``module`` do what ``node`` does, under the name that the model had for it."""
        name = self._name(node, module, fallback)
        if name not in self.made:
            self._put(name, module)
        with self.model.graph.inserting_after(node):
            call = self.model.graph.call_module(name, (node.args[0] if node.args else node.kwargs["input"],))
        call.meta = {key: value for key, value in node.meta.items() if key == "val"}
        node.replace_all_uses_with(call)
        self.model.graph.erase_node(node)

    def _name(self, node: fx.Node, module: nn.Module, fallback: str) -> str:
        """The name of the module that made the call where it was of this kind; else a free one."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        kind = kind if isinstance(kind, str) else getattr(kind, "__qualname__", "")
        known = bool(path) and str(kind).rsplit(".", 1)[-1] == type(module).__name__
        wanted = path if known else fallback
        # What was a plain function call gets a module of its own, unless parameters make it the same map.
        alone = not known and next(module.parameters(), None) is None
        name, number = wanted, 0
        while not self._fits(name, module) or (alone and name in self.made):
            number += 1
            name = f"{wanted}_{number}"
        return name

    def _fits(self, name: str, module: nn.Module) -> bool:
        """Whether ``module`` may stand at ``name``: nothing is there, or the like, or only its own parameters."""
        if name in self.made:
            return _same(self.made[name], module)
        there: Any = self.model
        for part in name.split("."):
            if not hasattr(there, part):
                return True
            there = getattr(there, part)
            if not isinstance(there, nn.Module):
                return False
        own = {id(parameter) for parameter in module.parameters()}
        left = [value for _, value in [*there.named_parameters(), *there.named_buffers()] if id(value) not in own]
        return not left and not self.made.keys() & {f"{name}.{child}" for child, _ in there.named_modules() if child}

    def _put(self, name: str, module: nn.Module) -> None:
        owner: nn.Module = self.model
        *parents, last = name.split(".")
        for part in parents:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.add_module(last, module)
        self.made[name] = module

    def _drop_unread(self) -> None:
        """Remove attributes that only erased calls have read, and empty containers."""
        graph = self.model.graph
        for node in list(graph.nodes):
            if node.op == "get_attr" and not node.users:
                graph.erase_node(node)
        read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        held = {id(parameter) for module in self.made.values() for parameter in module.parameters()}
        for path, owner in list(self.model.named_modules()):
            if path in self.made:
                continue
            for name, value in list(owner.named_parameters(recurse=False)):
                if (f"{path}.{name}" if path else name) not in read and id(value) in held:
                    delattr(owner, name)


def _same(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other) or one.extra_repr() != other.extra_repr():
        return False
    return [id(p) for p in one.parameters()] == [id(p) for p in other.parameters()]
