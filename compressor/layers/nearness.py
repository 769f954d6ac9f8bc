"""How near places are to each other, as one product of matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def nearness(u: Tensor, v: Tensor, at_zero: float = 0.0) -> Tensor:
    """``at_zero − ‖u_i − v_j‖²`` for ``u (in, d)`` and ``v (out, d)``: ``(out, in)``.

    ``[2v, at_zero − ‖v‖², 1] · [u, 1, −‖u‖²]``: the large matrix is written once and its gradient read once.
    """
    left = (2 * v, at_zero - v.square().sum(1, keepdim=True), torch.ones_like(v[:, :1]))
    right = (u, torch.ones_like(u[:, :1]), -u.square().sum(1, keepdim=True))
    return torch.cat(left, 1) @ torch.cat(right, 1).T
