"""How a whole network is trained, and what happens to the examples on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from compressor.data import Batch
from compressor.layers.rates import parameter_groups
from compressor.settings import Settings
from compressor.train.noise import FIRST_C, KINDS_WITH, LAST_C, LEAKY, NOISY_FOR, SIGMA, Kind
from compressor.train.progressive import Way

_ROUND = 50  # iterations of L-BFGS that count as one epoch
_HISTORY = 10


class Training(Settings):
    """How the whole network is distilled. Fractions are of all steps unless said otherwise."""

    epochs: int = Field(10, ge=0, description="passes over the training data at most")
    batch_size: int = Field(64, ge=1, description="examples a step; lbfgs and rprop take all at once")
    optimizer: Literal["adamw", "lbfgs", "rprop"] = Field(
        "adamw", description="lbfgs, rprop: for small data, whole at every step; an epoch of lbfgs is 50 iterations"
    )
    rate: float = Field(
        2e-3, gt=0, description="of dense parameters, diagonals take 10 times as much; rprop's first step; not of lbfgs"
    )
    weight_decay: float = Field(1e-4, ge=0, description="by adamw; never on diagonals and biases")
    warm_up: float = Field(0.05, ge=0, le=1, description="fraction over which the rate rises")
    temperature: float = Field(4.0, gt=0, description="of the softmax that is imitated, where labels name classes")
    label_share: float = Field(0.3, ge=0, le=1, description="of the loss, where there are labels")
    hint_share: float = Field(0.1, ge=0, description="of the loss: outputs of the replaced blocks")
    blend: float = Field(
        0.5, ge=0, le=1, description="of the batches: examples blended in pairs, without labels; lbfgs: 0 unless given"
    )
    shift: int = Field(0, ge=0, description="pixels: images are moved by up to so many, each by its own")
    progressive: Way | None = Field(
        None,
        description="how the original's blocks fade out: by units evenly (linear) or with the loss (mollify), mixed "
        "(cosine), whole (theseus); none: all are replaced at once",
    )
    fade: float = Field(0.2, ge=0, le=1, description="fraction over which they do, where progressive names a way")
    gradient_noise: float = Field(0.0, ge=0, description="η of noise on gradients, of variance η/(1 + t)^0.55; adamw")
    noise: Kind | None = Field(
        None, description="nan, nah, nani, nanil or nanis where tanh and sigmoid saturate, for 4/5 of the training"
    )
    noise_c_start: float = Field(
        FIRST_C, gt=0, description="c of nan, nah and nanil, the scale of their noise, at first"
    )
    noise_c_end: float = Field(LAST_C, gt=0, description="c at the end of the noise, to which it falls as 1/√(t + 1)")
    noise_alpha: float | None = Field(
        None,
        ge=0,
        le=2,
        description="α of nan and nah: units that saturate keep 1 - α of their slope, and noise of nah pushes back; "
        f"{LEAKY:g} for nah, 1 for nan unless given",
    )
    noise_sigma: float | None = Field(
        None, ge=0, description=f"σ of nani and nanis, the noise at the input; {SIGMA:g} unless given"
    )
    patience: int = Field(6, ge=1, description="epochs without a better held-back loss")
    held_back: float = Field(0.05, gt=0, lt=1, description="of the training data, to choose the best epoch by")
    held_back_most: int = Field(5000, ge=1, description="examples held back at most")

    @model_validator(mode="before")
    @classmethod
    def _one_function(cls, asked: Any) -> Any:
        """L-BFGS compares gradients from epoch to epoch: they must be of the same examples."""
        if isinstance(asked, Mapping) and asked.get("optimizer") == "lbfgs":
            return {"blend": 0.0, **asked}
        return asked

    @model_validator(mode="after")
    def _noise_is_for_steps(self) -> Self:
        if self.gradient_noise and self.is_full_batch:
            raise ValueError(f"gradient_noise is for adamw; {self.optimizer} takes its steps by exact gradients")
        return self

    @model_validator(mode="after")
    def _noise_has_what_is_set(self) -> Self:
        owners = {"noise_c_start": "c", "noise_c_end": "c", "noise_alpha": "alpha", "noise_sigma": "sigma"}
        for name, owner in owners.items():
            value = getattr(self, name) if name in self.model_fields_set else None
            if value is not None and self.noise not in KINDS_WITH[owner]:
                kinds = " or ".join(KINDS_WITH[owner])
                raise ValueError(f"{name}={value:g} is for noise={kinds}, not for noise={self.noise or 'none'}")
        if self.noise_c_end > self.noise_c_start:
            raise ValueError(f"c falls: noise_c_start={self.noise_c_start:g} is below noise_c_end={self.noise_c_end:g}")
        return self

    @model_validator(mode="after")
    def _lbfgs_draws_nothing(self) -> Self:
        drawn = {"noise": self.noise, "progressive": self.way if self.way != "cosine" else None}
        for name, value in drawn.items():
            if value is not None and self.optimizer == "lbfgs":
                raise ValueError(f"{name}={value} draws anew each time that lbfgs looks at a step; take adamw or rprop")
        return self

    @model_validator(mode="after")
    def _what_fades_has_a_way(self) -> Self:
        if self.fade and "fade" in self.model_fields_set and self.progressive is None:
            raise ValueError(f"fade={self.fade:g} needs a way: progressive=linear, mollify, cosine or theseus")
        return self

    @property
    def way(self) -> Way | None:
        """How the original's blocks fade out; None where all are replaced at once."""
        return self.progressive if self.fade else None

    @property
    def disturbed_for(self) -> float:
        """Fraction over which noise or the original's blocks make the network another one than it will be."""
        return max(self.fade if self.way is not None else 0.0, NOISY_FOR if self.noise is not None else 0.0)

    @property
    def is_full_batch(self) -> bool:
        """Whether each step takes all training data, at a rate of its own choosing."""
        return self.optimizer != "adamw"

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over all that ``model`` trains."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "rprop":
            return torch.optim.Rprop(trained, lr=self.rate)
        if self.optimizer == "lbfgs":
            return torch.optim.LBFGS(
                trained, lr=1, max_iter=_ROUND, history_size=_HISTORY, line_search_fn="strong_wolfe"
            )
        return torch.optim.AdamW(parameter_groups(model, self.rate, self.weight_decay))


def varied(batch: Batch, how: Training) -> Batch:
    """``batch`` as it is trained on: moved, blended, or as it is."""
    if how.shift:
        batch = _shifted(batch, how.shift)
    return _blended(batch) if float(torch.rand(())) < how.blend else batch


def _blended(batch: Batch) -> Batch:
    """Each example mixed with another at a random share; no labels, since they would not fit.

    More of the input space on which the original is imitated (Beyer et al. 2022, "function matching"). Batches
    with inputs that are not floating point stay as they are.
    """
    if not all(x.is_floating_point() for x in batch.inputs):
        return batch
    share = torch.rand(len(batch.inputs[0]))
    inputs = []
    for x in batch.inputs:
        s = share.to(x).reshape(-1, *[1] * (x.ndim - 1))
        inputs.append(s * x + (1 - s) * x.flip(0))
    return Batch(tuple(inputs), None)


def _shifted(batch: Batch, most: int) -> Batch:
    """Each image ``(channels, height, width)`` moved by up to ``most`` pixels; the edge is repeated. Labels stay.

    Batches with inputs that are not images stay as they are.
    """
    if not all(x.ndim == 4 for x in batch.inputs):
        return batch
    moves = torch.randint(-most, most + 1, (2, len(batch.inputs[0]), 1))
    inputs = []
    for x in batch.inputs:
        rows, columns = (
            (torch.arange(size, device=x.device) + by.to(x.device)).clamp(0, size - 1)
            for size, by in zip(x.shape[2:], moves, strict=True)
        )
        image = torch.arange(len(x), device=x.device)[:, None, None]
        inputs.append(x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2))
    return Batch(tuple(inputs), batch.labels)
