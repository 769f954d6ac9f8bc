"""MovieLens as an item autoencoder sees it, and autoencoders that look only at what is rated.

A film's ratings by all users go in, 0 where there is none, ratings by all users come out (Sedhain et al. 2015; Müller,
Martel, Indiveri 2018, 3.5). Both ends are sparse: the first product takes the ratings that there are, the last one is
only done where a rating is known, so that an evaluation costs as much as there are ratings.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from packages import data_folder
from torch import Tensor, nn

from compressor.layers import KernelNet, SparseFC

warnings.filterwarnings("ignore", message="Sparse")

HIDDEN = 500


@dataclass(frozen=True)
class Ratings:
    """``films``, ``users`` (from 0) and ``values`` of as many ratings; the sizes of the whole data set."""

    films: np.ndarray
    users: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def take(self, chosen: np.ndarray) -> Ratings:
        """Those at ``chosen``."""
        return Ratings(self.films[chosen], self.users[chosen], self.values[chosen], self.shape)

    def matrix(self) -> Tensor:
        """``(films, users)``, CSR, float32."""
        return _csr(self.films, self.users, self.values, self.shape)

    def split(self, share: float, seed: int) -> tuple[Ratings, Ratings]:
        """What is trained on, and a random ``share`` of the ratings to be scored on."""
        order = np.random.default_rng(seed).permutation(len(self.values))
        scored = round(share * len(order))
        return self.take(order[scored:]), self.take(order[:scored])


def movielens_100k() -> Ratings:
    """All 100,000."""
    return _read("u.data")


def movielens_100k_fold(fold: int) -> tuple[Ratings, Ratings]:
    """The published split ``fold`` of 1 to 5."""
    return _read(f"u{fold}.base"), _read(f"u{fold}.test")


def movielens_1m() -> Ratings:
    """All 1,000,209; films that nobody rated are left out."""
    table = np.load(data_folder() / "movielens" / "ml-1m" / "ml1m.npz")
    films = np.unique(table["movie"], return_inverse=True)[1]
    users = np.unique(table["user"], return_inverse=True)[1]
    return Ratings(films, users, table["rating"].astype(np.float32), (int(films.max()) + 1, int(users.max()) + 1))


def _read(name: str) -> Ratings:
    table = np.loadtxt(data_folder() / "movielens" / "ml-100k" / name, dtype=np.int64)
    return Ratings(table[:, 1] - 1, table[:, 0] - 1, table[:, 2].astype(np.float32), (1682, 943))


def _csr(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    order = np.lexsort((columns, rows))
    pointer = np.concatenate(([0], np.bincount(rows, minlength=shape[0]).cumsum()))
    return torch.sparse_csr_tensor(
        torch.from_numpy(pointer), torch.from_numpy(columns[order]), torch.from_numpy(values[order]), shape
    )


class Pattern:
    """Where the ratings of a matrix ``(films, users)`` are, read by rows and by columns."""

    def __init__(self, ratings: Ratings) -> None:
        self.matrix = ratings.matrix()
        rows = np.repeat(np.arange(ratings.shape[0]), np.diff(self.matrix.crow_indices().numpy()))
        columns = self.matrix.col_indices().numpy()
        order = np.lexsort((rows, columns))  # entries column by column
        self.order = torch.from_numpy(order)
        pointer = np.concatenate(([0], np.bincount(columns, minlength=ratings.shape[1]).cumsum()))
        self.turned = (torch.from_numpy(pointer), torch.from_numpy(rows[order]))
        self.values = self.matrix.values()
        self.columns = self.matrix.col_indices()

    def with_values(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix with other ``values`` at the same places, and its transpose."""
        own = self.matrix
        matrix = torch.sparse_csr_tensor(own.crow_indices(), own.col_indices(), values, own.shape)
        films, users = own.shape
        return matrix, torch.sparse_csr_tensor(*self.turned, values[self.order], (users, films))


class _Read(torch.autograd.Function):
    """``R Wᵀ`` for the sparse ratings R: ``weight (hidden, users) -> (films, hidden)``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        return pattern.matrix @ weight.detach().T.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        _, turned = ctx.pattern.with_values(ctx.pattern.values)
        return (turned @ gradient.contiguous()).T, None


class _Predict(torch.autograd.Function):
    """``h Wᵀ`` where there are ratings: ``h (films, hidden), weight (users, hidden) -> (ratings,)``."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(h, weight)
        ctx.pattern = pattern
        return torch.sparse.sampled_addmm(pattern.matrix, h.detach(), weight.detach().T, beta=0.0).values()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        h, weight = ctx.saved_tensors
        matrix, turned = ctx.pattern.with_values(gradient.contiguous())
        return matrix @ weight.contiguous(), turned @ h.contiguous(), None


def autoencoder(name: str, hidden_layers: int, users: int, *, l0: float = 0.0, seed: int = 0) -> nn.ModuleList:
    """The layers of ``name``, autorec, kernelnet or sparse_fc, at the source's sizes; weights start as Glorot's."""
    makes: dict[str, Callable[[int, int, int], nn.Module]] = {
        "autorec": lambda a, b, i: nn.Linear(a, b),
        "kernelnet": lambda a, b, i: KernelNet(a, b, kernel="tanh", d=50, seed=10 * seed + i),
        "sparse_fc": lambda a, b, i: SparseFC(a, b, d=5, l0=l0, seed=10 * seed + i),
    }
    sizes = [users, *[HIDDEN] * hidden_layers, users]
    layers = nn.ModuleList(makes[name](a, b, i) for i, (a, b) in enumerate(itertools.pairwise(sizes)))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, SparseFC):
            nn.init.xavier_uniform_(layer.factors)
        nn.init.zeros_(layer.bias)
    return layers


def weight_of(layer: nn.Module) -> Tensor:
    """W ``(out, in)`` as it multiplies."""
    if isinstance(layer, SparseFC):
        return layer.weight()
    return layer.weight if isinstance(layer, nn.Linear) else layer.weight(*layer.places())  # type: ignore[operator]


def penalty(layer: nn.Module, l2: float, l0: float) -> Tensor:
    """``λ₂/2 ΣW²``, of Λ for Sparse FC, and its ``λ₀/2 ΣK²``: halves, as in the authors' code."""
    if isinstance(layer, SparseFC):
        return l2 / 2 * layer.factors.square().sum() + l0 / 2 * layer.kernel().square().sum()
    return l2 / 2 * weight_of(layer).square().sum()


def predict(layers: nn.ModuleList, given: Pattern, wanted: Pattern) -> Tensor:
    """What the films' ``given`` ratings say of those ``wanted``, ``(ratings,)``."""
    h = (_Read.apply(weight_of(layers[0]), given) + layers[0].bias).sigmoid()
    for layer in layers[1:-1]:
        h = nn.functional.linear(h, weight_of(layer), layer.bias).sigmoid()
    return _Predict.apply(h, weight_of(layers[-1]), wanted) + layers[-1].bias[wanted.columns]


@torch.no_grad()
def rmse(layers: nn.ModuleList, given: Pattern, wanted: Pattern) -> float:
    """Root of the mean squared error, predictions cut to 1 to 5."""
    return float((predict(layers, given, wanted).clamp(1, 5) - wanted.values).square().mean().sqrt())


@torch.no_grad()
def density(layers: nn.ModuleList) -> float:
    """Share of the weights that are not zero."""
    weights = [weight_of(layer) for layer in layers]
    return sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
