"""Ways to train that are usable on any network: noise where units saturate, mollifying, noise on gradients."""

from compressor.train.gradient import GradientNoise
from compressor.train.mollify import Mollification, Mollified, Skipped
from compressor.train.noise import Annealing, NoisyActivation, noisy_

__all__ = ["Annealing", "GradientNoise", "Mollification", "Mollified", "NoisyActivation", "Skipped", "noisy_"]
