"""The manifest: what rebuilds the structured layers of a compressed network, as plain data."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from compressor.errors import CompressorError
from compressor.layers import StructuredLayer, build, replace
from compressor_converters.opening import KINDS, opened_in, reopen
from compressor_converters.opening.attention import settle_fused_paths

FORMAT = 1
_LARGEST = 1 << 30  # numbers in one layer


class LayerEntry(BaseModel):
    """One structured layer: enough to build it before its parameters are loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    bias: bool
    config: dict[str, Any]


class Manifest(BaseModel):
    """All that stands beside the parameters in ``model.safetensors``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    compressor_version: str
    arch: str | None = Field(None, description="where the original network was built from; never called unasked")
    input_names: tuple[str, ...] = ()
    opened: dict[str, str] = Field(
        {}, description="modules whose dense maps are modules of their own here, with the kind"
    )
    layers: dict[str, LayerEntry] = {}
    places: dict[str, str] = Field({}, description="further names of layers that stand in several places")
    identities: tuple[str, ...] = Field((), description="modules that a window swallowed")
    shared: dict[str, str] = Field({}, description="names of tensors that are the same as another one")

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, data: Any) -> Any:
        """Before the fields, for a newer file may have more of them."""
        found = data.get("format", FORMAT) if isinstance(data, dict) else FORMAT
        if isinstance(found, int) and found > FORMAT:
            raise CompressorError(
                f"the file has format {found}, written by version {data.get('compressor_version')}; this version"
                f" reads up to {FORMAT}: install a newer one"
            )
        return data


def describe(model: nn.Module, *, arch: str | None = None, input_names: tuple[str, ...] = ()) -> Manifest:
    """The manifest of a network that holds structured layers."""
    from compressor import __version__

    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, StructuredLayer):
            layers[name] = LayerEntry(
                method=module.method,
                in_features=module.in_features,
                out_features=module.out_features,
                bias=module.has_bias,
                config=module.config.model_dump(mode="json"),
            )
    everywhere = list(model.named_modules(remove_duplicate=False))
    names = {id(model.get_submodule(name)): name for name in layers}
    places = {name: first for name, module in everywhere if (first := names.get(id(module), name)) != name}
    identities = tuple(name for name, module in everywhere if type(module) is nn.Identity)
    return Manifest(
        compressor_version=__version__,
        arch=arch,
        input_names=input_names,
        opened=opened_in(model),
        layers=layers,
        places=places,
        identities=identities,
        shared=shared_tensors(model),
    )


def shared_tensors(model: nn.Module) -> dict[str, str]:
    """Names in the state dict whose tensor has another, earlier name."""
    first: dict[int, str] = {}
    again: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        known = first.setdefault(id(tensor), name)
        if known != name:
            again[name] = known
    return again


def made(name: str, entry: LayerEntry, numbers: int | None = None) -> StructuredLayer:
    """The layer ``name`` before its parameters are loaded; one that needs more than ``numbers`` is refused before it
    takes any memory."""
    _check_size(name, entry, numbers)
    with torch.random.fork_rng(devices=[]):
        return build(entry.method, entry.in_features, entry.out_features, bias=entry.bias, config=entry.config)


def apply(model: nn.Module, manifest: Manifest, numbers: int | None = None) -> None:
    """Put fresh structured layers (and identities) where ``manifest`` has them, in place.

    ``numbers`` is how many the file holds: a layer that would need more is refused before it takes any memory.
    """
    _reopen(model, manifest.opened)
    for name, entry in manifest.layers.items():
        _check_place(model, name, entry)
        replace(model, name, made(name, entry, numbers))
    for name, first in manifest.places.items():
        if first not in manifest.layers or not _has(model, name):
            raise CompressorError(
                f"the file expects a layer '{name}' that this network does not have; give the original"
            )
        model.set_submodule(name, model.get_submodule(first))
    for name in manifest.identities:
        if name in manifest.layers or not _has(model, name):
            raise CompressorError(
                f"the file expects a module '{name}' that this network does not have; give the original"
            )
        replace(model, name, nn.Identity())
    settle_fused_paths(model)


def _reopen(model: nn.Module, opened: dict[str, str]) -> None:
    for name, kind in opened.items():
        if kind not in KINDS:
            raise CompressorError(
                f"the file opens '{name}' as {kind}, which this version does not know; install a newer one"
            )
        if not _has(model, name) or not KINDS[kind].takes(model.get_submodule(name)):
            raise CompressorError(
                f"the file expects a {kind} '{name}' that this network does not have; give the original"
            )
    reopen(model, opened)


def _has(model: nn.Module, name: str) -> bool:
    return any(found == name for found, _ in model.named_modules(remove_duplicate=False))


def _check_size(name: str, entry: LayerEntry, numbers: int | None) -> None:
    most = _LARGEST if numbers is None else min(_LARGEST, numbers)
    sizes = {key: value for key, value in entry.config.items() if type(value) is int and key != "seed"}
    for key, value in {**sizes, "out_features": entry.out_features, "in_features": entry.in_features}.items():
        if value > most:
            raise CompressorError(
                f"the file's layer '{name}' has {key} {value:,}, and the file {most:,} numbers at most"
            )
    with torch.device("meta"):
        layer = build(entry.method, entry.in_features, entry.out_features, bias=entry.bias, config=entry.config)
    needed = sum(value.numel() for value in layer.state_dict().values())
    if needed > most:
        raise CompressorError(f"the file's layer '{name}' needs {needed:,} numbers, and the file holds {most:,}")


def _check_place(model: nn.Module, name: str, entry: LayerEntry) -> None:
    if not _has(model, name):
        raise CompressorError(f"the file expects a layer '{name}' that this network does not have; give the original")
    place = model.get_submodule(name)
    if isinstance(place, StructuredLayer):
        raise CompressorError(f"'{name}' of this network is structured already; give the original network")
    if isinstance(place, nn.Linear) and place.in_features != entry.in_features:
        raise CompressorError(
            f"'{name}' takes {place.in_features} features in this network and {entry.in_features} in the file;"
            " give the original network"
        )
