"""A whole ONNX file on stock onnxruntime, called as the network that it was written from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compressor_converters.onnx_in.network import OnnxNetwork


class FileRun:
    """Calls ``session`` as often as the network's own rows ask for, and gives what the network would."""

    def __init__(self, network: OnnxNetwork, session: Any) -> None:
        self.network, self.session = network, session

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The main output."""
        with torch.no_grad():
            found = self.network.in_order(self.network.by_call(inputs, self._run))
        return found if isinstance(found, Tensor) else found[0]

    def _run(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        names = [spec.name for spec in self.network.inputs]
        feeds = {name: x.detach().cpu().contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
        outputs = self.network.view.outputs
        with self.network.bounded(inputs):
            found = self.session.run(outputs, feeds)
        return dict(zip(outputs, map(torch.from_numpy, found), strict=True))
