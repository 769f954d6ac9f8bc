"""A network run again and again up to one site after another: what lies wholly before the site is not run twice.

Fitting walks the sites in the order of the calls, so modules that returned before a site was reached keep their
weights from then on, and what they returned for a batch still holds: it is kept and handed out again. The walk so
costs a few passes through the network in place of one for every site.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from compressor_converters.stepwise import Frontier, Stepwise

_KEPT_BYTES = 2**30  # of inputs and outputs; what is over it is computed again


class _ReachedError(Exception):
    """The site was reached: the rest of the network need not run."""


@contextlib.contextmanager
def _capture(module: nn.Module, *, output: bool, every: bool) -> Iterator[list[Tensor]]:
    """Collect what goes into ``module`` (or comes out of it) as rows ``(rows, features)``, call by call."""
    caught: list[Tensor] = []

    def take(rows: Tensor) -> None:
        caught.append(rows.detach().reshape(-1, rows.shape[-1]))
        if not every:
            raise _ReachedError

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        take(inputs[0])

    def after(_module: nn.Module, _inputs: object, out: Tensor) -> None:
        take(out)

    with module.register_forward_hook(after) if output else module.register_forward_pre_hook(before):
        yield caught


def rows_at(
    model: nn.Module, name: str, inputs: tuple[Tensor, ...], *, output: bool = False, every: bool = False
) -> Tensor:
    """The rows that enter the module ``name`` (or leave it), ``(rows, features)``.

    At its first call, and the rest of the network is not run; with ``every`` at all calls in order: a recurrent map
    is called once for each time step.
    """
    stopping = contextlib.suppress(_ReachedError)
    with _capture(model.get_submodule(name), output=output, every=every) as caught, torch.no_grad(), stopping:
        model(*inputs)
    if not caught:
        raise ValueError(f"'{name}' is never called")
    return caught[0] if len(caught) == 1 else torch.cat(caught)


class Prefix:
    """The rows at the sites of one network, asked for in the order of their calls, of the same batches each time.

    Between two questions only sites asked about before may change, and what is called after them.
    """

    def __init__(self, model: nn.Module, kept_bytes: int = _KEPT_BYTES) -> None:
        self.model = model
        self.left = kept_bytes
        self.inputs: dict[int, tuple[Tensor, ...]] = {}
        self.outputs: dict[int, dict[nn.Module, Any]] = {}  # of batch number i
        self.frontiers: dict[int, list[Frontier]] = {}  # likewise, of its passes where the network runs in steps
        self.unfit: set[nn.Module] = set()  # called twice in a pass, or changing what they are given

    def rows_at(
        self, name: str, inputs: tuple[Tensor, ...], number: int, *, output: bool = False, every: bool = False
    ) -> Tensor:
        """As the function `rows_at`, for the batch ``number``."""
        if every and not isinstance(self.model, Stepwise):  # all of it is run
            return rows_at(self.model, name, inputs, output=output, every=True)
        if not self._take(number, inputs):
            return rows_at(self.model, name, inputs, output=output, every=every)
        if isinstance(self.model, Stepwise):
            with self.model.answering(self.frontiers[number], name, self._room(number)):
                return rows_at(self.model, name, inputs, output=output, every=every)
        with self._replaying(name, number):
            return rows_at(self.model, name, inputs, output=output)

    def _take(self, number: int, inputs: tuple[Tensor, ...]) -> bool:
        """Whether ``inputs`` are known as batch ``number``, or there is room to know them from now on."""
        known = self.inputs.get(number, ())
        if len(known) == len(inputs) and all(map(torch.equal, known, inputs)):
            return True
        for module in list(self.outputs.get(number, ())):
            self._forget(number, module)
        self.left += sum(x.nbytes for x in self.inputs.pop(number, ()))
        size = sum(x.nbytes for x in inputs)
        self.outputs[number], self.frontiers[number] = {}, []
        if size > self._room(number):
            return False
        self.left -= size
        self.inputs[number] = inputs
        return True

    def _room(self, number: int) -> int:
        """Bytes that the batch ``number`` may take for its inputs, or for its passes."""
        others = (one for at, passes in self.frontiers.items() if at != number for one in passes)
        return self.left - sum(one.kept_bytes for one in others)

    @contextlib.contextmanager
    def _replaying(self, name: str, number: int) -> Iterator[None]:
        """Let the modules beside the path to ``name`` return what they returned before, and keep what they return."""
        called: set[nn.Module] = set()
        beside = self._beside(name)
        patched = [(module, vars(module).get("forward")) for module in beside]
        for module in beside:
            module.forward = self._again(module, module.forward, number, called)
        try:
            yield
        finally:
            for module, own in patched:
                if own is None:
                    del module.forward
                else:
                    module.forward = own

    def _beside(self, name: str) -> list[nn.Module]:
        """The largest modules that do not hold ``name``: children of those on the path to it."""
        found, module = [], self.model
        for part in name.split("."):
            for key, child in module.named_children():
                found += [] if key == part else _callable(child)
            module = module.get_submodule(part)
        return [m for m in found if m not in self.unfit]

    def _again(
        self, module: nn.Module, forward: Callable[..., Any], number: int, called: set[nn.Module]
    ) -> Callable[..., Any]:
        """What runs in place of ``module.forward`` for the batch ``number`` in one pass."""

        def call(*arguments: Any, **named: Any) -> Any:
            kept = self.outputs[number]
            if module in called:
                self.unfit.add(module)
                self._forget(number, module)
            elif module in kept:
                called.add(module)
                return _copy(kept[module])
            called.add(module)
            given = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
            versions = [leaf._version for leaf in given]
            out = forward(*arguments, **named)
            if versions != [leaf._version for leaf in given]:
                self.unfit.add(module)
            if module not in self.unfit:
                self._keep(number, module, out)
            return out

        return call

    def _keep(self, number: int, module: nn.Module, out: Any) -> None:
        """Keep a copy of ``out`` if it is made of tensors and there is room; what it was made from is not needed."""
        leaves = tree_leaves(out)
        size = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
        plain = all(leaf is None or isinstance(leaf, (Tensor, int, float, str)) for leaf in leaves)
        for inner in module.modules():
            self._forget(number, inner)
        if plain and size <= self.left:
            self.outputs[number][module] = _copy(out)
            self.left -= size

    def _forget(self, number: int, module: nn.Module) -> None:
        out = self.outputs[number].pop(module, None)
        self.left += sum(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor))


def _callable(module: nn.Module) -> list[nn.Module]:
    """``module``, or what it holds where it is only a list or a dictionary of modules."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return [found for child in module.children() for found in _callable(child)]
    return [] if isinstance(module, torch.jit.ScriptModule) else [module]


def _copy(out: Any) -> Any:
    """``out`` with tensors of its own: what is called later may change them in place."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, out)
