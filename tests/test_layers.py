"""What is particular to each method: its transform, its published counts, its optimum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compressor.errors import CompressorError
from compressor.layers import Metric, StructuredLayer, lbfgs, method, seeded, solve
from compressor_kernels import dispatch, reference

SIZES = [1, 2, 3, 10, 63, 64, 65, 66, 97, 137, 800]

EXPECTED = {
    "permutation": [[1, 4, 3, 2, 6, 5, 0, 7]],
    "signs": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0],
    "normals": [0.9520076290540728, 1.1130300002191997, 2.5905257108935436],
    "blocks": [[5, 4, 3, 2, 1, 0, 6, 7]],
}


def on_meta(name: str, size: tuple[int, int], *, bias: bool = False, **settings: object) -> StructuredLayer:
    with torch.device("meta"):
        return method(name).layer(*size, bias=bias, config=method(name).config(settings))


def cosines(n: int) -> torch.Tensor:
    """The orthonormal DCT-II as its formula says, entry by entry."""
    return torch.tensor(
        [
            [
                math.sqrt(2 / n) * (math.sqrt(0.5) if k == 0 else 1.0) * math.cos(math.pi * (2 * i + 1) * k / (2 * n))
                for k in range(n)
            ]
            for i in range(n)
        ],
        dtype=torch.float64,
    )


def data(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("n", SIZES)
def test_cosine_transforms_are_the_matrix_of_the_formula_and_its_transpose(n: int) -> None:
    x, c = data(3, n), cosines(n)
    torch.testing.assert_close(dispatch.dct(x), x @ c)
    torch.testing.assert_close(dispatch.idct(x), x @ c.T)
    torch.testing.assert_close(reference.dct_matrix(n), c)
    torch.testing.assert_close(dispatch.idct(dispatch.dct(x[:, None])), x[:, None])
    assert dispatch.dct(x[:0]).shape == dispatch.idct(x[:0]).shape == (0, n)
    half = dispatch.dct(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), x @ c, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("n", SIZES)
def test_single_precision_transforms_err_less_than_a_matmul_of_the_length(n: int) -> None:
    x, c = data(16, n), cosines(n)
    truth = x @ c
    by_matmul = (x.float() @ c.float() - truth).norm()
    assert (dispatch.dct(x.float()) - truth).norm() <= 2 * by_matmul + 1e-7 * truth.norm()


@pytest.mark.parametrize("n", [1, 6, 12, 35, 97, 144, 800])
def test_separable_transform_is_the_kronecker_product_of_the_most_square_split(n: int) -> None:
    n1, n2 = reference.split(n)
    assert n1 * n2 == n
    assert n1 <= n2
    c, x = torch.kron(cosines(n1), cosines(n2)), data(2, n)
    torch.testing.assert_close(dispatch.dct2d(x), x @ c)
    torch.testing.assert_close(dispatch.idct2d(x), x @ c.T)


@pytest.mark.parametrize("bits", range(12))
def test_walsh_hadamard_is_the_natural_order_recursion(bits: int) -> None:
    h = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(bits):
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    x = data(3, 2**bits)
    torch.testing.assert_close(dispatch.fwht(x[:, None])[:, 0], x @ h)


def test_walsh_hadamard_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="power of two, not 12"):
        dispatch.fwht(torch.zeros(12))


@pytest.mark.parametrize(("basis", "size"), [("dct", 10), ("dct2d", 12)])
def test_acdc_is_its_formula(basis: str, size: int) -> None:
    layer = method("acdc").layer(9, 4, depth=2, basis=basis, size=size, seed=4).double()
    with torch.no_grad():
        layer.beta.copy_(data(2, size))
    c = cosines(size) if basis == "dct" else torch.kron(cosines(3), cosines(4))
    x = data(5, 9)
    h = nn.functional.pad(x, (0, size - 9))
    for k in range(2):
        h = h[:, layer.permutation[0].long()] if k else h
        h = ((h * layer.a[k]) @ c * layer.d[k] + layer.beta[k]) @ c.T
    torch.testing.assert_close(layer(x), h[:, :4])


def test_acdc_with_relu_clips_between_neighbours_only() -> None:
    layer = method("acdc").layer(6, 6, depth=2, relu=True, permutation="none", bias=False, sigma=0.0).double()
    x = data(5, 6)
    torch.testing.assert_close(layer(x), x.relu())
    layer.d.data[1] *= -1
    torch.testing.assert_close(layer(x), -x.relu())


def test_acdc_permutes_by_blocks_of_eight_where_asked() -> None:
    order = method("acdc").layer(60, 72, depth=3, permutation="block").permutation.long()
    assert order.shape == (2, 72)
    assert (order.reshape(2, 9, 8) // 8).unique(dim=2).shape == (2, 9, 1)
    assert not torch.equal(order[0], order[1])


def test_acdc_with_scattered_ends_takes_inputs_and_outputs_at_places_of_their_own_and_scales_them() -> None:
    layer = method("acdc").layer(5, 3, depth=1, ends="scatter", first="fixed", permutation="none", bias=False).double()
    assert layer.params() == 6 + 3 + 1  # d, scale, seed
    with torch.no_grad():
        layer.d.copy_(torch.linspace(0.5, 2, 6))
        layer.scale.copy_(torch.tensor([2.0, -1.0, 3.0]))
    entry, leave = layer.ends.long()
    c = cosines(6)
    inner = c @ torch.diag(layer.d[0].detach()) @ c.T  # rows in, columns out
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for i in range(5):
        for j in range(3):
            expected[i, j] = inner[entry.tolist().index(i), leave[j]] * layer.scale[j].detach()
    torch.testing.assert_close(layer(torch.eye(5).double()), expected)
    assert not torch.equal(entry, leave)


@pytest.mark.parametrize(("width", "size"), [((800, 500), 800), ((97, 5), 98), ((11, 1), 12), ((9216, 4096), 9216)])
def test_acdc_runs_at_the_next_even_size_of_small_primes_and_stores_3nk(width: tuple[int, int], size: int) -> None:
    assert on_meta("acdc", width, bias=True, depth=3).params() == 3 * size * 3 + 1
    assert on_meta("acdc", width, bias=True, depth=1).params() == 3 * size
    assert on_meta("acdc", width, bias=False, depth=3, permutation="none").params() == 2 * size * 3


def test_acdc_counts_the_operations_of_the_source() -> None:
    assert on_meta("acdc", (1024, 1024), depth=3).macs() == 3 * (4 * 1024 + 5 * 1024 * 10) // 2
    assert on_meta("acdc", (1024, 1024), depth=3, basis="dct2d").macs() == 3 * (2 * 1024 * 64 + 2 * 1024)


def test_acdc_says_what_size_it_needs() -> None:
    with pytest.raises(CompressorError, match="size=10 is below the layer's width 12; give 12"):
        method("acdc").layer(12, 3, size=10)


def test_acdc_and_fastfood_find_a_map_of_their_own_kind_again() -> None:
    for name, settings in (("acdc", {"depth": 1, "sigma": 0.2}), ("fastfood", {})):
        own = method(name).layer(16, 16, bias=False, **settings)
        with torch.no_grad():
            for parameter in own.parameters():
                parameter *= 1 + 0.2 * data(*(parameter.shape if parameter.ndim == 2 else (1, 16))).reshape_as(
                    parameter
                )
            weight = own.dense()[0]
            again = own.from_dense(weight, None, own.config, Metric.identity(16))
            assert Metric.identity(16).relative_error(weight, again.dense()[0]) < 1e-3


def test_published_counts_of_fastfood_follow_from_the_shapes() -> None:
    def trained(name: str, size: tuple[int, int], **settings: object) -> int:
        return on_meta(name, size, **settings).trained_params()

    assert trained("fastfood", (9216, 1000), features="relu", width=16384) == 16_433_152
    assert trained("fastfood", (9216, 1000), features="relu", width=32768) == 32_866_304
    assert trained("fastfood", (9216, 1000), features="relu", width=32768, readout_rank=600) == 20_359_104
    assert trained("fastfood", (800, 10), features="relu", width=1024) == 13_312
    assert trained("fastfood-random", (800, 10), width=2048) == 20_480
    assert trained("fastfood", (800, 500)) == 2 * 1024 + 500


@pytest.mark.parametrize(("preset", "total"), [("svd-half", 46_588_192), ("svd-quarter", 23_294_096)])
def test_published_counts_of_svd_follow_from_the_shapes(preset: str, total: int) -> None:
    caffenet = [(9216, 4096), (4096, 4096), (4096, 1000)]
    assert sum(on_meta(preset, size).params() for size in caffenet) == total


def test_fastfood_is_its_formula_over_stacked_blocks() -> None:
    layer = method("fastfood").layer(3, 5, terms=2, sigma=0.5, seed=9, bias=False).double()
    h, x = reference.hadamard_matrix(2), data(6, 3)
    padded, products = nn.functional.pad(x, (0, 1)), []
    for m in range(3):  # 10 products in blocks of 4
        shuffled = ((padded * layer.B[m]) @ h)[:, layer.permutation[m].long()]
        products.append((shuffled * layer.G[m]) @ h)
    features = torch.cat(products, 1)[:, :10] * layer.S / (0.5 * 2)
    torch.testing.assert_close(layer(x), features[:, :5] + features[:, 5:])


def test_fastfood_drops_out_at_its_three_places_only_while_training() -> None:
    layer = method("fastfood").layer(8, 8, dropout=0.5, seed=1)
    with torch.no_grad():
        x, plain = torch.ones(40000, 8), method("fastfood").layer(8, 8, seed=1)
        expected = plain(x)
        assert torch.equal(layer.eval()(x), expected)
        torch.manual_seed(0)
        dropped = layer.train()(x)
    assert (dropped == 0).double().mean() == pytest.approx(0.5, abs=0.05)  # after S
    torch.testing.assert_close(dropped.mean(0), expected.mean(0), rtol=0, atol=0.1)  # and scaled up for it
    assert len(dropped.round(decimals=4).unique()) > 100  # and before, where halves of the inputs fell out


def test_random_fastfood_features_approximate_the_rbf_kernel() -> None:
    settings = {"features": "rbf", "adaptive": False, "width": 8192, "sigma": 3.0, "seed": 1}
    layer = method("fastfood").layer(20, 1, **settings).double()
    x = data(12, 20)
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * 3.0**2))
    features = layer.features(x)
    assert (features @ features.T - kernel).abs().max() < 6 / math.sqrt(8192)


def test_random_fastfood_trains_the_read_out_alone() -> None:
    layer = method("fastfood-random").layer(10, 3, config=method("fastfood-random").config())
    assert {name for name, _ in layer.named_parameters()} == {"readout", "bias"}
    assert set(layer.state_dict()) == {"readout", "bias"}


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("fastfood", {"adaptive": False}, "nothing to learn"),
        ("fastfood", {"width": 64}, "linear grows by terms"),
        ("fastfood", {"features": "rbf", "terms": 2}, "grow by width"),
        ("svd", {"rank": 3, "energy": 0.5}, "only one of rank, energy and fraction"),
        ("svd", {"energy": 1.5}, "less than or equal to 1"),
        ("acdc", {"depth": 0}, "greater than or equal to 1"),
        ("acdc", {"dpeth": 2}, "'depth'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(name: str, settings: dict, why: str) -> None:
    with pytest.raises(CompressorError, match=why) as refusal:
        method(name).config(settings)
    assert "\n" not in str(refusal.value)


def test_low_rank_is_optimal_in_the_metric() -> None:
    weight, root = data(9, 12), data(12, 12)
    metric = Metric(root.T @ root / 12, torch.zeros(12, dtype=torch.float64))
    error = {}
    for aware in (True, False):
        config = method("svd").config({"rank": 3, "aware": aware})
        layer = method("svd").layer.from_dense(weight, None, config, metric)
        error[aware] = metric.relative_error(weight, layer.dense()[0].detach())
    tail = torch.linalg.svdvals(weight @ metric.root())
    assert error[True] == pytest.approx(float(tail[3:].norm() / tail.norm()), rel=1e-6)
    assert error[True] < error[False]
    for seed in range(20):
        near = torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        basis = torch.linalg.qr(near[:, :3])[0]
        assert metric.relative_error(weight, basis @ basis.T @ weight) >= error[True]


def test_low_rank_survives_directions_that_are_never_seen() -> None:
    weight, seen = data(9, 12), torch.zeros(12, 12, dtype=torch.float64)
    seen[0, 0] = seen[1, 1] = 1.0
    metric = Metric(seen, torch.zeros(12, dtype=torch.float64))
    layer = method("svd").layer.from_dense(weight, None, method("svd").config({"rank": 4}), metric)
    assert metric.relative_error(weight, layer.dense()[0].detach()) < 1e-6
    torch.testing.assert_close(layer.dense()[0][:, :2].detach(), weight[:, :2])


def test_energy_becomes_the_smallest_rank_that_holds_it() -> None:
    weight = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64))
    for energy, rank in ((0.5, 1), (0.9, 2), (0.99, 4), (1.0, 4)):
        config = method("svd").config({"energy": energy})
        layer = method("svd").layer.from_dense(weight, None, config, Metric.identity(4))
        assert layer.config.rank == len(layer.down) == rank
        assert layer.config.energy is None
    config = method("svd").config({"energy": 0.5})
    assert (
        method("svd")
        .layer.from_dense(torch.diag(torch.tensor([2.0, 2.0])), None, config, Metric.identity(2))
        .config.rank
        == 1
    )


def test_rank_above_the_full_one_is_padded_with_zeros_and_exact() -> None:
    layer = method("svd").layer.from_dense(data(3, 5), None, method("svd").config({"rank": 7}), Metric.identity(5))
    torch.testing.assert_close(layer.dense()[0].detach(), data(3, 5))


def test_draws_never_change() -> None:
    assert seeded.permutations(7, 1, 1, 8).tolist() == EXPECTED["permutation"]
    assert seeded.signs(7, 1, (8,)).tolist() == EXPECTED["signs"]
    torch.testing.assert_close(seeded.normals(7, 1, (3,)).tolist(), EXPECTED["normals"])
    assert seeded.block_permutations(7, 1, 1, 8, 3).tolist() == EXPECTED["blocks"]
    big = seeded.chi(0, 1, (20000,), 16)
    assert float(big.square().mean()) == pytest.approx(16, rel=0.02)
    assert float(big.square().var()) == pytest.approx(32, rel=0.05)


@pytest.mark.parametrize(("n", "block"), [(64, 8), (71, 8), (8, 8), (12, 3)])
def test_a_block_permutation_moves_whole_blocks_and_turns_each_around_in_its_own_way(n: int, block: int) -> None:
    order = seeded.block_permutations(0, 12, 50, n, block).long()
    assert torch.equal(order.sort().values, torch.arange(n).expand(50, n))
    whole = n - n % block
    blocks = order[:, :whole].reshape(50, -1, block) // block
    assert torch.equal(blocks, blocks[:, :, :1].expand_as(blocks))
    assert len(order.unique(dim=0)) > 40
    assert len((order[:, :whole].reshape(-1, block) % block).unique(dim=0)) >= 6


def test_whitened_loss_on_a_sketch_is_close_to_the_loss_itself() -> None:
    n = solve._COLUMNS + 200
    metric = Metric.identity(n)
    probes, missed = solve._probes(metric), data(40, n)
    assert len(probes) == solve._COLUMNS
    assert float((probes @ missed.T).square().sum()) == pytest.approx(float(missed.square().sum()), rel=0.05)
    few = Metric(torch.diag((torch.arange(n) < 9).double()), torch.zeros(n).double())
    torch.testing.assert_close(solve._probes(few).T @ solve._probes(few), few.covariance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [None, 2])
def test_read_out_starts_at_the_best_for_the_features_as_they_are(rank: int | None, bias: bool) -> None:
    layer = method("fastfood").layer(6, 4, features="relu", width=9, readout_rank=rank, bias=bias).double()
    x = data(400, 6)
    y = torch.cat((x[:, :3].abs() + 1, x[:, :1] * x[:, 1:2]), 1)
    with torch.no_grad():
        layer._fit_readout(x, y)
        f = layer.features(x)
        missed = float((layer(x) - y).square().sum())
    f, y = (f - f.mean(0), y - y.mean(0)) if bias else (f, y)
    free = f @ torch.linalg.lstsq(f, y).solution
    cut = 0.0 if rank is None else float(torch.linalg.svdvals(free)[rank:].square().sum())
    assert missed == pytest.approx(float((free - y).square().sum()) + cut, rel=1e-4)


def test_wide_and_tall_ridge_solve_the_same_problem() -> None:
    f, y = data(30, 12), data(30, 2)
    for features in (f, f.T @ f @ f.T):  # 30 × 12, 12 × 30
        aim = y[: len(features)]
        damping = 1e-4 * features.square().sum() / features.shape[1]
        normal = features.T @ features + (damping + 1e-12) * torch.eye(features.shape[1], dtype=f.dtype)
        torch.testing.assert_close(solve.ridge(features, aim), torch.linalg.solve(normal, features.T @ aim))


def test_training_on_samples_never_leaves_the_layer_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "_RATE", 10.0)
    monkeypatch.setattr(lbfgs, "LEAST_EVALUATIONS", 10**12)  # without the last step
    layer = method("acdc").layer(6, 6, relu=True)
    x = data(300, 6).float()
    with torch.no_grad():
        y = layer(x) + 0.01 * data(300, 6).float()
        before = float((layer(x) - y).norm() / (y - y.mean(0)).norm())
    assert solve.fit_to_samples(layer, x, y) == pytest.approx(before, rel=1e-4)
    with torch.no_grad():
        assert float((layer(x) - y).norm() / (y - y.mean(0)).norm()) == pytest.approx(before, rel=1e-4)
