"""The quick way of a call that the library knows: by the extension module and in Python alike."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from native_oracle import data
from torch import Tensor, nn

from compressor.layers import Monarch, StructuredLayer, method
from compressor_kernels import dispatch, native, quick, reference

pytestmark = pytest.mark.skipif(native.library() is None, reason="the native kernels are not built")

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "acdc": ("acdc", {"depth": 3, "relu": True}),
    "acdc, one member": ("acdc", {"depth": 1}),
    "acdc, separable": ("acdc", {"depth": 2, "basis": "dct2d"}),
    "fastfood": ("fastfood", {}),
    "fastfood, features": ("fastfood", {"features": "rbf"}),
    "monarch": ("monarch", {}),
    "pruned": ("pruned", {"density": 0.2}),
    "pruned, vectors": ("pruned", {"density": 0.2, "block": 8}),
}


@pytest.fixture(params=["extension", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways, each with nothing known."""
    quick._known.clear()
    quick._known_layers.clear()
    if request.param == "python":
        monkeypatch.setattr(quick, "call", quick.call_in_python)
        monkeypatch.setattr(quick, "call_layer", lambda *_: None)
        monkeypatch.setattr(quick, "_extension", None)
    elif quick._extension is None:
        pytest.skip("the extension module is not built")
    yield request.param
    quick._known.clear()


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that were described, one a call that was not known."""
    found: list[str] = []
    original = quick.remember

    def remember(function: str, *rest: Any) -> None:
        found.append(function)
        original(function, *rest)

    monkeypatch.setattr(quick, "remember", remember)
    return found


def layer_of(name: str, sides: tuple[int, int] = (16, 16)) -> nn.Module:
    kind, settings = LAYERS[name]
    torch.manual_seed(0)
    layer: nn.Module = method(kind).layer(*sides, bias=True, **settings)
    return layer.requires_grad_(False)


def plainly(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer without the library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "is_loaded", lambda: False)
        patch.setattr(quick, "call", lambda *_: None)
        patch.setattr(quick, "call_layer", lambda *_: None)
        y: Tensor = layer(x)
        return y


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 2), ()])
@pytest.mark.parametrize("sides", [(16, 16), (16, 12), (13, 16)])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_described_once_and_gives_the_same(
    name: str, sides: tuple[int, int], shape: tuple[int, ...], remembered: list[str]
) -> None:
    layer, x = layer_of(name, sides), data(*shape, sides[0])
    with torch.no_grad():
        first, *rest = (layer(x) for _ in range(3))
        torch.testing.assert_close(first, plainly(layer, x))
        other = data(7, sides[0], seed=1)
        torch.testing.assert_close(layer(other), plainly(layer, other))  # of another number of rows
    assert len(remembered) == 1
    assert all(torch.equal(y, first) for y in rest)


def changed_in_place(layer: nn.Module) -> None:
    for table in layer.parameters():
        table.mul_(-0.9)


def of_other_memory(layer: nn.Module) -> None:
    for table in layer.parameters():
        table.data = table.data * 0.8


def loaded(layer: nn.Module) -> None:
    layer.load_state_dict({name: 0.9 * value if value.is_floating_point() else value
                           for name, value in layer.state_dict().items()})  # fmt: skip


def stepped(layer: nn.Module) -> None:
    layer.requires_grad_()
    with torch.enable_grad():
        layer(data(4, 16)).square().sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.01).step()
    layer.requires_grad_(False)


def replaced(layer: nn.Module) -> None:
    for name, table in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(table + 0.1, requires_grad=False))


def calls_of(layer: nn.Module, x: Tensor) -> int:
    """How often ``forward`` is run for three calls with nothing recorded."""
    times = 0

    forward = StructuredLayer.forward

    def watched(layer: StructuredLayer, x: Tensor) -> Tensor:
        nonlocal times
        times += 1
        return forward(layer, x)

    with torch.no_grad(), mock.patch.object(StructuredLayer, "forward", watched):
        for _ in range(3):
            layer(x)
    return times


@pytest.mark.parametrize("name", [name for name in LAYERS if not ("features" in name or "pruned" in name)])
def test_a_layer_that_is_one_call_is_known_as_a_whole(name: str, way: str) -> None:
    layer, x = layer_of(name), data(1, 16)
    with torch.no_grad():
        known = layer(x), layer(x), layer(x)
    if way == "python":
        assert not quick._known_layers
    else:
        assert list(quick._known_layers) == [id(layer)]
        assert calls_of(layer, x) == 0
    assert torch.equal(known[0], known[2])


@pytest.mark.parametrize("name", ["acdc", "fastfood, features", "pruned", "pruned, vectors"])
def test_a_layer_that_does_more_than_one_call_is_not(name: str) -> None:
    settings = {"ends": "scatter", "size": 16} if name == "acdc" else LAYERS[name][1]
    layer, x = method(name.split(",")[0]).layer(13, 16, bias=True, **settings), data(1, 13)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(layer(x), plainly(layer, x))
    assert not quick._known_layers


class _Doubled(Monarch):
    def transform(self, x: Tensor) -> Tensor:
        return super().transform(x).mul_(2)


class _Counting(Monarch):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def test_a_subclass_that_does_more_than_its_layer_does_it_at_every_call() -> None:
    x = data(1, 16)
    torch.manual_seed(0)
    doubled = _Doubled(16, 16, bias=True, config=Monarch.Config()).requires_grad_(False)
    counting = _Counting(16, 16, bias=True, config=Monarch.Config()).requires_grad_(False)
    with torch.no_grad():
        found = [doubled(x) for _ in range(5)]
        for _ in range(5):
            counting(x)
    assert all(torch.equal(y, found[0]) for y in found)
    assert counting.calls == 5


@pytest.mark.parametrize("change", ["transform", "config"])
def test_what_is_put_into_a_known_layer_counts_from_then_on(change: str) -> None:
    layer, x = method("acdc").layer(16, 16, bias=True, depth=3, relu=True).requires_grad_(False), data(1, 16)
    with torch.no_grad():
        layer.beta.normal_(generator=torch.Generator().manual_seed(0))
        before = [layer(x) for _ in range(3)][-1]
        if change == "config":
            layer.config = layer.config.model_copy(update={"relu": False})
        else:
            layer.transform = torch.zeros_like
        assert not torch.allclose(layer(x), before)
        torch.testing.assert_close(layer(x), plainly(layer, x))


@pytest.mark.parametrize("kind", ["forward", "before", "everywhere", "own forward", "buffer", "mode", "copy"])
def test_what_is_put_round_a_known_layer_is_seen(kind: str, tmp_path: Path) -> None:
    layer, x = layer_of("acdc"), data(1, 16)
    with torch.no_grad():
        plain = [layer(x) for _ in range(3)][-1]
        handle = None
        if kind == "forward":
            handle = layer.register_forward_hook(lambda _m, _x, y: 2 * y)
        elif kind == "before":
            handle = layer.register_forward_pre_hook(lambda _m, given: (0 * given[0],))
        elif kind == "everywhere":
            handle = nn.modules.module.register_module_forward_hook(lambda _m, _x, y: 2 * y)
        elif kind == "own forward":
            layer.forward = torch.zeros_like
        elif kind == "buffer":
            layer.permutation = layer.permutation.int().flip(1).to(layer.permutation.dtype)
        elif kind == "copy":
            assert torch.equal(copy.deepcopy(layer)(x), plain)
            torch.save(layer, tmp_path / "layer.pt")
            layer = torch.load(tmp_path / "layer.pt", weights_only=False)
            layer.d.mul_(2)
        changed = [layer.train()(x) if kind == "mode" else layer(x) for _ in range(3)]
        assert all(torch.equal(plain, y) == (kind == "mode") for y in changed)
        if handle is not None:
            handle.remove()
            assert torch.equal(layer(x), plain)


@pytest.mark.parametrize("name", ["acdc", "fastfood", "monarch"])
def test_a_bias_that_is_taken_away_from_a_known_layer_is_not_read(name: str) -> None:
    layer, x = layer_of(name), data(1, 16)
    bias = "beta" if name == "acdc" else "bias"
    getattr(layer, bias).add_(1.0)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
        setattr(layer, bias, None)
        for _ in range(3):
            torch.testing.assert_close(layer(x), plainly(layer, x))


def test_a_known_layer_and_its_results_are_not_kept() -> None:
    layer = layer_of("acdc")
    with torch.no_grad():
        found = [weakref.ref(layer(data(rows, 16))) for rows in (1, 1, 1, 1, 3, 3)]
        assert not any(y() is not None for y in found)
    del layer
    gc.collect()
    assert not quick._known_layers


def test_a_known_layer_that_lives_until_the_end_is_forgotten_quietly() -> None:
    lines = (
        "import torch; from compressor.layers import ACDC; torch.set_grad_enabled(False)",
        "torch.layer = layer = ACDC(16, 16); [layer(torch.ones(1, 16)) for _ in range(3)]",
    )
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("change", [changed_in_place, of_other_memory, loaded, stepped, replaced])
@pytest.mark.parametrize("name", LAYERS)
def test_changed_parameters_are_seen(name: str, change: Callable[[nn.Module], None]) -> None:
    layer, x = layer_of(name), data(5, 16)
    with torch.no_grad():
        before = layer(x), layer(x)
        change(layer)
        after = layer(x), layer(x)
        assert not torch.allclose(before[1], after[1])
        for y in after:
            torch.testing.assert_close(y, plainly(layer, x))


OTHER_VIEWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of the first half of a room: a table
    "strides": lambda room, table: room[::2].view(table.shape),
    "one number less": lambda room, table: table[..., :-1],
    "one side more": lambda room, table: table.unsqueeze(-1),
    "transposed": lambda room, table: table.transpose(0, -1) if table.dim() > 1 else table[:1].expand(len(table)),
    "dtype": lambda room, table: room.view(OTHER_DTYPES[room.dtype])[: table.numel()].view(table.shape),
}
OTHER_DTYPES = {torch.float32: torch.float16, torch.int32: torch.uint16}


@pytest.mark.parametrize("view", OTHER_VIEWS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_table_seen_otherwise_at_its_address_is_described_anew(name: str, view: str) -> None:
    x, changes = data(5, 16), 0
    for key, held in layer_of(name).state_dict().items():
        layer = layer_of(name)
        room = torch.cat([held.flatten() if held.is_floating_point() else held.flatten().int()] * 2)
        table = layer.state_dict(keep_vars=True)[key]
        with torch.no_grad():
            table.data = room[: len(room) // 2].view(held.shape)
            known = [layer(x) for _ in range(3)][-1]
            table.data = OTHER_VIEWS[view](room, table.data)
            found = [result_or_none(layer, x) for _ in range(3)]
            quick._known.clear()
            quick._known_layers.clear()
            wanted = result_or_none(layer, x)
        if wanted is None:
            assert found == [None] * 3
        else:
            torch.testing.assert_close(found, [wanted] * 3, rtol=0, atol=0, equal_nan=True)
        changes += wanted is None or not torch.equal(wanted, known)
    assert changes


def result_or_none(run: Callable[..., Tensor], *arguments: Any) -> Tensor | None:
    """None where it is refused."""
    try:
        return run(*arguments)
    except (RuntimeError, ValueError, IndexError):
        return None


def test_settings_of_the_same_tables_are_told_apart() -> None:
    layer = layer_of("acdc")
    a, d, beta, permutation = layer.a, layer.d, layer.beta, layer.permutation
    x = data(5, 16)
    with torch.no_grad():
        for relu, separable, outputs in [
            (True, False, 16),
            (False, False, 16),
            (False, True, 16),
            (False, False, 9),
        ] * 2:
            found = dispatch.acdc(x, a, d, beta, permutation, outputs, relu=relu, separable=separable)
            torch.testing.assert_close(found, reference.acdc(x, a, d, beta, permutation, outputs, relu, separable))
        for outputs in (9, 16, 9):
            found = dispatch.acdc(x, a, d, beta, permutation, outputs)
            torch.testing.assert_close(found, reference.acdc(x, a, d, beta, permutation, outputs, False, False))
        first = a[:1].expand_as(a)  # where a is
        for one in (a, first, a):
            found = dispatch.acdc(x, one, d, beta, permutation, 16)
            torch.testing.assert_close(found, reference.acdc(x, one, d, beta, permutation, 16, False, False))
        narrow = x[:, :11]
        torch.testing.assert_close(
            dispatch.acdc(narrow, a, d, beta, permutation, 16),
            reference.acdc(narrow, a, d, beta, permutation, 16, False, False),
        )
        tables = data(2, 3, 16), layer_of("fastfood").permutation[:1].repeat(3, 1)
        for scale in (0.5, 0.25, 0.5):
            found = dispatch.fastfood(x, tables[0][0], tables[1], tables[0][1], data(40), scale=scale)
            plain = reference.fastfood(x, tables[0][0], tables[1], tables[0][1], data(40), scale=scale)
            torch.testing.assert_close(found, plain)


def test_known_vectors_of_another_length_are_refused() -> None:
    layer, x = layer_of("pruned, vectors"), data(5, 16)
    tables = layer.values, layer.positions.columns, layer.positions.lengths, layer.bias, 16
    with torch.no_grad():
        for _ in range(2):
            dispatch.csr(x, *tables, 8)
        with pytest.raises(ValueError, match="vectors of 9 need"):
            dispatch.csr(x, *tables, 9)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "make", [lambda: data(16, 16).T, lambda: data(5, 32)[:, ::2], lambda: data(0, 16), lambda: data(3, 0, 16)]
)
def test_an_input_without_rows_or_out_of_order_goes_the_long_way(name: str, make: Callable[[], Tensor]) -> None:
    layer, x = layer_of(name), make()
    with torch.no_grad():
        assert torch.equal(layer(data(5, 16)), layer(data(5, 16)))
        torch.testing.assert_close(layer(x), plainly(layer, x))


def test_an_input_of_another_kind_goes_the_long_way() -> None:
    layer, x = layer_of("acdc"), data(5, 16)
    with torch.no_grad():
        known = layer(x), layer(x)
        torch.testing.assert_close(layer(x.double()), plainly(layer, x.double()))
        torch.testing.assert_close(layer(x.double()).float(), known[1])


def test_an_input_of_another_width_is_an_error_again() -> None:
    layer = layer_of("monarch")
    with torch.no_grad():
        layer(data(5, 16)), layer(data(5, 16))
        with pytest.raises((RuntimeError, ValueError)):
            layer(data(5, 99))


class Counted(Tensor):
    """A tensor that counts what is done with it."""

    calls = 0

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Counted.calls += 1
        return super().__torch_function__(function, types, args, kwargs or {})


def test_whoever_looks_at_what_is_computed_sees_it() -> None:
    layer, x = layer_of("acdc"), data(5, 16)
    with torch.no_grad():
        y = layer(x)
        assert torch.equal(layer(x), y)
        assert "compressor_kernels" not in str(torch.export.export(layer, (x,)).graph)
        traced = torch.jit.trace(layer, x)
        torch.testing.assert_close(traced(x + 1), layer(x + 1))  # not a constant
        blocks = layer_of("monarch")
        torch.testing.assert_close(blocks(x), blocks(x))
        torch.testing.assert_close(torch.vmap(blocks)(x), blocks(x))
        Counted.calls = 0
        layer(x.as_subclass(Counted))
        assert Counted.calls
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), y)
    tangent = torch.func.jvp(blocks, (x,), (data(5, 16, seed=2),))[1]
    assert tangent.abs().sum() > 0
    x.requires_grad_()
    assert layer(x).requires_grad
    with torch.inference_mode():
        assert layer(data(5, 16)).is_inference()


def test_a_description_lives_no_longer_than_its_tables() -> None:
    layer = layer_of("acdc")
    with torch.no_grad():
        layer(data(5, 16))
    assert len(quick._known) == 1
    layer.a = None
    gc.collect()
    assert not quick._known


def test_two_threads_call_one_layer_while_it_is_described_anew() -> None:
    layer, x = layer_of("acdc"), data(64, 16)
    with torch.no_grad():
        y = layer(x)
    wrong: list[Tensor] = []

    def call() -> None:
        with torch.no_grad():
            for i in range(300):
                if i % 10 == 0:
                    quick._known.clear()
                    quick._known_layers.clear()
                found = layer(x)
                if not torch.equal(found, y):
                    wrong.append(found)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_tables_live_until_a_call_ends_though_another_thread_puts_others_in_their_place() -> None:
    layer = method("acdc").layer(1024, 1024, bias=False, depth=12).requires_grad_(False)
    x = torch.randn(1024, 1024)
    calling = threading.Semaphore(0)
    lived: list[bool] = []

    def put_another() -> None:
        for _ in range(10):
            calling.acquire()
            time.sleep(0.003)  # the kernel is at work
            former = weakref.ref(layer.d)
            layer.d = nn.Parameter(layer.d.clone(), requires_grad=False)
            lived.append(former() is not None)

    other = threading.Thread(target=put_another)
    other.start()
    with torch.no_grad():
        for _ in range(10):
            for _ in range(4):  # now it is known
                layer(x)
            calling.release()
            layer(x)
    other.join()
    assert any(lived)


def test_an_error_of_the_library_is_said_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of("acdc"), data(5, 16)
    layer.a.requires_grad_(False)
    with torch.no_grad():
        cascade, _ = native.describe_cascade(16, layer.a, layer.d, layer.beta, layer.permutation, 16, True, False)
        cascade.n = -1
        tables = (layer.d, layer.a, layer.beta, layer.permutation)
        quick.remember("ck_acdc_forward_f32", cascade, x, 16, 1, *tables)
        with pytest.raises(RuntimeError, match="native kernel: an argument is out of range"):
            quick.call(x, 16, 1, *tables)
