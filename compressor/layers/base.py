"""The contract that every structured layer keeps, and the registry they stand in.

A *method* is one file beside this one. It defines a frozen ``Config``, a subclass of `StructuredLayer`
with every parameter made in `StructuredLayer.make_parameters`, and registers it: ``@register("name")``.
Nothing else in the project names a method.
"""

from __future__ import annotations

import contextlib
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from compressor.errors import CompressorError, nearest
from compressor.settings import Settings
from compressor_kernels import quick

if TYPE_CHECKING:
    import onnx

_OUR_LAYERS = "compressor.layers."
ParameterKind = Literal["diagonal", "dense", "bias"]


class LayerConfig(Settings):
    """A method's own options."""

    @property
    def uses_metric(self) -> bool:
        """Whether the fit looks at the inputs' second moment; False only where an option asks for the weights alone."""
        return True


@dataclass(frozen=True)
class Metric:
    """What a site really sees: the second moment of its inputs in the compressed network.

    ``covariance`` ``(in, in)`` is centred on ``mean`` ``(in,)`` where the layer has a bias to absorb the
    mean, and the plain second moment (``mean`` zero) where it has none.
    """

    covariance: Tensor
    mean: Tensor

    @classmethod
    def identity(cls, in_features: int) -> Metric:
        """The metric without data: every input direction counts the same."""
        return cls(torch.eye(in_features, dtype=torch.float64), torch.zeros(in_features, dtype=torch.float64))

    def root(self) -> Tensor:
        """Symmetric square root of the covariance, ``(in, in)`` float64; negative rounding clipped to 0."""
        values, vectors = torch.linalg.eigh(self.covariance.double())
        root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        return root

    def relative_error(self, weight: Tensor, approximation: Tensor) -> float:
        """``‖(W − Ŵ) Σ^½‖ / ‖W Σ^½‖``, 0 for equal maps, 1 for the zero map."""
        sigma = self.covariance.double()

        def energy(m: Tensor) -> float:
            m = m.double()
            return float(((m @ sigma) * m).sum().clamp_min(0))

        total = energy(weight)
        return (energy(weight - approximation) / total) ** 0.5 if total > 0 else 0.0


_exporting_onnx: contextvars.ContextVar[bool] = contextvars.ContextVar("exporting_onnx", default=False)


@contextlib.contextmanager
def onnx_export() -> Iterator[None]:
    """Within it, a structured layer traces as one node of the ``compressor`` domain where it has one."""
    token = _exporting_onnx.set(True)
    try:
        yield
    finally:
        _exporting_onnx.reset(token)


class StructuredLayer(nn.Module, ABC):
    """A map of the last axis, ``(..., in_features) -> (..., out_features)``, with few parameters.

    ``config`` holds all that is needed to rebuild the layer but for the numbers in its state dict. What is drawn
    at random is stored as a seed: buffers made from it are registered with ``persistent=False``. What is found in
    the weights and then kept (positions, fixed columns) is a persistent buffer.
    """

    method: ClassVar[str]
    Config: ClassVar[type[LayerConfig]]
    config: Any

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        config: LayerConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if in_features < 1 or out_features < 1:
            raise ValueError(f"in_features and out_features must be positive, not {in_features}, {out_features}")
        if config is not None and settings:
            raise ValueError("give either config or its settings by name, not both")
        self.in_features = in_features
        self.out_features = out_features
        self.has_bias = bias
        self.config = config if config is not None else self.Config.from_settings(f"method '{self.method}'", settings)
        self.make_parameters()

    # --- what a method must say -----------------------------------------------------------------

    @abstractmethod
    def make_parameters(self) -> None:
        """Make every parameter and buffer from the sizes and ``config``, ready to be trained from scratch.

        Called once, at the end of construction; on the meta device too, where the layer is only counted.
        """

    @abstractmethod
    def transform(self, x: Tensor) -> Tensor:
        """The layer itself in plain torch operators, ``(..., in) -> (..., out)``."""

    @abstractmethod
    def macs(self) -> int:
        """Multiply-adds per example (two floating-point operations each) of the method's fast algorithm."""

    @classmethod
    @abstractmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None, config: Any, metric: Metric) -> Self:
        """The layer nearest to ``x Wᵀ + b`` in ``metric``. ``weight (out, in)``, ``bias (out,)`` or None.

        Only for linear configurations; one with a nonlinearity inside is fitted with `fit_samples`.
        """

    @abstractmethod
    def fit_samples(self, x: Tensor, y: Tensor) -> float:
        """Move the layer towards ``x (rows, in) -> y (rows, out)``; the relative error reached."""

    @classmethod
    @abstractmethod
    def config_for_params(cls, in_features: int, out_features: int, bias: bool, params: int, base: Any) -> Any:
        """``base`` changed so that the layer has as many parameters as it can within ``params``.

        The smallest configuration when none fits.
        """

    # --- what a method may say ------------------------------------------------------------------

    @property
    def is_linear(self) -> bool:
        """Whether the layer is an affine map (so that it has a dense equivalent)."""
        return True

    @property
    def is_sized(self) -> bool:
        """Whether shapes and configuration fix its size; else `from_dense` does, by what it finds in the weights."""
        return True

    @property
    def is_exact(self) -> bool:
        """Whether `from_dense` reaches the optimum in the metric: a map the layer can hold is found again."""
        return False

    @property
    def has_readout(self) -> bool:
        """Whether the block ends in a linear read-out of features, so that it can stand for a window up to a site."""
        return False

    @property
    def seeds(self) -> int:
        """How many random seeds must be stored to rebuild what is not trained."""
        return 0

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Settings that between them take every branch of the method; the contract suite runs over them."""
        return [{}]

    def kind(self, name: str) -> ParameterKind:
        """The kind of the parameter ``name``; diagonals train with a higher rate and without decay."""
        return "bias" if name.endswith("bias") else "dense"

    @property
    def input_sides(self) -> tuple[int, int] | None:
        """Height and width of the map, or of each of several, that the inputs form, so that weights can be drawn."""
        return None

    def penalty(self) -> Tensor | None:
        """What the method adds to the loss while the whole network is trained (a scalar), or nothing."""
        return None

    def anneal(self, done: float) -> None:
        """Called before each training step with the share of the training that is done, 0 to 1."""

    @property
    def is_settled(self) -> bool:
        """Whether what `anneal` changes has reached its end: what is trained before is no candidate for the best."""
        return True

    def finished(self) -> StructuredLayer:
        """The layer as it is stored and run once training has ended: itself, or a leaner one with the same map."""
        return self

    def packed_bytes(self) -> int | None:
        """Bytes that rebuild the layer when they are entropy-coded; None where the method has no such form."""
        return None

    def dense_chain(self) -> tuple[Tensor, ...] | None:
        """The matrices ``(out, in)`` that inputs go through, where that and ``bias`` in the end are all of the layer.

        So it can stand as so many convolutions too.
        """
        return None

    def onnx_node(self, x: Tensor) -> Tensor:
        """The layer as traced for ONNX; methods with a function of their own emit one node here."""
        return self.transform(x)

    def onnx_functions(self) -> list[onnx.FunctionProto]:
        """Bodies, in standard operators, of the functions that `onnx_node` calls (inner ones first)."""
        return []

    # --- what all share -------------------------------------------------------------------------

    def __call__(self, *arguments: Any, **keywords: Any) -> Tensor:
        """As every module is called; where that is one small call of a kernel, without what surrounds it."""
        if torch.compiler.is_dynamo_compiling() or _exporting_onnx.get():
            return super().__call__(*arguments, **keywords)  # type: ignore[no-any-return]
        y = quick.call_layer(self, arguments, keywords)
        if y is None:
            y = super().__call__(*arguments, **keywords)
            is_ours = type(self).__module__.startswith(_OUR_LAYERS)  # a subclass elsewhere may do more, or in place
            quick.learn(self, arguments, y if is_ours else None)
        return y

    def forward(self, x: Tensor) -> Tensor:
        if x.size(-1) != self.in_features:  # most methods could do something with other inputs too
            raise ValueError(f"a {self.method} layer of {self.in_features} inputs was given a tensor {(*x.shape,)}")
        if torch.compiler.is_dynamo_compiling() or not _exporting_onnx.get():  # Dynamo cannot read a ContextVar
            return self.transform(x)
        return self.onnx_node(x)

    def own(self, name: str) -> Any:
        """The parameter ``name``, or what stands in its place where pruning or a parametrisation computes it.

        As attributes they take a microsecond each.
        """
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """The equivalent ``weight (out, in)`` and ``bias (out,)``; ValueError when the layer is not linear."""
        if not self.is_linear:
            raise ValueError(f"a {self.method} layer with a nonlinearity inside has no dense equivalent")
        reference = next(self.parameters())
        eye = torch.eye(self.in_features, dtype=reference.dtype, device=reference.device)
        offset = self.transform(torch.zeros_like(eye[:1]))[0]
        return (self.transform(eye) - offset).T, offset if self.has_bias else None

    def params(self) -> int:
        """Numbers that must be stored to rebuild the layer: parameters, persistent buffers, seeds."""
        stored: Iterable[Tensor] = self.state_dict(keep_vars=True).values()
        return sum(values.numel() for values in stored) + self.seeds

    def trained_params(self) -> int:
        """Numbers that training moves ("dynamic" parameters in the sources)."""
        return sum(parameter.numel() for parameter in self.parameters())

    def extra_repr(self) -> str:
        settings = ", ".join(f"{key}={value!r}" for key, value in self.config.model_dump().items())
        return f"{self.in_features}, {self.out_features}, bias={self.has_bias}, {settings}"


@dataclass(frozen=True)
class Method:
    """A registered method or preset: the layer class and the settings its name stands for."""

    name: str
    layer: type[StructuredLayer]
    settings: Mapping[str, Any]
    summary: str
    source: str

    def config(self, settings: Mapping[str, Any] | None = None) -> Any:
        """The method's configuration with ``settings`` over the preset's own."""
        return self.layer.Config.from_settings(f"method '{self.name}'", {**self.settings, **(settings or {})})


_methods: dict[str, Method] = {}


LayerClass = TypeVar("LayerClass", bound=type[StructuredLayer])


def register(
    name: str, *, source: str, presets: Mapping[str, Mapping[str, Any]] | None = None
) -> Callable[[LayerClass], LayerClass]:
    """Class decorator: enter a layer class as method ``name``, with named presets of it."""

    def enter(layer: LayerClass) -> LayerClass:
        summary = (layer.__doc__ or "").strip().splitlines()[0]
        layer.method = name
        for entry, settings in {name: {}, **(presets or {})}.items():
            if entry in _methods:
                raise ValueError(f"method '{entry}' is registered twice")
            _methods[entry] = Method(entry, layer, settings, summary, source)
        return layer

    return enter


def method(name: str) -> Method:
    """The registered method or preset ``name``; the nearest name is offered when there is none."""
    if name not in _methods:
        raise CompressorError(f"there is no method '{name}'; {nearest(name, _methods)}")
    return _methods[name]


def methods() -> dict[str, Method]:
    """All registered methods and presets, by name."""
    return dict(sorted(_methods.items()))


def largest(
    layer: type[StructuredLayer],
    sides: tuple[int, int],
    bias: bool,
    params: int,
    with_size: Callable[[int], Any],
    most: int,
    *,
    fits: Callable[[StructuredLayer], bool] = lambda _: True,
) -> Any:
    """``with_size(n)`` for the largest n in 1..``most`` whose layer stores at most ``params`` numbers; n = 1 if none.

    ``sides`` are in_features and out_features; the count must not fall as n grows. ``fits`` says what else must hold
    of the layer, and holds of smaller ones too.
    """
    low, high = 1, max(1, most)
    while low < high:
        middle = (low + high + 1) // 2
        with torch.device("meta"):
            tried = layer(*sides, bias=bias, config=with_size(middle))
        low, high = (middle, high) if tried.params() <= params and fits(tried) else (low, middle - 1)
    return with_size(low)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` at ``name``, wherever else the old one was registered too (shared modules)."""
    old = model.get_submodule(name)
    module.train(old.training)
    for place in [place for place, found in model.named_modules(remove_duplicate=False) if found is old]:
        model.set_submodule(place, module)


def build(name: str, in_features: int, out_features: int, *, bias: bool, config: Mapping[str, Any]) -> StructuredLayer:
    """A fresh layer of method ``name`` from plain data, as a manifest holds it."""
    entry = method(name)
    return entry.layer(
        in_features, out_features, bias=bias, config=entry.layer.Config.from_settings(f"method '{name}'", config)
    )
