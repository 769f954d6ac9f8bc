"""Structured layers put back into an exported program: as plain operators they take many times as long.

`torch.export` writes a layer as the operators of its reference path, which any torch runs, and notes with each the
module that it came from. Where such a stretch has one tensor coming in and one going out, the layer that the manifest
describes takes its place, and so runs on the native kernels.
"""

from __future__ import annotations

from torch import Tensor, fx

from compressor_converters.graph import is_check
from compressor_converters.manifest import Manifest, made


def restore_layers(model: fx.GraphModule, manifest: Manifest, numbers: int | None = None) -> None:
    """Put layers of ``manifest`` back into ``model``, in place; the parameters are to be loaded anew.

    A layer all of whose calls cannot be told from what is around them stays as it is. ``numbers`` is how many the
    file holds: a layer that would need more is refused.
    """
    names = {**{name: name for name in manifest.layers}, **manifest.places}
    places = [name for name, _ in model.named_modules(remove_duplicate=False)]
    for name, calls in _stretches(model.graph, names).items():
        if any(_ends(stretch) is None for stretch in calls):
            continue
        layer = made(name, manifest.layers[name], numbers).eval()
        for place in places:
            if names.get(place) == name:
                model.set_submodule(place, layer)
        for stretch in calls:
            _exchange(model.graph, stretch, name)
    model.graph.eliminate_dead_code()
    model.graph.lint()
    model.recompile()


def _stretches(graph: fx.Graph, names: dict[str, str]) -> dict[str, list[list[fx.Node]]]:
    """By layer the nodes of each of its calls; ``names`` says which layer stands at a place."""
    found: dict[tuple[str, str], list[fx.Node]] = {}
    for node in graph.nodes:
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            if node.op == "call_function" and path in names:
                found.setdefault((names[path], key), []).append(node)
                break
    stretches: dict[str, list[list[fx.Node]]] = {}
    for (name, _), stretch in found.items():
        stretches.setdefault(name, []).append(stretch)
    return stretches


def _exchange(graph: fx.Graph, stretch: list[fx.Node], name: str) -> None:
    """A call of the module ``name`` for a stretch; what nobody needs any more is left there, but for its checks."""
    ends = _ends(stretch)
    assert ends is not None
    start, end = ends
    with graph.inserting_before(end):
        call = graph.call_module(name, (start,))
    call.meta = dict(end.meta)
    end.replace_all_uses_with(call)
    for node in stretch:
        if is_check(node):
            graph.erase_node(node)


def _ends(stretch: list[fx.Node]) -> tuple[fx.Node, fx.Node] | None:
    """What comes in, and which node goes out; None where either is not one tensor."""
    inside = set(stretch)
    inputs = {
        node: None
        for one in stretch
        for node in one.all_input_nodes
        if node not in inside and node.op != "get_attr" and isinstance(node.meta.get("val"), Tensor)
    }
    outputs = [
        node for node in stretch
        if isinstance(node.meta.get("val"), Tensor) and any(user not in inside for user in node.users)
    ]  # fmt: skip
    return (next(iter(inputs)), outputs[0]) if len(inputs) == len(outputs) == 1 else None
