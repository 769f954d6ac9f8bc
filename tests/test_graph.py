"""An exported program becomes a module again in which dense maps can be found, replaced and trained."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor.layers import replace
from compressor.sites import find_runs, find_sites
from compressor_converters.graph import free_batch, to_module
from compressor_converters.pt2 import export


class Net(nn.Module):
    """Modules and functions, a module called twice, a tied weight, a bare parameter, an odd size everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.fc1 = nn.Linear(75, 13)
        self.fc2 = nn.Linear(13, 13)
        self.fc3 = nn.Linear(13, 13)
        self.fc3.weight = self.fc2.weight
        self.act = nn.GELU(approximate="tanh")
        self.mix = nn.Sequential(nn.Linear(13, 13), nn.ReLU(inplace=True), nn.Dropout(0.3))
        self.bare = nn.Parameter(torch.randn(13, 13) / 4)
        self.head = nn.Linear(13, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = x.view(x.size(0), -1)
        x = F.relu(self.fc1(x))
        x = self.act(self.fc2(x))
        x = self.act(self.fc3(x))
        x = self.mix(self.mix(x))
        x = F.linear(x, self.bare)
        return self.head(F.dropout(x, 0.5, self.training))


def pair() -> tuple[nn.Module, torch.fx.GraphModule, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    model = Net().eval()
    example = (torch.randn(6, 1, 7, 7),)
    return model, to_module(export(model, example)[0]), example


@pytest.mark.parametrize("rows", [1, 3, 6, 17])
def test_the_module_does_what_the_model_does_with_any_batch(rows: int) -> None:
    model, rebuilt, _ = pair()
    x = torch.randn(rows, 1, 7, 7)
    torch.testing.assert_close(rebuilt(x), model(x))


def test_every_dense_map_is_found_under_its_own_name() -> None:
    model, rebuilt, example = pair()
    found = {site.name: site for site in find_sites(rebuilt, example)}
    assert list(found) == ["fc1", "fc2", "fc3", "mix.0", "linear", "head"]
    assert found["mix.0"].calls == 2
    assert not found["head"].bias
    assert {name: type(rebuilt.get_submodule(name)) for name in found} == dict.fromkeys(found, nn.Linear)
    assert sum(p.numel() for p in rebuilt.parameters()) == sum(p.numel() for p in model.parameters())


def test_weights_that_were_shared_stay_shared() -> None:
    _, rebuilt, _ = pair()
    assert rebuilt.fc3.weight is rebuilt.fc2.weight
    assert rebuilt.fc3.bias is not rebuilt.fc2.bias


def test_activations_are_modules_so_that_windows_are_found() -> None:
    _, rebuilt, example = pair()
    runs = {run.sites: run.activations for run in find_runs(rebuilt, example)}
    assert ("fc1", "fc2", "fc3") in runs
    assert runs["fc1", "fc2", "fc3"] == (("relu_1",), None, None)  # act is called twice: it is not a window's own
    assert type(rebuilt.act) is nn.GELU
    assert rebuilt.act.approximate == "tanh"


def test_replacing_one_function_call_does_not_touch_another_of_its_kind() -> None:
    model, rebuilt, _ = pair()
    relus = [name for name, module in rebuilt.named_modules() if type(module) is nn.ReLU]
    assert len(relus) == 3  # two function calls and the module that is called twice
    replace(rebuilt, "relu_1", nn.Identity())
    x = torch.randn(3, 1, 7, 7)
    inner = model.norm(model.conv(x))
    seen: list[Tensor] = []
    rebuilt.relu.register_forward_hook(lambda module, inputs, output: seen.append(output))
    rebuilt(x)
    torch.testing.assert_close(seen[0], F.relu(inner))


def test_dropout_drops_in_training_only() -> None:
    _, rebuilt, example = pair()
    assert not rebuilt.training
    torch.testing.assert_close(rebuilt(*example), rebuilt(*example))
    rebuilt.train()
    assert not torch.equal(rebuilt(*example), rebuilt(*example))


def test_a_replaced_layer_is_used_trained_copied_and_exported() -> None:
    _, rebuilt, example = pair()
    replace(rebuilt, "fc1", nn.Linear(75, 13))
    changed = copy.deepcopy(rebuilt)
    changed(*example).sum().backward()
    assert changed.fc1.weight.grad is not None
    again = export(changed, example)[0].module()
    torch.testing.assert_close(again(*example), changed(*example))


def test_a_bare_parameter_goes_with_the_layer_that_was_made_of_it() -> None:
    _, rebuilt, _ = pair()
    before = sum(p.numel() for p in rebuilt.parameters())
    replace(rebuilt, "linear", nn.Identity())
    assert before - sum(p.numel() for p in rebuilt.parameters()) == 13 * 13


def test_a_relu_in_place_keeps_its_effect_on_what_it_is_a_view_of() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            F.relu(y.view(-1), inplace=True)
            return y

    model = View().eval()
    x = torch.randn(4, 5)
    torch.testing.assert_close(to_module(export(model, (x,))[0])(x), model(x))


def test_a_relu_in_place_keeps_its_effect_on_others() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            z = F.relu(y, inplace=True)
            return z + 2 * y

    model = InPlace().eval()
    x = torch.randn(4, 5)
    torch.testing.assert_close(to_module(export(model, (x,))[0])(x), model(x))


def test_a_computed_weight_is_no_dense_map() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, 2 * self.weight)

    model = Scaled()
    x = torch.randn(4, 5)
    rebuilt = to_module(export(model, (x,))[0])
    torch.testing.assert_close(rebuilt(x), model(x))
    assert find_sites(rebuilt, (x,)) == []


def test_a_weight_that_is_read_elsewhere_too_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 5)
            self.head = nn.Linear(5, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))

    model = Tied().eval()
    ids = torch.randint(11, (3, 4))
    rebuilt = to_module(export(model, (ids,))[0])
    torch.testing.assert_close(rebuilt(ids), model(ids))
    assert [site.name for site in find_sites(rebuilt, (ids,))] == ["head"]
    assert len(list(rebuilt.parameters())) == 1


def test_a_program_read_from_a_file_gives_the_same_names() -> None:
    model, rebuilt, example = pair()
    out = io.BytesIO()
    torch.export.save(export(model, example)[0], out)
    out.seek(0)
    again = to_module(torch.export.load(out))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in rebuilt.named_parameters()]
    torch.testing.assert_close(again(*example), model(*example))


@pytest.mark.parametrize("strict", [True, False])
def test_a_module_that_is_called_twice_stays_one(strict: bool) -> None:
    model, _, example = pair()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, example, strict=strict, dynamic_shapes=({0: batch},))
    rebuilt = to_module(program)
    calls = [node.target for node in rebuilt.graph.nodes if node.op == "call_module" and "mix" in str(node.target)]
    assert calls == ["mix.0", "mix.1", "mix.2"] * 2


class Fixed(nn.Module):
    """Writes the batch into its program: as a size to reshape to, and as one of a tensor that it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.fc = nn.Linear(75, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(x.view(x.shape[0], -1)) + torch.ones(x.shape[0], 5)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_batch_that_was_fixed_in_the_program_is_freed(rows: int) -> None:
    model = Fixed().eval()
    example = (torch.randn(rows, 1, 7, 7),)
    rebuilt = to_module(torch.export.export(model, example, strict=False))
    assert free_batch(rebuilt, example)
    for batch in (1, 2, 7):
        x = torch.randn(batch, 1, 7, 7)
        torch.testing.assert_close(rebuilt(x), model(x))


def test_a_batch_that_cannot_be_freed_leaves_the_module_as_it_was() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.arange(4.0)[:, None] + x.sum()

    example = (torch.randn(4, 3),)
    rebuilt = to_module(torch.export.export(Mixing(), example, strict=False))
    assert not free_batch(rebuilt, example)
    torch.testing.assert_close(rebuilt(*example), Mixing()(*example))


def test_a_program_that_was_exported_in_training_mode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).train()
    program = torch.export.export(model, (torch.randn(4, 5),), strict=False)
    with pytest.raises(CompressorError, match="training mode"):
        to_module(program)
