"""What every method promises, checked over the registry: a new method needs no test of its own for this."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from compressor.layers import Metric, StructuredLayer, build, lbfgs, methods, solve

SIZES = [(5, 3), (7, 13), (17, 17), (16, 64), (30, 4), (1, 1), (70, 3)]
SETTINGS = [
    (name, {**entry.settings, **example})
    for name, entry in methods().items()
    for example in (entry.layer.examples() if name == entry.layer.method else [{}])
]

LINEAR = [
    (name, settings)
    for name, settings in SETTINGS
    if build(name, 5, 3, bias=True, config={**methods()[name].settings, **settings}).is_linear
]


def over(pairs: list[tuple[str, dict[str, Any]]]) -> pytest.MarkDecorator:
    """Every method with every example of its settings; all but the first of each are slow together."""
    seen: set[str] = set()
    cases = []
    for name, settings in pairs:
        again = name in seen
        seen.add(name)
        label = f"{name}-{','.join(f'{key}={value}' for key, value in settings.items())}"
        cases.append(pytest.param(name, settings, id=label, marks=[pytest.mark.slow] if again else []))
    return pytest.mark.parametrize(("name", "settings"), cases)


over_settings = over(SETTINGS)
over_sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}to{size[1]}")


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promised holds long before the last iteration."""
    monkeypatch.setattr(lbfgs, "MOST_EVALUATIONS", 40)
    monkeypatch.setattr(solve, "_STEPS", 150)


def layer_of(name: str, settings: dict[str, Any], size: tuple[int, int], *, bias: bool = True) -> StructuredLayer:
    """A layer in float64 with every parameter away from zero, so that no gradient hides."""
    layer = build(name, *size, bias=bias, config={**methods()[name].settings, **settings}).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return layer


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def metric_of(width: int) -> Metric:
    x = rows(width + 5, width) * torch.linspace(1, 0.1, width, dtype=torch.float64) + 0.5
    centred = x - x.mean(0)
    return Metric(centred.T @ centred / len(x), x.mean(0))


@over_sizes
@over_settings
def test_forward_is_the_dense_map_it_says_and_keeps_any_leading_shape(name, settings, size) -> None:
    layer = layer_of(name, settings, size)
    x = rows(2, 3, size[0])
    y = layer(x)
    assert y.shape == (2, 3, size[1])
    torch.testing.assert_close(layer(x.transpose(0, 1)), y.transpose(0, 1))  # not contiguous
    assert layer(x[:0]).shape == (0, 3, size[1])
    for wrong in (size[0] - 1, size[0] + 1):
        with pytest.raises(ValueError, match=f"of {size[0]} inputs was given"):
            layer(rows(2, wrong))
    if layer.is_linear:
        weight, bias = layer.dense()
        torch.testing.assert_close(y, nn.functional.linear(x, weight, bias), rtol=1e-10, atol=1e-10)
    else:
        with pytest.raises(ValueError, match="no dense equivalent"):
            layer.dense()


@over_settings
def test_a_parameter_that_something_else_computes_is_the_one_that_counts(name, settings) -> None:
    layer, x = layer_of(name, settings, (16, 13)), rows(2, 16)
    y = layer(x)
    for key, _ in list(layer.named_parameters()):
        owner, _, own = key.rpartition(".")
        prune.identity(layer.get_submodule(owner), own)  # an attribute, the product of a parameter and a buffer of ones
    torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize("size", [(16, 13), (70, 3)])
@over_settings
def test_torch_func_looks_into_it(name, settings, size) -> None:
    layer, x = layer_of(name, settings, size), rows(3, size[0])
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))
    wanted = torch.autograd.functional.jacobian(layer, x[0])
    torch.testing.assert_close(torch.func.jacrev(layer)(x[0]), wanted)
    if name.split("-")[0] != "phd":  # torch's embedding bag has no forward mode
        torch.testing.assert_close(torch.func.jacfwd(layer)(x[0]), wanted)


@pytest.mark.parametrize("size", [(5, 3), (7, 13), (70, 2)])
@over_settings
def test_gradients_of_the_input_and_every_parameter_are_right(name, settings, size) -> None:
    layer = layer_of(name, settings, size)
    names = [key for key, _ in layer.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = tuple(parameter.detach().clone().requires_grad_() for parameter in layer.parameters())
    assert torch.autograd.gradcheck(call, (rows(2, size[0]).requires_grad_(), *values), fast_mode=True)


@over_sizes
@over_settings
def test_parameters_are_counted_alike_on_meta_and_without_bias_fewer(name, settings, size) -> None:
    layer = layer_of(name, settings, size)
    with torch.device("meta"):
        entry = methods()[name]
        config = entry.config(settings)
        meta = entry.layer(*size, config=config)
        bare = entry.layer(*size, bias=False, config=config)
    stored = sum(values.numel() for values in layer.state_dict().values())
    assert layer.params() == meta.params() == stored + layer.seeds
    kept = {key for key, _ in layer.named_parameters()} | set(layer.state_dict())
    assert layer.state_dict().keys() == kept  # every parameter is stored
    assert bare.params() < layer.params()
    assert all(bare.kind(key) != "bias" for key, _ in bare.named_parameters())
    assert meta.macs() == layer.macs() > 0
    assert meta(torch.empty(2, size[0], device="meta")).shape == (2, size[1])


@over_settings
def test_without_bias_zero_goes_to_what_its_features_say_alone(name, settings) -> None:
    layer = layer_of(name, settings, (7, 13), bias=False)
    assert not layer.has_bias
    if layer.is_linear:
        torch.testing.assert_close(layer(torch.zeros(1, 7).double()), torch.zeros(1, 13).double())
        assert layer.dense()[1] is None


@over_sizes
@over_settings
def test_manifest_data_and_state_rebuild_the_layer(name, settings, size) -> None:
    layer = layer_of(name, settings, size)
    config = json.loads(json.dumps(layer.config.model_dump(mode="json")))
    again = build(layer.method, *size, bias=True, config=config).double()
    again.load_state_dict(layer.state_dict())
    x = rows(3, size[0])
    assert torch.equal(again(x), layer(x))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "bare"])
@pytest.mark.parametrize("size", [(5, 3), (7, 13)])
@over(LINEAR)
def test_from_dense_is_closer_than_the_zero_map_and_right_for_the_mean(name, settings, size, bias) -> None:
    entry = methods()[name]
    weight, offset = rows(size[1], size[0]), rows(size[1]) if bias else None
    metric = metric_of(size[0])
    if not bias:
        metric = Metric(metric.covariance + torch.outer(metric.mean, metric.mean), torch.zeros(size[0]).double())
    layer = entry.layer.from_dense(weight, offset, entry.config(settings), metric)
    assert layer.has_bias == bias
    with torch.no_grad():
        fitted, given = layer.dense()
    assert metric.relative_error(weight, fitted) < 0.97
    if offset is not None and given is not None:
        torch.testing.assert_close(fitted @ metric.mean + given, weight @ metric.mean + offset)
    again = build(layer.method, *size, bias=bias, config=layer.config.model_dump(mode="json"))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


@pytest.mark.parametrize("size", [(8, 8), (6, 11), (13, 5)])
@over(LINEAR)
def test_fit_uses_the_metric_and_beats_its_own_random_start_in_it(name, settings, size, monkeypatch) -> None:
    monkeypatch.setattr(lbfgs, "MOST_EVALUATIONS", 200)
    entry = methods()[name]
    config, metric, weight = entry.config(settings), metric_of(size[0]), rows(size[1], size[0])
    start = entry.layer(*size, bias=False, config=config).double()
    aware, plain = (entry.layer.from_dense(weight, None, config, m) for m in (metric, Metric.identity(size[0])))
    with torch.no_grad():
        errors = [metric.relative_error(weight, layer.dense()[0]) for layer in (aware, plain, start)]
    assert errors[0] < errors[2]
    if config.uses_metric and start.is_sized and errors[1] > 3e-2:  # below, both are on their way to an exact map
        assert errors[0] < errors[1] * 0.999


@pytest.mark.parametrize("size", [(12, 12), (5, 13), (15, 7)])
@over(LINEAR)
def test_an_exact_fit_finds_a_map_that_the_layer_can_hold(name, settings, size) -> None:
    entry, metric = methods()[name], metric_of(size[0])
    layer = entry.layer.from_dense(rows(size[1], size[0]), rows(size[1]), entry.config(settings), metric)
    if not layer.is_exact:
        return
    with torch.no_grad():
        weight, offset = layer.dense()
        again = entry.layer.from_dense(weight, offset, layer.config, metric)
        assert metric.relative_error(weight, again.dense()[0]) < 1e-6


@over(LINEAR)
def test_from_dense_gives_the_same_twice_and_survives_a_zero_weight(name, settings) -> None:
    entry, metric = methods()[name], metric_of(7)
    one, two = (entry.layer.from_dense(rows(13, 7), None, entry.config(settings), metric) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    nothing = entry.layer.from_dense(torch.zeros(13, 7), torch.ones(13), entry.config(settings), metric)
    torch.testing.assert_close(nothing(torch.randn(2, 7)), torch.ones(2, 13))


@over_settings
def test_fit_on_samples_improves_and_reports_the_error_it_reached(name, settings) -> None:
    layer = layer_of(name, settings, (12, 5)).float()
    x = rows(600, 12).float()
    y = torch.relu(x @ rows(12, 5).float() + 0.3)
    scale = (y - y.mean(0)).norm()
    with torch.no_grad():
        before = float((layer(x) - y).norm() / scale)
    error = layer.fit_samples(x, y)
    with torch.no_grad():
        after = float((layer(x) - y).norm() / scale)
    assert error == pytest.approx(after, rel=1e-4)
    assert after < min(before, 0.9)


def stored(entry: Any, config: Any) -> int:
    """What a finished layer 40 -> 24 of ``config`` stores; where only the weights tell, of one fitted to some."""
    with torch.device("meta"):
        layer = entry.layer(40, 24, config=config)
    if layer.is_sized:
        return layer.params()
    return entry.layer.from_dense(rows(24, 40), rows(24), config, metric_of(40)).finished().params()


@over_settings
def test_budget_is_used_but_never_exceeded(name, settings) -> None:
    entry = methods()[name]
    smallest = entry.layer.config_for_params(40, 24, True, 1, entry.config(settings))
    least = stored(entry, smallest)
    for budget in (least, least + 150, 3 * least):
        config = entry.layer.config_for_params(40, 24, True, budget, entry.config(settings))
        assert stored(entry, config) <= budget
    assert stored(entry, config) > least


@pytest.mark.parametrize("size", [(7, 13), (70, 3)])
@over_settings
def test_exported_program_is_the_layer_for_any_number_of_rows(name, settings, size) -> None:
    layer = layer_of(name, settings, size).float().eval()
    x = rows(5, size[0]).float()
    dynamic = ({0: torch.export.Dim("rows", min=1)},)
    program = torch.export.export(layer, (x[:3],), dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for count in (1, 3, 5):
        torch.testing.assert_close(again(x[:count]), layer(x[:count]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the kernels' operators, and plain torch
@over_settings
def test_compiled_for_any_number_of_rows_it_has_the_values_and_gradients_of_the_layer(name, settings, dtype) -> None:
    layer = layer_of(name, settings, (70, 24)).to(dtype)
    compiled = torch.compile(layer, backend="aot_eager", dynamic=True, fullgraph=True)
    for count in (3, 5):
        results = []
        for module in (layer, compiled):
            x = rows(count, 70).to(dtype).requires_grad_()
            y = module(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()], allow_unused=True)))
        torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
