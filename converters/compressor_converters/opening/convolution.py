"""Convolutions as the dense map over their patch: ``y[p] = W patch(x, p) + b`` at every position p.

A 1×1 convolution is a dense map of the channels as it stands. A k×k one maps ``in·k·k`` numbers; its input is
copied into overlapping patches first, so that it pays only where the structured map is much smaller. A map of low rank
needs no patches: it is a convolution with few results, and a 1×1 one of them (Zhang et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.layers import StructuredLayer
from compressor_converters.opening.kind import Kind, dense


class PatchConv(nn.Module):
    """A convolution, ``(batch, in, *space) -> (batch, out, *space')``, by ``linear`` over the patch at each position.

    ``padding`` is as `torch.nn.functional.pad` takes it; ``mode`` too.
    """

    def __init__(
        self,
        linear: nn.Module,
        kernel_size: Sequence[int],
        *,
        stride: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[int],
        mode: str,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.kernel_size, self.stride, self.dilation = tuple(kernel_size), tuple(stride), tuple(dilation)
        self.padding, self.mode = tuple(padding), mode

    def forward(self, x: Tensor) -> Tensor:
        batched = x.ndim == len(self.kernel_size) + 2
        x = x if batched else x.unsqueeze(0)
        chain = self._chain()
        y = self._convolved(x, *chain) if chain else self.linear(self._patches(x)).movedim(-1, 1).contiguous()
        return y if batched else y.squeeze(0)

    def _chain(self) -> tuple[Tensor, ...] | None:
        """The matrices of the map, unless somebody wants to see what enters or leaves it."""
        is_watched = self.linear._forward_hooks or self.linear._forward_pre_hooks
        return self.linear.dense_chain() if isinstance(self.linear, StructuredLayer) and not is_watched else None

    def _convolved(self, x: Tensor, first: Tensor, *others: Tensor) -> Tensor:
        """By a convolution with the matrix ``first`` over the patch, and by 1×1 ones with the others."""
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(self.kernel_size)]
        sides = [*zip(self.padding[::2], self.padding[1::2], strict=True)][::-1]  # of each axis
        is_even = self.mode == "constant" and all(before == after for before, after in sides)
        if not is_even:
            x = F.pad(x, self.padding, mode=self.mode)
        padding = [before for before, _ in sides] if is_even else 0
        bias: Any = self.linear.bias
        kernel = first.reshape(len(first), -1, *self.kernel_size)
        x = convolve(x, kernel, None if others else bias, self.stride, padding, self.dilation)
        for i, matrix in enumerate(others, start=1):
            kernel = matrix.reshape(*matrix.shape, *[1] * len(self.kernel_size))
            x = convolve(x, kernel, bias if i == len(others) else None)
        return x

    def _patches(self, x: Tensor) -> Tensor:
        """``(batch, *space', in * patch)``: channel by channel, each patch in the order of the kernel."""
        if any(self.padding):
            x = F.pad(x, self.padding, mode=self.mode)
        for axis, (size, stride, dilation) in enumerate(
            zip(self.kernel_size, self.stride, self.dilation, strict=True), start=2
        ):
            if size > 1:
                x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
            elif stride > 1:
                x = x[(slice(None),) * axis + (slice(None, None, stride),)]
        space = len(self.kernel_size)
        return x.movedim(1, 1 + space).flatten(1 + space)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, padding={self.padding}"


def _takes(module: Any) -> bool:
    return type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and bool(module.groups == 1)


def _open(module: Any) -> nn.Module:
    return PatchConv(
        dense(module.weight.flatten(1), module.bias),
        module.kernel_size,
        stride=module.stride,
        dilation=module.dilation,
        padding=module._reversed_padding_repeated_twice,
        mode="constant" if module.padding_mode == "zeros" else module.padding_mode,
    )


def _write_back(opened: Any, module: Any) -> None:
    with torch.no_grad():
        module.weight.copy_(opened.linear.weight.reshape(module.weight.shape))
        if module.bias is not None:
            module.bias.copy_(opened.linear.bias)


def _is_wide(module: Any) -> bool:
    return any(size > 1 for size in module.kernel_size)


CONVOLUTION = Kind("convolution", PatchConv, _takes, _open, _write_back, by_name_only=_is_wide)
