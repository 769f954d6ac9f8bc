"""Convolutions lie channels last while a network is trained, and only then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.train.layout import channels_last

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution and a dense layer; ``viewed``: what is between them must be contiguous."""

    def __init__(self, *, viewed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.dense, self.viewed = nn.Conv2d(1, 4, 3), nn.Linear(144, 3), viewed
        self.seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.convolution(x)
        return self.dense(self.seen.view(len(x), -1) if self.viewed else self.seen.flatten(1))


def is_channels_last(net: Net) -> bool:
    net(X)
    return net.seen.is_contiguous(memory_format=torch.channels_last)


def test_activations_lie_channels_last_within_and_weights_are_contiguous_afterwards() -> None:
    net = Net(viewed=False)
    before, weight = net(X), net.convolution.weight
    with channels_last([net], lambda: net(X)):
        assert is_channels_last(net)
        torch.testing.assert_close(net(X), before)
        net(X).sum().backward()
    assert net.convolution.weight is weight
    assert weight.stride() == (9, 9, 3, 1)
    assert not is_channels_last(net)


@pytest.mark.parametrize("order", [[False, True], [True, False]])
def test_one_network_that_takes_a_view_leaves_both_as_they_are(order: list[bool]) -> None:
    nets = [Net(viewed=viewed) for viewed in order]
    with channels_last(nets, lambda: [net(X) for net in nets]):
        assert not any(is_channels_last(net) for net in nets)


def test_weights_are_contiguous_after_an_error_too() -> None:
    net = Net(viewed=False)
    with pytest.raises(KeyboardInterrupt), channels_last([net], lambda: net(X)):
        raise KeyboardInterrupt
    assert net.convolution.weight.stride() == (9, 9, 3, 1)
