"""Architectures for the demo and the benchmarks, to be named as ``--arch benchmarks/zoo.py:NAME``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from torch import Tensor, nn

_CCEXAM = Path(__file__).resolve().parent.parent / ".demo" / "ccexam"


def mnist_net() -> nn.Module:
    """The MNIST convnet of PyPI's ccexam 1.0.0 (conv32-conv64-fc 3136x128-10), which `make demo` fetches."""
    if not _CCEXAM.exists():
        raise FileNotFoundError(".demo/ccexam is not there; `make demo` fetches it")
    if str(_CCEXAM) not in sys.path:
        sys.path.append(str(_CCEXAM))
    net: nn.Module = importlib.import_module("ccexam.models").MNISTNet(input_size=28)
    return net


class CaffeLeNet(nn.Module):
    """The LeNet of Caffe's MNIST example: 430,500 weights, input ``(batch, 1, 28, 28)`` of x/256."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.ip1 = nn.Linear(800, 500)
        self.relu1 = nn.ReLU()
        self.ip2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x)).flatten(1)
        return self.ip2(self.relu1(self.ip1(x)))


def caffe_lenet() -> nn.Module:
    """Caffe's LeNet; keys conv1, conv2, ip1, ip2 as in the published state dict."""
    return CaffeLeNet()


class CaffeNet(nn.Module):
    """CaffeNet (AlexNet with one column): shapes as published, input ``(batch, 3, 227, 227)``."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.LocalResponseNorm(5),
            nn.Conv2d(96, 256, 5, padding=2, groups=2, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.LocalResponseNorm(5),
            nn.Conv2d(256, 384, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(384, 384, 3, padding=1, groups=2, bias=bias),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1, groups=2, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.fc6 = nn.Linear(9216, 4096, bias=bias)
        self.relu6 = nn.ReLU()
        self.drop6 = nn.Dropout(0.5)
        self.fc7 = nn.Linear(4096, 4096, bias=bias)
        self.relu7 = nn.ReLU()
        self.drop7 = nn.Dropout(0.5)
        self.fc8 = nn.Linear(4096, 1000, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        x = self.drop6(self.relu6(self.fc6(x)))
        return self.fc8(self.drop7(self.relu7(self.fc7(x))))


def caffenet() -> nn.Module:
    """CaffeNet, to be counted from its shapes on the meta device."""
    return CaffeNet()


def caffenet_without_bias() -> nn.Module:
    """CaffeNet without biases: its dense maps have the 58,621,952 weights that the tables count."""
    return CaffeNet(bias=False)
