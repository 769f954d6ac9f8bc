"""Noisy activations and noise on gradients: the formulas of the source, and what is left of them without training."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.train import Annealing, GradientNoise, NoisyActivation, noisy_
from compressor.train.noise import HARD_SIGMOID, HARD_TANH, Line

KINDS = ["nan", "nah", "nani", "nanil", "nanis"]
OPTIONS = {"c": ("nan", "nah", "nanil"), "alpha": ("nan", "nah"), "sigma": ("nani", "nanis")}
X = torch.linspace(-6, 6, 137)


def of(kind: str, **options: float) -> dict[str, float]:
    """Those of ``options`` that noise of ``kind`` has."""
    return {name: value for name, value in options.items() if kind in OPTIONS[name]}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.ReLU())


@pytest.mark.parametrize("kind", KINDS)
def test_tanh_and_sigmoid_are_swapped_and_nothing_else(kind: str) -> None:
    model = noisy_(network(), kind)
    assert [type(module).__name__ for module in model] == [
        "Linear", "NoisyActivation", "Linear", "NoisyActivation", "Linear", "ReLU",
    ]  # fmt: skip
    assert (model[1].line, model[3].line) == (HARD_TANH, HARD_SIGMOID)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("soft", "hard"),
    [
        (nn.Tanh(), lambda x: x.clamp(-1, 1)),
        (nn.Sigmoid(), lambda x: (x / 4 + 0.5).clamp(0, 1)),
        (nn.Hardsigmoid(), nn.functional.hardsigmoid),
        (nn.Hardtanh(-2, 0.5), lambda x: x.clamp(-2, 0.5)),
    ],
)
def test_without_saturation_the_line_is_untouched_by_noise_at_the_output(
    kind: str, soft: nn.Module, hard: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    activation = noisy_(nn.Sequential(soft), kind, **of(kind, alpha=1.0, c=30.0))[0]
    if activation.p is not None:
        with torch.no_grad():
            activation.p.fill_(1.5)
    y, expected = activation(X), hard(X)
    line = activation.line.slope * X + activation.line.offset
    inside = (line > activation.line.low + 1e-3) & (line < activation.line.high - 1e-3)
    if kind in ("nan", "nah", "nanil", "nanis"):  # nani has noise everywhere
        torch.testing.assert_close(y[inside], expected[inside])
    else:
        assert not torch.equal(y[inside], expected[inside])
    if kind in ("nan", "nah"):
        far = (line - expected).abs() > 0.2
        assert (y[far] != expected[far]).all()
    if kind != "nah":
        torch.testing.assert_close(activation.eval()(X), expected)


@pytest.mark.parametrize("kind", ["nan", "nah"])
@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.1])
def test_the_mean_over_many_draws_is_the_form_without_training(kind: str, alpha: float) -> None:
    torch.manual_seed(1)
    activation = NoisyActivation(kind, alpha=alpha, c=2.0)
    with torch.no_grad():
        activation.p.fill_(1.5)
        draws = torch.stack([activation(X) for _ in range(4000)])
        expected = activation.eval()(X)
    error = (draws.mean(0) - expected).abs()
    assert (error <= 5 * draws.std(0) / math.sqrt(len(draws)) + 1e-6).all()


def test_half_normal_noise_is_that_of_the_source() -> None:
    """Algorithm 1, written out again."""
    activation = NoisyActivation("nah", alpha=0.9, c=0.7)
    torch.manual_seed(3)
    y = activation(X)
    torch.manual_seed(3)
    xi = torch.randn_like(X)
    h, u = X.clamp(-1, 1), X
    d = -torch.where(X >= 0, 1.0, -1.0) * 1.0
    sigma = 0.7 * (torch.sigmoid(activation.p * (h - u)) - 0.5) ** 2
    torch.testing.assert_close(y, 0.9 * h + 0.1 * u + d * sigma * xi.abs())


@pytest.mark.parametrize("kind", ["nan", "nah"])
def test_a_saturated_unit_has_a_gradient_and_p_too(kind: str) -> None:
    torch.manual_seed(0)
    activation = NoisyActivation(kind, c=30.0, alpha=1.0)
    with torch.no_grad():
        activation.p.fill_(1.0)
    x = torch.tensor([1.2, -1.2, 1.5], requires_grad=True)
    activation(x.repeat(50, 1)).sum().backward()
    assert (x.grad != 0).all()
    assert activation.p.grad is not None
    assert float(activation.p.grad.abs()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_network_is_deterministic_and_the_same(kind: str) -> None:
    torch.manual_seed(0)
    model = noisy_(network(), kind, **of(kind, c=300.0, sigma=3.0)).eval()
    x = 5 * torch.randn(7, 3)
    program = torch.export.export(model, (x,))
    assert not [node for node in program.graph.nodes if "rand" in str(node.target)]
    torch.testing.assert_close(program.module()(x), model(x))
    file = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    assert not [node.op_type for node in file.graph.node if "Random" in node.op_type]
    (y,) = onnxruntime.InferenceSession(file.SerializeToString()).run(None, {file.graph.input[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_the_output_has_the_type_of_the_input(kind: str, dtype: torch.dtype, training: bool) -> None:
    model = noisy_(network().to(dtype), kind).train(training)
    assert model[:2](torch.randn(7, 3, dtype=dtype)).dtype == dtype
    assert model(torch.randn(7, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_made_where_the_network_is(kind: str) -> None:
    model = noisy_(network().to("meta"), kind)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(torch.randn(7, 3, device="meta")).shape == (7, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_it_is_the_same_and_a_c_that_falls_compiles_it_twice_at_most(kind: str) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _example: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    model = noisy_(network(), kind)
    annealing = Annealing(model, every=1) if kind in OPTIONS["c"] else None
    compiled = torch.compile(model, backend=count, fullgraph=True)
    for _ in range(9):
        x = 3 * torch.randn(7, 3)
        with torch.random.fork_rng():
            y = model(x)
        torch.testing.assert_close(compiled(x), y)
        if annealing is not None:
            annealing.step()
    assert len(graphs) <= 2


def test_c_falls_with_the_root_of_the_steps() -> None:
    model = noisy_(network(), "nan")
    annealing = Annealing(model, start=30, end=0.5, every=3)
    seen = []
    for _ in range(10):
        seen.append(model[1].c)
        assert model[3].c == model[1].c
        annealing.step()
    assert seen == [30 / math.sqrt(step // 3 + 1) for step in range(10)]
    for _ in range(3 * 3600):
        annealing.step()
    assert model[1].c == 0.5


def test_noise_pushes_towards_the_middle_of_a_line_that_is_not_centred_at_0() -> None:
    activation = NoisyActivation("nah", Line(1.0, 0.0, 1.0, 3.0), c=30.0).eval()
    y = activation(torch.tensor([0.5, 2.0, 3.5]))
    hard = torch.tensor([1.0, 2.0, 3.0]) * 0.9 + torch.tensor([0.5, 2.0, 3.5]) * 0.1
    assert y[0] > hard[0]
    assert y[1] == hard[1]
    assert y[2] < hard[2]


def test_bad_requests_are_refused_in_one_line() -> None:
    with pytest.raises(CompressorError, match="no module that saturates"):
        noisy_(nn.Sequential(nn.Linear(2, 2), nn.ReLU6()))
    with pytest.raises(CompressorError, match="did you mean 'nanil'"):
        noisy_(network(), "nanill")
    with pytest.raises(CompressorError, match="no noise with c"):
        Annealing(noisy_(network(), "nani"))
    with pytest.raises(CompressorError, match="single Tanh"):
        noisy_(nn.Tanh())
    for wrong in ({"c": -1.0}, {"c": math.nan}, {"alpha": 2.1}, {"units": 0}):
        with pytest.raises(ValueError, match="c and sigma must be finite"):
            NoisyActivation("nah", **wrong)
    with pytest.raises(ValueError, match=r"c and sigma .*-0\.1"):
        NoisyActivation("nani", sigma=-0.1)
    for start, end in ((1, 2), (math.inf, 1), (1, -1), (math.nan, 0)):
        with pytest.raises(ValueError, match="c must fall"):
            Annealing(noisy_(network()), start, end)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_another_kind_of_noise_is_refused_and_its_own_is_shown(kind: str, option: str) -> None:
    if kind in OPTIONS[option]:
        assert f"{option}=0.25" in str(noisy_(network(), kind, **{option: 0.25})[1])
        return
    with pytest.raises(CompressorError, match=f"{option}=0.25 is for noise {' or '.join(OPTIONS[option])}, not for"):
        noisy_(network(), kind, **{option: 0.25})
    assert f"{option}=" not in str(noisy_(network(), kind)[1])


def test_a_module_that_stands_in_two_places_stays_one() -> None:
    shared = nn.Tanh()
    model = noisy_(nn.Sequential(nn.Linear(2, 2), shared, nn.Linear(2, 2), shared))
    assert model[1] is model[3]


def test_noise_on_gradients_has_the_variance_that_is_asked_for() -> None:
    torch.manual_seed(0)
    parameter, without = nn.Parameter(torch.zeros(40_000)), nn.Parameter(torch.zeros(2))
    noise = GradientNoise([parameter, without], eta=0.3, gamma=0.55)
    for step in range(3):
        parameter.grad = torch.ones_like(parameter)
        noise.add_()
        assert float(parameter.grad.var()) == pytest.approx(0.3 / (1 + step) ** 0.55, rel=0.05)
        assert float(parameter.grad.mean()) == pytest.approx(1, abs=0.02)
    assert without.grad is None


def test_noise_on_no_gradients_is_refused() -> None:
    model = nn.Linear(2, 2)
    used_up = model.parameters()
    list(used_up)
    with pytest.raises(ValueError, match="only once"):
        GradientNoise(used_up)
    for rows in (model.weight, [{"params": list(model.parameters())}]):
        with pytest.raises(ValueError, match=r"not a parameter.*model\.parameters\(\)"):
            GradientNoise(rows)
    with pytest.raises(ValueError, match="finite"):
        GradientNoise(model.parameters(), eta=math.inf)
