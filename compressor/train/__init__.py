"""Ways to train that are usable on any network: noise where units saturate, mollifying, noise on gradients.

What a schedule counts is kept beside the states of network and optimiser, as of torch's schedules of the rate:

>>> import torch
>>> from torch import nn
>>> from compressor.train import Annealing, noisy_
>>> model = noisy_(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)), kind="nah")
>>> optimizer, annealing = torch.optim.SGD(model.parameters(), lr=0.1), Annealing(model, every=2)
>>> for _ in range(6):
...     optimizer.zero_grad()
...     model(torch.randn(8, 4)).square().mean().backward()
...     optimizer.step()
...     annealing.step()
>>> kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "annealing": annealing.state_dict()}
>>> annealing.load_state_dict(kept["annealing"])
>>> annealing.c
15.0
"""

from compressor.train.gradient import GradientNoise
from compressor.train.mollify import Mollification, Mollified, Skipped
from compressor.train.noise import Annealing, NoisyActivation, noisy_

__all__ = ["Annealing", "GradientNoise", "Mollification", "Mollified", "NoisyActivation", "Skipped", "noisy_"]
