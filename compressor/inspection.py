"""What a model holds: every dense map, and what each method would make of it, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from compressor.case import Case, open_case
from compressor.layers import Method, methods
from compressor.measure import count_params
from compressor.recipe import Recipe
from compressor.sites import Site
from compressor_converters.onnx_in import OnnxNetwork


class Offer(BaseModel):
    """What one method, at its default settings, makes of a dense map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: int
    macs: int = Field(description="multiply-adds per example")
    smaller: bool = Field(description="whether it has fewer parameters than the dense map")


class DenseMap(BaseModel):
    """One dense map of the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    in_features: int
    out_features: int
    bias: bool
    calls: int = Field(description="times it is called in one forward pass")
    params: int
    macs: int = Field(description="multiply-adds per example")
    share: float = Field(description="of all parameters of the model, 0 to 1")
    offers: dict[str, Offer] = Field(description="by method name")


class Inspection(BaseModel):
    """The dense maps of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    params: int
    dense_params: int
    chains: list[list[str]] = Field(description="runs of dense maps with only activations between them")
    dense_maps: list[DenseMap]
    notes: list[str]


def inspect(
    recipe: Recipe, *, model: nn.Module | None = None, data: object = None, unsafe_load: bool = False
) -> Inspection:
    """Look at ``recipe.model`` (or the live ``model``) without changing or training anything."""
    case = open_case(recipe, model=model, data=data, meta=True, unsafe=unsafe_load)
    total = count_params(case.model) + (case.model.numbers_outside() if isinstance(case.model, OnnxNetwork) else 0)
    rows = [
        DenseMap(
            name=site.name,
            in_features=site.in_features,
            out_features=site.out_features,
            bias=site.bias,
            calls=site.calls,
            params=site.params,
            macs=site.macs,
            share=site.params / total,
            offers={name: _offer(entry, site) for name, entry in methods().items()},
        )
        for site in case.sites.values()
    ]
    return Inspection(
        model=case.loaded.source,
        params=total,
        dense_params=sum(row.params for row in rows),
        chains=_chains(case),
        dense_maps=rows,
        notes=[note for note in case.notes if "no data" not in note and "set aside" not in note],
    )


def _offer(entry: Method, site: Site) -> Offer:
    with torch.device("meta"):
        layer = entry.layer(site.in_features, site.out_features, bias=site.bias, config=entry.config())
    return Offer(params=layer.params(), macs=round(layer.macs() * site.rows), smaller=layer.params() < site.params)


def _chains(case: Case) -> list[list[str]]:
    runs: Sequence[tuple[str, ...]] = [run.sites for run in case.runs or ()]
    return [list(names) for names in runs if len(names) > 1]
