"""A network run up to one site after another gives the rows that it gives when all of it is run each time."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from compressor.layers import replace
from compressor.prefix import Prefix, rows_at


def test_rows_are_those_that_enter_or_leave_the_site_and_the_rest_is_not_run() -> None:
    class Stop(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("ran past the site")

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), Stop())
    x = torch.randn(2, 6, 3)
    hidden = torch.relu(model[0](x))
    torch.testing.assert_close(rows_at(model, "2", (x,)), hidden.reshape(12, 4))
    torch.testing.assert_close(rows_at(model, "2", (x,), output=True), model[2](hidden).reshape(12, 5))


class Residual(nn.Module):
    """Changes tensors in place, uses one activation twice and one with others, and passes a dictionary on."""

    def __init__(self, common: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.activation, self.in_place, self.common = nn.ReLU(), nn.Hardswish(inplace=True), common
        self.runs = 0

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        self.runs += 1
        y = self.second(self.activation(self.first(x["x"])))
        self.in_place(y)
        y = self.third(self.common(self.activation(y)))
        y += x["x"]
        return {"x": y}


class Network(nn.Module):
    """Blocks in a list, one of which stands twice, then a head with an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        common = nn.Tanh()
        self.enter = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList([Residual(common) for _ in range(4)])
        self.blocks.append(self.blocks[1])
        self.leave = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = {"x": self.enter(x)}
        for block in self.blocks:
            state = block(state)
            state["x"] *= 0.9
        return self.leave(state["x"])


SITES = ["enter.0", *(f"blocks.{i}.{part}" for i in range(4) for part in ("first", "second", "third")), "leave"]


def walk(model: Network, rows_of: object) -> list[Tensor]:
    """The rows at each site of two batches, each site asked about twice and then changed."""
    torch.manual_seed(1)
    batches = [torch.randn(7, 5), torch.randn(7, 5)]
    found = []
    for name in SITES:
        for number, batch in [*enumerate(batches), *enumerate(batches)]:
            found.append(rows_of(name, (batch,), number).clone())  # type: ignore[operator]
        changed = copy.deepcopy(model.get_submodule(name))
        with torch.no_grad():
            changed.weight.mul_(0.8)  # type: ignore[operator]
        replace(model, name, changed)
    return found


def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    model = Network()
    return model, copy.deepcopy(model)


def test_rows_are_the_same_to_the_bit_as_those_of_whole_passes() -> None:
    model, again = networks()
    found = walk(model, Prefix(model).rows_at)
    expected = walk(again, lambda name, inputs, _: rows_at(again, name, inputs))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert all("forward" not in vars(module) for module in model.modules())


def test_what_lies_before_the_site_is_run_once_for_each_batch_after_it_was_changed() -> None:
    model, again = networks()
    walk(model, Prefix(model).rows_at)
    walk(again, Prefix(again, kept_bytes=0).rows_at)
    # block 0: for each of two batches twice for each of its three sites and once to be kept; never again
    assert model.blocks[0].runs == 2 * 7
    assert again.blocks[0].runs == 2 * 2 * (len(SITES) - 1)


def test_other_inputs_under_the_same_number_are_run_anew() -> None:
    model, _ = networks()
    prefix = Prefix(model)
    first, second = torch.randn(3, 5), torch.randn(3, 5)
    prefix.rows_at("leave", (first,), 0)
    assert torch.equal(prefix.rows_at("leave", (second,), 0), rows_at(model, "leave", (second,)))


def test_no_more_is_kept_than_there_is_room_for() -> None:
    model, _ = networks()
    prefix = Prefix(model, kept_bytes=540)
    prefix.rows_at("leave", (torch.randn(7, 5),), 0)  # 140 bytes; each block returns 7 * 6 floats: 168 bytes
    assert len(prefix.outputs[0]) == 2
    assert prefix.left == 540 - 140 - 2 * 168


def test_inputs_for_which_there_is_no_room_are_not_kept() -> None:
    model, _ = networks()
    prefix, batches = Prefix(model, kept_bytes=200), [(torch.randn(7, 5),) for _ in range(2)]
    for name in ("leave", "leave"):
        for number, batch in enumerate(batches):  # each of 140 bytes
            assert torch.equal(prefix.rows_at(name, batch, number), rows_at(model, name, batch))
    assert list(prefix.inputs) == [0]
    assert prefix.left == 200 - 140
