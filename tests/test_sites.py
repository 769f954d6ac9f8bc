"""Finding dense maps and the windows between them, on live modules, and counting how they are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.sites import activation_after, extract, find_runs, find_sites


class Functional(nn.Module):
    """Two chains; one activation is a plain call, one layer is called twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5)
        self.second = nn.Linear(5, 5, bias=False)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = self.second(self.second(h))
        return self.head(h)


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 11), nn.ReLU(), nn.Dropout(0.5), nn.Linear(11, 13), nn.Tanh(),
        nn.Linear(13, 3),
    )  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_sites_stand_in_the_order_of_the_calls_with_their_shapes(device: str) -> None:
    with torch.device(device):
        sites = find_sites(Functional().eval(), (torch.empty(4, 7),))
    assert [(s.name, s.in_features, s.out_features, s.bias) for s in sites] == [
        ("first", 7, 5, True),
        ("second", 5, 5, False),
        ("head", 5, 2, True),
        ("unused", 3, 3, True),
    ]
    assert [s.calls for s in sites] == [1, 2, 1, 0]
    assert [s.is_last for s in sites] == [False, False, True, False]


def test_rows_count_tokens_and_calls() -> None:
    sites = {s.name: s for s in find_sites(Functional().eval(), (torch.zeros(4, 6, 7),))}
    assert sites["first"].rows == 6
    assert sites["second"].rows == 12
    assert sites["second"].macs == 12 * 25


def test_a_shared_layer_is_one_site() -> None:
    model = Functional()
    model.unused = model.second
    assert [s.name for s in find_sites(model, (torch.zeros(2, 7),))] == ["first", "second", "head"]


def test_a_run_goes_through_activations_and_dropout_and_names_them() -> None:
    (run,) = find_runs(sequential().eval(), (torch.zeros(2, 1, 5, 5),))
    assert run.sites == ("2", "5", "7")
    assert run.activations == (("3", "4"), ("6",), ())


def test_a_run_ends_at_a_layer_that_is_called_twice() -> None:
    runs = find_runs(Functional().eval(), (torch.zeros(2, 7),))
    assert [run.sites for run in runs] == [("first",), ("second",), ("head",)]


def test_a_plain_activation_call_has_no_module_name() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)))

    (run,) = find_runs(Plain().eval(), (torch.zeros(2, 3),))
    assert run.sites == ("a", "b")
    assert run.activations[0] is None


def test_the_activation_after_a_site_is_the_networks_own() -> None:
    model = sequential().eval()
    runs = find_runs(model, (torch.zeros(2, 1, 5, 5),))
    x = torch.randn(4, 11)
    relu, tanh = activation_after(runs, "2"), activation_after(runs, "5")
    assert relu is not None
    assert tanh is not None
    torch.testing.assert_close(relu(x), torch.relu(x))
    torch.testing.assert_close(tanh(x), torch.tanh(x))
    assert activation_after(runs, "7") is None


def test_an_extracted_window_computes_what_the_model_does() -> None:
    model = sequential().eval()
    x = torch.randn(4, 18)
    expected = model[5](torch.relu(model[2](x)))
    torch.testing.assert_close(extract(model, ("2", "3", "4", "5"))(x), expected)


def test_an_activation_module_that_is_used_elsewhere_too_is_not_part_of_a_window() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(3, 5), nn.Linear(5, 5), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.b(self.act(self.a(x)))) + self.act(x.sum())

    (run,) = find_runs(Shared().eval(), (torch.zeros(2, 3),))
    assert run.sites == ("a", "b")
    assert run.activations[0] is None
