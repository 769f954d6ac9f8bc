"""The native kernels against the plain transforms in float64."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from native_oracle import NUMBERS, assert_in_budget, data, together
from torch import Tensor
from torch.testing._internal.two_tensor import TwoTensor

from compressor.layers import method, seeded
from compressor_kernels import dispatch, native, quick, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

SIZES = [
    1,
    2,
    3,
    4,
    6,
    8,
    10,
    12,
    14,
    16,
    24,
    30,
    32,
    48,
    56,
    63,
    64,
    71,
    96,
    137,
    256,
    800,
    1024,
    2048,
    3000,
    4096,
    4608,
]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("inverse", [False, True])
def test_native_cosine_transforms_are_the_formula(n: int, inverse: bool) -> None:
    x = data(13, n)
    plain = reference.idct if inverse else reference.dct
    assert_in_budget(native.dct(x, inverse=inverse), plain(x), plain(x.double()))


@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize("n", SIZES)
def test_a_native_cascade_is_the_formula(n: int, rows: int) -> None:
    x, a, d, bias = data(rows, n), 1 + data(3, n, seed=1) / 4, 1 + data(3, n, seed=2) / 4, data(3, n, seed=3)
    permutation = seeded.permutations(0, 10, 2, n)
    truth = reference.acdc(x.double(), a.double(), d.double(), bias.double(), permutation, n, True, False)
    plain = reference.acdc(x, a, d, bias, permutation, n, True, False)
    found = native.acdc(x, a, d, bias, permutation, out_features=n, relu=True, separable=False)
    assert_in_budget(found, plain, truth)
    torch.testing.assert_close(dispatch.acdc(x, a, d, bias, permutation, n, relu=True), found)


@pytest.mark.parametrize("rows", [1, 2, 13])
@pytest.mark.parametrize("n", [4, 16, 24, 36, 64, 96, 128, 384, 576, 1024])
def test_a_native_separable_cascade_is_the_formula(n: int, rows: int) -> None:
    x, a, d, bias = data(rows, n - 1), 1 + data(2, n, seed=1) / 4, 1 + data(3, n, seed=2) / 4, data(3, n, seed=3)
    permutation = seeded.permutations(0, 10, 2, n)
    truth = reference.acdc(x.double(), a.double(), d.double(), bias.double(), permutation, n, True, True)
    plain = reference.acdc(x, a, d, bias, permutation, n, True, True)
    found = native.acdc(x, a, d, bias, permutation, out_features=n, relu=True, separable=True)
    assert_in_budget(found, plain, truth)


@pytest.mark.parametrize("n", [64, 1024])
def test_a_row_of_a_separable_cascade_alone_is_what_it_is_among_others(n: int) -> None:
    x, a, d = data(8, n), 1 + data(3, n, seed=1) / 4, 1 + data(3, n, seed=2) / 4
    kept = n - 5
    among = native.acdc(x, a, d, None, None, out_features=kept, relu=False, separable=True)
    alone = torch.cat(
        [native.acdc(row[None], a, d, None, None, out_features=kept, relu=False, separable=True) for row in x]
    )
    torch.testing.assert_close(alone, among, rtol=1e-5, atol=1e-5)


GRADIENT_SIZES = [2, 4, 6, 8, 10, 12, 16, 24, 30, 36, 48, 64, 96, 128, 256, 384, 800, 1024]
GRADIENTS = [
    (n, separable) for n in GRADIENT_SIZES for separable in (False, True) if native.can_cascade(n, separable=separable)
]


@pytest.mark.parametrize(("permuted", "fixed", "biased"), [(True, False, True), (False, True, False)])
@pytest.mark.parametrize(("n", "separable"), GRADIENTS)
def test_the_gradients_of_a_native_cascade_are_those_of_the_formula(
    n: int, separable: bool, permuted: bool, fixed: bool, biased: bool
) -> None:
    rows = 13 + NUMBERS // n
    x, a, d, bias = data(rows, n - 1), 1 + data(3, n, seed=1) / 4, 1 + data(3, n, seed=2) / 4, data(3, n, seed=3)
    a, grad = a[int(fixed) :], data(rows, n - n // 3, seed=4)
    permutation = seeded.permutations(0, 10, 2, n) if permuted else None

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        leaves = [table.to(dtype, copy=True).requires_grad_() for table in (x, a, d, bias)]
        used = [*leaves[:3], leaves[3] if biased else None]
        reference.acdc(*used, permutation, grad.shape[-1], True, separable).backward(grad.to(dtype))
        return [leaf.grad for leaf in leaves[: 3 + biased]]

    found = native.acdc_backward(grad, x, a, d, bias if biased else None, permutation, relu=True, separable=separable)
    assert (found[3] is not None) == biased
    plain, truth = gradients(torch.float32), gradients(torch.float64)
    assert_in_budget(found[0], plain[0], truth[0])
    assert_in_budget(*(together(tables[1 : 3 + biased]) for tables in (found, plain, truth)))


def cascade(n: int, depth: int = 2, rows: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tables = [1 + data(depth, n, seed=seed) / 4 for seed in (1, 2, 3)]
    return data(rows, n), tables[0], tables[1], tables[2], seeded.permutations(0, 10, depth - 1, n)


def test_the_operators_keep_torchs_rules() -> None:
    x, a, d, bias, permutation = (t.requires_grad_(t.is_floating_point()) for t in cascade(16))
    torch.library.opcheck(torch.ops.compressor_kernels.dct.default, (x, False))
    torch.library.opcheck(torch.ops.compressor_kernels.acdc.default, (x, a, d, bias, permutation, 12, True, False))
    torch.library.opcheck(torch.ops.compressor_kernels.acdc.default, (x, a[1:], d, None, None, 16, False, False))
    torch.library.opcheck(torch.ops.compressor_kernels.acdc.default, (x, a, d, bias, permutation, 12, True, True))
    detached = tuple(t.detach() for t in (x, x, a, d, bias, permutation))
    for separable in (False, True):
        torch.library.opcheck(torch.ops.compressor_kernels.acdc_backward.default, (*detached, True, separable))


@pytest.mark.parametrize(("n", "separable"), [(16, False), (16, True), (137, False)])
def test_a_gradient_of_dispatch_is_that_of_plain_torch(n: int, separable: bool) -> None:
    def gradients(call: Callable[..., Tensor]) -> list[Tensor]:
        *leaves, permutation = cascade(n)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        call(*leaves, permutation, n - 3, relu=True, separable=separable).square().sum().backward()
        return [leaf.grad for leaf in leaves]

    torch.testing.assert_close(gradients(dispatch.acdc), gradients(reference.acdc))


def test_a_gradient_has_a_gradient() -> None:
    *tables, permutation = cascade(16)

    def curvature(call: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        x, a, d, bias = (table.to(dtype) for table in tables)
        x.requires_grad_()
        y = call(x, a, d, bias, permutation, 16, relu=True, separable=False)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    truth = curvature(reference.acdc, torch.float64)
    assert_in_budget(curvature(dispatch.acdc, torch.float32), curvature(reference.acdc, torch.float32), truth)


def test_a_layer_compiles_into_one_graph_with_the_operator_in_it() -> None:
    layer = method("acdc").layer(16, 16, bias=True, depth=2)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    x = data(5, 16)
    torch.testing.assert_close(compiled(x), layer(x))
    assert any("compressor_kernels.acdc" in target for target in seen)


def test_an_exported_program_needs_nothing_of_ours() -> None:
    layer = method("acdc").layer(16, 16, bias=True, depth=2)
    program = torch.export.export(layer, (data(5, 16),))
    assert "compressor_kernels" not in str(program.graph)


LAYERS = [
    ("acdc", {"depth": 2, "relu": True}),
    ("acdc", {"depth": 2, "basis": "dct2d", "size": 24}),
    ("acdc", {"depth": 3, "permutation": "block"}),
    ("fastfood", {}),
    ("monarch", {}),
    ("pruned", {"density": 0.3}),
]


@pytest.mark.parametrize(("name", "settings"), LAYERS)
def test_where_new_tensors_would_lie_and_of_what_kind_they_would_be_does_not_matter(name: str, settings: dict) -> None:
    layer, x = method(name).layer(16, 20, bias=True, **settings), data(5, 16)

    def results() -> list[Tensor]:
        with torch.no_grad():
            plain = [layer(x), layer(x)]  # the second is known by then
        return [*plain, *torch.autograd.grad(layer(x).square().sum(), [*layer.parameters()])]

    wanted, kind = results(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = results()
    finally:
        torch.set_default_dtype(kind)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("name", "settings"), LAYERS)
def test_a_layer_is_trained_in_one_compiled_graph_and_exported_without_ours(name: str, settings: dict) -> None:
    layer = method(name).layer(16, 20, bias=True, **settings)
    x = data(5, 16).requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)

    def gradients(call: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(call(x).square().sum(), [x, *layer.parameters()])

    torch.testing.assert_close(gradients(compiled), gradients(layer))
    program = torch.export.export(layer.eval(), (x.detach(),))
    assert "compressor_kernels" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("x", [data(3, 32)[:, ::2], data(16, 3).T, data(2, 3, 16)[:, 1:], data(0, 16), data(16)])
def test_any_layout_of_the_input_gives_the_same(x: Tensor) -> None:
    _, a, d, bias, permutation = cascade(16)
    torch.testing.assert_close(
        dispatch.acdc(x, a, d, bias, permutation, 16), reference.acdc(x, a, d, bias, permutation, 16, False, False)
    )
    torch.testing.assert_close(dispatch.dct(x), reference.dct(x))


def test_double_precision_and_lengths_without_a_transform_take_plain_torch() -> None:
    assert dispatch.path(data(2, 16)).split()[0] in ("sse4", "avx2", "avx512", "neon", "wide")
    for x in (data(2, 16).double(), data(2, 15), data(2, 22)):
        assert dispatch.path(x) == "reference (cpu)"
    assert dispatch.path(data(2, 800), "acdc2d") == "reference (cpu)"  # 25 x 32
    for rows, way in ((1, "a row across lanes"), (64, "rows on lanes")):
        assert dispatch.path(data(rows, 1024), "acdc2d").split(", ")[2:] == [way]


def test_a_cascade_called_again_sees_changed_numbers_and_other_tables() -> None:
    x, a, d, bias, permutation = cascade(16, rows=20)

    def check(a: Tensor, d: Tensor, bias: Tensor | None, permutation: Tensor) -> None:
        wide = (x.double(), a.double(), d.double(), None if bias is None else bias.double(), permutation)
        truth = reference.acdc(*wide, 16, True, False)
        plain = reference.acdc(x, a, d, bias, permutation, 16, True, False)
        for _ in range(3):  # the first call describes the tables to the library, the next ones find that
            assert_in_budget(dispatch.acdc(x, a, d, bias, permutation, 16, relu=True), plain, truth)

    with torch.no_grad():
        check(a, d, bias, permutation)
        d.mul_(2)
        check(a, d, bias, permutation)
        check(a + 1, d, bias, permutation)
        check(a, d, bias, permutation)
        check(a[:1].expand_as(a), d, bias, permutation)  # the same address
        check(a, d, None, permutation)
        check(a, d, bias, permutation.int().flip(1))
        check(a, d, bias, permutation)
        d.data = d.data * 3  # another memory for the same tensor
        check(a, d, bias, permutation)
        x = x.double()
        a.data, d.data, bias.data = a.data.double(), d.data.double(), bias.data.double()
        check(a, d, bias, permutation)


def test_a_description_of_tables_lives_no_longer_than_they() -> None:
    x, a, d, bias, permutation = cascade(16)
    with torch.no_grad():
        dispatch.acdc(x, a, d, bias, permutation, 16)
    key = id(d)
    assert key in quick._known
    del a
    gc.collect()
    assert key not in quick._known


def test_a_known_cascade_is_traced_and_differentiated_all_the_same() -> None:
    layer, x = method("acdc").layer(16, 16, bias=True, depth=2), data(5, 16)
    with torch.no_grad():
        y = layer(x), layer(x)
        assert quick._known
        assert "compressor_kernels" not in str(torch.export.export(layer, (x,)).graph)
        torch.testing.assert_close(y[0], y[1])
    assert layer(x).requires_grad


@pytest.mark.parametrize(
    ("name", "settings"),
    [("acdc", {}), ("fastfood", {}), ("fastfood", {"features": "rbf"}), ("monarch", {}), ("pruned", {})],
)
def test_gradients_have_gradients_as_in_plain_torch(
    name: str, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, x = method(name).layer(16, 16, bias=True, **settings), data(3, 16).requires_grad_()
    tensors = [x, *layer.parameters()]

    def of_a_penalty() -> list[Tensor]:
        first = torch.autograd.grad(layer(x).tanh().sum(), tensors, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))

    found = of_a_penalty()
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    for mine, plain in zip(found, of_a_penalty(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("name", "key"), [("acdc", "a"), ("fastfood", "G"), ("monarch", "first"), ("pruned", "values")]
)
def test_parameters_that_are_more_than_a_tensor_go_through_torch(name: str, key: str, grad: bool) -> None:
    torch.manual_seed(0)
    layer, x = method(name).layer(16, 16, bias=True), data(3, 16)
    y = layer(x).detach()
    table = getattr(layer, key).detach()
    setattr(layer, key, torch.nn.Parameter(TwoTensor(table, 2 * table)))
    with torch.set_grad_enabled(grad):
        both = layer(x)
    torch.testing.assert_close(both.a, y)
    assert not torch.allclose(both.b, y)


@pytest.mark.parametrize("what", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("name", "settings", "n"),
    [("acdc", {"depth": 3, "basis": "dct"}, n) for n in (2, 6, 16, 50, 90, 96, 250, 800)]
    + [("acdc", {"depth": 3, "basis": "dct2d"}, n) for n in (36, 64, 100, 900)]
    + [(name, {}, 64) for name in ("fastfood", "monarch", "pruned")],
)
def test_what_is_not_a_number_stays_in_its_row(name: str, settings: dict, n: int, what: float) -> None:
    layer = method(name).layer(n, n, bias=True, **settings)
    x, grad = data(24, n), data(24, n, seed=1)
    spoilt = [x.clone(), grad.clone()]
    for table in spoilt:
        table[1, 0] = what

    def results(x: Tensor, grad: Tensor) -> list[Tensor]:
        x.requires_grad_()
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, [x], grad)]

    others = torch.arange(24) != 1
    for inputs in ((spoilt[0], grad), (x, spoilt[1])):
        found = results(*(table.clone() for table in inputs))
        torch.testing.assert_close(
            [y[others] for y in found], [y[others] for y in results(x.clone(), grad)], rtol=0, atol=0
        )
        assert any(not y[1].isfinite().all() for y in found)
