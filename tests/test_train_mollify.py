"""Mollifying: the activation and the skip at both ends of the level, and the schedule between."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.errors import CompressorError
from compressor.train import Mollification, Mollified, Skipped

X = torch.linspace(-5, 5, 137)
SETTLED = {"sigmoid": lambda x: x.sigmoid() - 0.5, "tanh": torch.tanh, "relu": torch.relu}
SLOPE = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0}


@pytest.mark.parametrize("function", list(SETTLED))
def test_the_activation_is_itself_at_0_and_a_line_under_much_noise(function: str) -> None:
    activation = Mollified(function, c=1e12)
    activation.p = 0.0
    torch.testing.assert_close(activation(X), SETTLED[function](X))
    activation.p = 1.0
    torch.testing.assert_close(activation.eval()(X), SLOPE[function] * X, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", list(SETTLED))
def test_under_some_noise_it_lies_between_the_two(function: str) -> None:
    torch.manual_seed(0)
    activation = Mollified(function, c=100.0)
    with torch.no_grad():
        activation.a.fill_(2.0)
    activation.p = 0.5
    y, f, u = activation(X), SETTLED[function](X), SLOPE[function] * X
    low, high = torch.minimum(f, u) - 1e-6, torch.maximum(f, u) + 1e-6
    assert ((y >= low) & (y <= high)).all()
    assert bool((y - f).abs().max() > 1e-3)
    assert bool((y - u).abs().max() > 1e-3)


@pytest.mark.parametrize("width", [3, 5, 8])
def test_as_many_units_are_skipped_as_the_level_says(width: int) -> None:
    torch.manual_seed(0)
    layer = Skipped(nn.Linear(5, width))
    x = torch.randn(4000, 5)
    own, passed = layer.layer(x), nn.functional.pad(x, (0, width - 5))
    layer.p = 0.3
    y = layer(x)
    skipped = y == passed
    assert bool((skipped | (y == own)).all())
    assert float(skipped.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert len(skipped.float().mean(1).unique()) > 2  # each unit for itself
    torch.testing.assert_close(layer.eval()(x), 0.3 * passed + 0.7 * own)
    layer.p = 0.0
    torch.testing.assert_close(layer.train()(x), own)


def test_the_levels_follow_the_loss_and_lower_layers_settle_first() -> None:
    model = nn.Sequential(*[Skipped(nn.Sequential(nn.Linear(4, 4), Mollified())) for _ in range(3)])
    schedule = Mollification(model, k=10.0, memory=0.5)
    assert schedule.levels == [1, 1, 1]
    schedule.step(2.0)
    schedule.step(1.0)  # v = 1.5, t = 2
    assert schedule.levels == pytest.approx([1 - math.exp(-10 * 1.5 * layer / (2 * 3)) for layer in (1, 2, 3)])
    assert model[2].layer[1].p == schedule.levels[2]
    high = schedule.levels
    for _ in range(4):
        schedule.step(0.3)
    assert all(now < before for now, before in zip(schedule.levels, high, strict=True))
    assert not schedule.is_settled
    for _ in range(400):
        schedule.step(0.001)
    assert schedule.is_settled
    assert schedule.levels == [0, 0, 0]
    schedule.step(100.0)
    assert schedule.levels == [0, 0, 0]


def test_an_activation_outside_of_a_layer_is_settled_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Mollified("tanh"), Skipped(nn.Sequential(nn.Linear(4, 4), Mollified())))
    schedule = Mollification(model, k=10.0)
    schedule.step(1.0)
    assert schedule.levels == [model[1].p, model[2].p] == pytest.approx([1 - math.exp(-5), 1 - math.exp(-10)])
    assert model[2].layer[1].p == model[2].p
    schedule.finish()
    assert schedule.levels == [0, 0]


def test_a_network_that_is_loaded_is_what_was_saved() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(*(Skipped(nn.Sequential(nn.Linear(4, 4), Mollified())) for _ in range(2)))

    model, loaded = network(), network()
    schedule = Mollification(model, k=2.0)
    x = torch.randn(7, 4)
    schedule.step(1.0)
    for _ in range(2):
        loaded.load_state_dict(model.state_dict())
        torch.testing.assert_close(loaded.eval()(x), model.eval()(x))
        schedule.finish()


NET = """
from torch import nn
from compressor.train import Mollified, Skipped

def net():
    return nn.Sequential(Skipped(nn.Sequential(nn.Linear(20, 20), Mollified("tanh"))), nn.Linear(20, 3))
"""


def test_a_job_writes_a_mollified_network_that_loads_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET)
    names: dict[str, Callable[[], nn.Module]] = {}
    exec(NET, names)
    model, x = names["net"](), torch.randn(80, 20)
    Mollification(model, k=1.0).step(1.0)
    result = compressor.compress(model.eval(), "svd", data=x, epochs=1, settings={"rank": 4})
    result.save(tmp_path / "out")
    torch.testing.assert_close(compressor.load(tmp_path / "out")(x), result.model(x))
    torch.testing.assert_close(
        compressor.load(tmp_path / "out", arch=f"{tmp_path / 'nets.py'}:net")(x), result.model(x)
    )


def test_a_loss_that_is_a_tensor_is_not_kept_with_its_graph() -> None:
    schedule = Mollification(nn.Sequential(Skipped(nn.Linear(2, 2))))
    weight = nn.Parameter(torch.tensor(1.5))
    schedule.step(2 * weight)
    assert schedule.loss == 3
    assert type(schedule.loss) is float


@pytest.mark.parametrize("loss", [math.nan, math.inf, -0.5])
def test_a_loss_that_levels_cannot_follow_is_refused_and_not_counted(loss: float) -> None:
    schedule = Mollification(nn.Sequential(Skipped(nn.Linear(2, 2))))
    schedule.step(1.0)
    before = schedule.state_dict()
    with pytest.raises(ValueError, match=f"finite and not negative.*not {loss}"):
        schedule.step(loss)
    assert schedule.state_dict() == before


@pytest.mark.parametrize("function", list(SETTLED))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_the_output_has_the_type_of_the_input(function: str, dtype: torch.dtype, training: bool) -> None:
    layer = Skipped(nn.Sequential(nn.Linear(4, 5, dtype=dtype), Mollified(function))).train(training)
    for p in (1.0, 0.3, 0.0):
        layer.p = layer.layer[1].p = p
        assert layer(torch.randn(7, 4, dtype=dtype)).dtype == dtype


def test_few_units_are_skipped_at_a_small_level_in_half_precision_too() -> None:
    torch.manual_seed(0)
    layer = Skipped(nn.Threshold(2.0, 0.0))
    layer.p = 1e-3
    passed = layer(torch.ones(1000, 1000, dtype=torch.bfloat16))
    assert float(passed.float().mean()) == pytest.approx(1e-3, rel=0.2)  # six standard deviations


def test_a_skip_of_another_shape_is_refused() -> None:
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"gives \(2, 3, 8, 8\), the skip \(2, 1, 8, 8\); give a skip"):
        Skipped(nn.Conv2d(1, 3, 3, padding=1))(x)
    assert Skipped(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 1))(x).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("p", [1.0, 0.3, 0.0])
def test_the_exported_network_is_deterministic_and_the_same(p: float) -> None:
    torch.manual_seed(0)
    layer = Skipped(nn.Sequential(nn.Linear(4, 5), Mollified("tanh"), nn.Linear(5, 3), Mollified("relu"))).eval()
    layer.p = layer.layer[1].p = layer.layer[3].p = p
    x = 3 * torch.randn(7, 4)
    file = torch.onnx.export(layer, (x,), dynamo=True, verbose=False).model_proto
    assert not [node.op_type for node in file.graph.node if "Random" in node.op_type]
    (y,) = onnxruntime.InferenceSession(file.SerializeToString()).run(None, {file.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), layer(x))


def test_compiled_it_is_the_same_and_levels_that_fall_compile_it_three_times_at_most() -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _example: object) -> Callable[..., Tensor]:
        graphs.append(graph)
        return graph.forward

    model = nn.Sequential(Skipped(nn.Sequential(nn.Linear(4, 4), Mollified("tanh"))))
    schedule = Mollification(model, k=3.0, threshold=0.4)
    compiled = torch.compile(model, backend=count, fullgraph=True)
    while True:
        x = torch.randn(7, 4)
        with torch.random.fork_rng():
            y = model(x)
        torch.testing.assert_close(compiled(x), y)
        if schedule.is_settled:
            break
        schedule.step(1.0)
    assert schedule.t > 4
    assert len(graphs) <= 3  # with p, with p as an input, and without


def test_bad_requests_are_refused() -> None:
    with pytest.raises(CompressorError, match="no layer to mollify"):
        Mollification(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(CompressorError, match="did you mean 'sigmoid'"):
        Mollified("sigmoids")
    for wrong in ({"k": -1.0}, {"k": math.nan}, {"memory": 1.0}, {"threshold": -0.1}):
        with pytest.raises(ValueError, match="k and threshold must be finite"):
            Mollification(nn.Sequential(Skipped(nn.Linear(2, 2))), **wrong)
    for wrong in ({"c": -1.0}, {"units": 0}):
        with pytest.raises(ValueError, match="c must be finite"):
            Mollified(**wrong)
