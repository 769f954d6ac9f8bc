"""A product with a sparse matrix as one ONNX node, and the body of its function.

The body spreads the stored values into the matrix: nothing in it depends on the input but the last MatMul, so a
runtime makes the matrix once, when it loads the file, and the file holds the compressed rows only. A function is made
for one shape and named after it: ``Sparse_800to500``, ``SparseShared_800to500`` where the values are looked up in
a codebook, and ``SparseVectors_800to500by16`` where 16 neighbouring rows share a column (see `Positions`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compressor.layers.onnx_body import Body, call
from compressor.layers.positions import Positions

if TYPE_CHECKING:
    import onnx


def sparse_node(x: Tensor, positions: Positions, values: Tensor, codes: Tensor | None = None) -> Tensor:
    """``(..., in) -> (..., out)`` as one node; with ``codes (count,)``, ``values`` is the codebook that they index."""
    looked_up = [] if codes is None else [codes]
    return call(
        _name(positions, codes is not None),
        [x, positions.columns, positions.lengths, values, *looked_up],
        positions.out_features,
        count=positions.count,
        **({"block": positions.block} if positions.block > 1 else {}),
    )


def sparse_functions(positions: Positions, *, shared: bool = False) -> list[onnx.FunctionProto]:
    """The body of the node that `sparse_node` emits for these positions."""
    inputs = ["x", "columns", "lengths", "values", *(["codes"] if shared else [])]
    body = Body(_name(positions, shared), inputs)
    op = body.op
    values = op("Gather", "values", op("Cast", "codes", to=7), axis=0) if shared else "values"
    height = len(positions.lengths) * positions.block
    matrix = op("Expand", body.like_input(body.real(0.0)), body.ints(height * positions.in_features))
    matrix = op("ScatterElements", matrix, _flat(body, positions), values, axis=0)
    matrix = op("Reshape", matrix, body.ints(height, positions.in_features))
    if height > positions.out_features:
        matrix = op("Slice", matrix, body.ints(0), body.ints(positions.out_features), body.ints(0))
    return [body.function(op("MatMul", "x", op("Transpose", matrix)))]


def _name(positions: Positions, shared: bool) -> str:
    dense = positions.count * positions.block * 2 > positions.in_features * positions.out_features
    vectors = positions.block > 1
    kind = (
        "Sparse" + "Shared" * shared + "Vectors" * vectors + "Dense" * dense
    )  # "Dense" has no native operator: the body's matmul is quicker
    by = f"by{positions.block}" * vectors
    return f"{kind}_{positions.in_features}to{positions.out_features}{by}"


def _flat(body: Body, positions: Positions) -> str:
    """Where each value stands: one step up wherever a row starts, summed along the vectors, is the row of each."""
    op = body.op
    starts = op("CumSum", op("Cast", "lengths", to=7), body.whole(0))  # of the rows 1.., and the end
    steps = op("Expand", body.whole(1), op("Shape", "lengths"))
    count = op("Shape", "columns")
    none = op("Expand", body.whole(0), op("Add", count, body.ints(1)))  # the end has a place too
    rows = op("CumSum", op("ScatterElements", none, starts, steps, axis=0, reduction="add"), body.whole(0))
    rows = op("Slice", rows, body.ints(0), count)
    width, block = positions.in_features, positions.block
    first = op("Add", op("Mul", rows, body.whole(block * width)), op("Cast", "columns", to=7))  # of each vector
    if block == 1:
        return first
    below = op("Mul", body.indices(block), body.whole(width))
    return op("Reshape", op("Add", body.column(first), below), body.ints(-1))
