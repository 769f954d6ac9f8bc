"""Which entries of a matrix are kept: compressed sparse rows, in the smallest whole numbers that hold them.

Stored, persistent, for ``count`` entries: ``columns (count,)``, row after row and rising within a row, and ``lengths
(out,)``, the entries of each row (their running sum is the row pointer of CSR). One byte each up to 256 columns, two
up to 65,536.

With ``block`` above 1 the same of vectors: what is one entry above is then ``block`` neighbours in one column, and a
row is ``block`` rows. What the last vectors hold past the end of the matrix is stored, and counts for nothing.

`Positions.scatter` spreads values into the dense matrix each time it is asked; `Positions.product` does without it
where there is a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor_kernels import dispatch, reference


class Positions(nn.Module):
    """The places of ``count`` vectors of a matrix ``(out_features, in_features)``; drawn at random when it is made."""

    columns: Tensor
    lengths: Tensor

    def __init__(self, in_features: int, out_features: int, count: int, block: int = 1) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.count = count
        self.block = block
        rows = block_rows(out_features, block)
        size = in_features * rows
        if torch.empty(0).device.type == "meta":
            self.register_buffer("columns", torch.empty(count, dtype=_smallest(in_features - 1)))
            self.register_buffer("lengths", torch.empty(rows, dtype=_smallest(in_features)))
            return
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size)[:count]] = True
        columns, lengths = _compressed(mask.reshape(rows, in_features))
        self.register_buffer("columns", columns)
        self.register_buffer("lengths", lengths)

    @torch.no_grad()
    def set(self, mask: Tensor) -> None:
        """Take the places where ``mask (rows, in)`` is true, ``count`` of them."""
        columns, lengths = _compressed(mask)
        if len(columns) != self.count:
            raise ValueError(f"the mask keeps {len(columns)} vectors, not {self.count}")
        self.columns.copy_(columns)
        self.lengths.copy_(lengths)

    def rows(self) -> Tensor:
        """The row of each vector, ``(count,)`` int64."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return rows.repeat_interleave(self.lengths.long(), output_size=self.count)

    def flat(self) -> Tensor:
        """The place of each vector in the matrix of them read row by row, ``(count,)`` int64, rising."""
        return self.rows() * self.in_features + self.columns.long()

    def scatter(self, values: Tensor) -> Tensor:
        """The matrix ``(out, in)`` with ``values (count · block,)`` in their places and zeros elsewhere."""
        return reference.spread(values, self.columns, self.lengths, self.in_features, self.out_features, self.block)

    def product(self, x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """``x Wᵀ + bias`` with W as `scatter` gives it."""
        return dispatch.csr(x, values, self.columns, self.lengths, bias, self.out_features, self.block)

    def gather(self, matrix: Tensor) -> Tensor:
        """The entries of ``matrix (out, in)`` that are kept, ``(count · block,)``; zeros past its end."""
        vectors = in_blocks(matrix, self.block).mT.reshape(-1, self.block)
        return vectors[self.flat()].flatten()

    def mask(self, kept: Tensor) -> Tensor:
        """Where the vectors stand for which ``kept (count,)`` is true, ``(rows, in)``."""
        mask = torch.zeros(len(self.lengths) * self.in_features, dtype=torch.bool, device=kept.device)
        mask[self.flat()] = kept
        return mask.reshape(-1, self.in_features)


def block_rows(out_features: int, block: int) -> int:
    """How many rows of vectors of ``block`` entries a matrix has."""
    return -(-out_features // block)


def in_blocks(matrix: Tensor, block: int) -> Tensor:
    """``(out, in) -> (rows, block, in)``, filled up with zeros."""
    out_features, in_features = matrix.shape
    rows = block_rows(out_features, block)
    padded = torch.nn.functional.pad(matrix, (0, 0, 0, rows * block - out_features))
    return padded.reshape(rows, block, in_features)


def vectors_of(out_features: int, count: int, block: int) -> int:
    """How many vectors are the share of all that ``count`` is of all entries, rounded; at least one where that is."""
    return max(min(count, 1), round(count * block_rows(out_features, block) / out_features))


def count_of(method: str, in_features: int, out_features: int, density: float, count: int | None) -> int:
    """How many entries are kept: ``count`` where it is given, else the share ``density`` of them, at least one."""
    size = in_features * out_features
    if count is None:
        return max(1, round(density * size))
    if count > size:
        raise CompressorError(
            f"method '{method}': count={count} is more than the {size} weights of {in_features} -> {out_features}; give"
            f" at most {size}"
        )
    return count


def _smallest(largest: int) -> torch.dtype:
    """The smallest whole-number type that holds 0..``largest``."""
    if largest < 2**8:
        return torch.uint8
    return torch.uint16 if largest < 2**16 else torch.int32


def _compressed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and row lengths of the true entries of ``mask (out, in)``."""
    width = mask.shape[1]
    return mask.nonzero()[:, 1].to(_smallest(width - 1)), mask.sum(1).to(_smallest(width))
