"""MovieLens as an item autoencoder sees it, and autoencoders that look only at what is rated.

A film's ratings by all users go in, 0 where there is none, ratings by all users come out (Sedhain et al. 2015; Müller,
Martel, Indiveri 2018, 3.5). Both ends are sparse: the first product takes the ratings that there are, the last one is
only done where a rating is known, so that an evaluation costs as much as there are ratings. The products are those
of the compiled kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from packages import data_folder
from torch import Tensor, nn

from compressor.layers import SVD, KernelNet, Pruned, SparseFC
from compressor_kernels.sparse import run_csr, run_csr_backward

HIDDEN = 500
_NEARER = 0.2


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


class Pattern:
    """Where the ratings of a matrix R ``(films, users)`` are; products with such matrices by the compiled kernels.

    Dense matrices lie ``(hidden, films)`` and ``(hidden, users)``, as the kernels take them: eight and more rows of a
    dense matrix go through the entries of R at once.
    """

    def __init__(self, ratings: Ratings) -> None:
        order = np.lexsort((ratings.users, ratings.films))
        users, films = ratings.users[order], ratings.shape[0]
        lengths = np.bincount(ratings.films, minlength=films)
        self.columns = torch.from_numpy(users)
        self.values = torch.from_numpy(ratings.values[order])
        self.places = (torch.from_numpy(users.astype(np.int32)), torch.from_numpy(lengths.astype(np.int32)))

    def times(self, dense: Tensor, values: Tensor) -> Tensor:
        """``X Rᵀ``, R with these ``values``: ``dense (hidden, users) -> (hidden, films)``."""
        return run_csr(dense, values, *self.places, None, len(self.places[1]), 1)

    def turned_times(self, dense: Tensor, values: Tensor, users: int) -> Tensor:
        """``X R``: ``dense (hidden, films) -> (hidden, users)``."""
        found, _ = run_csr_backward(dense, dense.new_empty(len(dense), users), values, *self.places, 1, by_values=False)
        return found

    def between(self, films: Tensor, users: Tensor) -> Tensor:
        """``Σ_k films_ki users_kj`` where there is a rating: ``(hidden, films), (hidden, users) -> (ratings,)``."""
        _, found = run_csr_backward(films, users, self.values, *self.places, 1, by_x=False)
        return found


class _Read(torch.autograd.Function):
    """``W Rᵀ`` for the ratings R: ``weight (hidden, users) -> (hidden, films)``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern, ctx.users = pattern, weight.shape[1]
        return pattern.times(weight.detach(), pattern.values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        pattern = ctx.pattern
        return pattern.turned_times(gradient, pattern.values, ctx.users), None


class _Predict(torch.autograd.Function):
    """``hᵀ W`` where there are ratings: ``h (hidden, films), weight (hidden, users) -> (ratings,)``."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(h, weight)
        ctx.pattern = pattern
        return pattern.between(h.detach(), weight.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        h, weight = ctx.saved_tensors
        pattern, users = ctx.pattern, weight.shape[1]
        return pattern.times(weight, gradient), pattern.turned_times(h, gradient, users), None


def autoencoder(name: str, hidden_layers: int, users: int, *, l0: float = 0.0, seed: int = 0) -> nn.ModuleList:
    """The layers of ``name``, autorec, kernelnet or sparse_fc, at the source's sizes.

    Weights start as Glorot's. KernelNet's places start near each other and its λ large: at the layer's own start λ is
    small beside the kernel, and L-BFGS, which sees both at once, hardly moves the places.
    """
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
        elif isinstance(layer, KernelNet):
            _balance(layer)
        nn.init.zeros_(layer.bias)
    return layers


@torch.no_grad()
def _balance(layer: KernelNet) -> None:
    """Places `_NEARER` times what they were, and λ such that the weights keep their size."""
    size = weight_of(layer).norm()
    layer.u *= _NEARER
    layer.v *= _NEARER
    layer.scales *= size / weight_of(layer).norm()


def weight_of(layer: nn.Module) -> Tensor:
    """W ``(out, in)`` as it multiplies."""
    if isinstance(layer, SparseFC):
        return layer.weight()
    if isinstance(layer, SVD):
        return layer.up @ layer.down
    if isinstance(layer, Pruned):
        return layer.positions.scatter(layer.living())
    return layer.weight if isinstance(layer, nn.Linear) else layer.weight(*layer.places())  # type: ignore[operator]


def penalised(layer: nn.Module, l2: float, l0: float) -> tuple[Tensor, Tensor]:
    """W, and its ``λ₂/2 ΣW²``; for Sparse FC that of Λ, and ``λ₀/2 ΣK²``: halves, as in the authors' code."""
    if isinstance(layer, SparseFC):
        kernel = layer.kernel()  # once for both: it costs as much as all products with the ratings
        penalty = l2 / 2 * _squares(layer.factors) + l0 / 2 * _squares(kernel)
        return layer.factors * kernel, penalty
    weight = weight_of(layer)
    return weight, l2 / 2 * _squares(weight)


def _squares(x: Tensor) -> Tensor:
    """Their sum; a product's gradient is quicker than a power's, and a dot product would not sum in pairs."""
    return (x * x).sum()


def predict(layers: nn.ModuleList, given: Pattern, wanted: Pattern, weights: list[Tensor] | None = None) -> Tensor:
    """What the films' ``given`` ratings say of those ``wanted``, ``(ratings,)``; ``weights`` where they are known."""
    weights = [weight_of(layer) for layer in layers] if weights is None else weights
    biases = [layer.bias for layer in layers]
    h = (_Read.apply(weights[0], given) + biases[0][:, None]).sigmoid()
    for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
        h = (weight @ h + bias[:, None]).sigmoid()
    return _Predict.apply(h, weights[-1].T, wanted) + biases[-1][wanted.columns]


@torch.no_grad()
def rmse(layers: nn.ModuleList, given: Pattern, wanted: Pattern) -> float:
    """Root of the mean squared error, predictions cut to 1 to 5."""
    return float((predict(layers, given, wanted).clamp(1, 5) - wanted.values).square().mean().sqrt())


@torch.no_grad()
def density(layers: nn.ModuleList) -> float:
    """Share of the weights that are not zero."""
    weights = [weight_of(layer) for layer in layers]
    return sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
