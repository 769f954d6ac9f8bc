"""The plan: what each site becomes, as a value that can be printed, edited, stored and replayed."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from compressor.errors import CompressorError, nearest
from compressor.layers import Method, StructuredLayer, build, method
from compressor.sites import Run, Site

SMALL_LAST_LAYER = 0.05  # of all dense parameters: below it a last layer is kept unless targeted by name


class Entry(BaseModel):
    """One window of the model and what it becomes; ``method`` None keeps it dense, because of ``kept_because``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sites: tuple[str, ...] = Field(min_length=1)
    passed: tuple[str, ...] = ()  # activation modules inside the window; they become identities
    method: str | None = None
    config: dict[str, Any] = {}
    kept_because: str | None = None

    @property
    def name(self) -> str:
        """The site where the block will stand."""
        return self.sites[0]


class Plan(BaseModel):
    """Entries in the order of the model's calls; together they name every site once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: tuple[Entry, ...]

    @property
    def replaced(self) -> tuple[Entry, ...]:
        """The entries that become structured."""
        return tuple(entry for entry in self.entries if entry.method is not None)


def layer_for(entry: Entry, sites: Mapping[str, Site], *, device: str = "meta") -> StructuredLayer:
    """The block that ``entry`` asks for; on the meta device it costs nothing and can be counted."""
    if entry.method is None:
        raise ValueError(f"'{entry.name}' is kept dense")
    first, last = sites[entry.sites[0]], sites[entry.sites[-1]]
    with torch.device(device):
        return build(entry.method, first.in_features, last.out_features, bias=last.bias, config=entry.config)


def make_plan(
    sites: Sequence[Site],
    runs: Sequence[Run] | None,
    name: str,
    settings: Mapping[str, Any],
    *,
    target: Sequence[str] = (),
    ignore: Sequence[str] = (),
    window: str = "auto",
    seed: int = 0,
    budget: Mapping[str, int] | None = None,
) -> Plan:
    """Decide what each site becomes under method ``name``.

    ``runs`` are the model's chains of sites, None where it could not be traced. ``budget`` gives parameters
    for a block by the name of its first site, for a comparison at equal sizes.
    """
    chosen = method(name)
    known = {site.name: site for site in sites}
    _check_patterns(known, target, ignore)
    kept = {site.name: reason for site in sites if (reason := _reason_to_keep(site, sites, target, ignore, chosen))}
    block = probe(sites, name, settings, target=target, ignore=ignore)
    entries: list[Entry] = []
    for names, passed in _windows(sites, runs, kept, block, window):
        if names[0] in kept and len(names) == 1:
            entries.append(Entry(sites=names, kept_because=kept[names[0]]))
            continue
        entries.append(_entry(chosen, settings, names, passed, known, seed, budget))
    return Plan(entries=tuple(entries))


def _check_patterns(known: Mapping[str, Site], target: Sequence[str], ignore: Sequence[str]) -> None:
    for pattern in (*target, *ignore):
        if not fnmatch.filter(known, pattern):
            raise CompressorError(f"no dense layer matches '{pattern}'; {nearest(pattern, known)}")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether any of ``patterns`` (with ``*``, as a shell's) names ``name``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _reason_to_keep(
    site: Site, sites: Sequence[Site], target: Sequence[str], ignore: Sequence[str], chosen: Method
) -> str | None:
    if site.calls == 0:
        return "it is never called with this input"
    if matches(site.name, ignore):
        return "ignored by name"
    if target and not matches(site.name, target):
        return "not targeted"
    if site.obstacle is not None:
        return site.obstacle
    if site.tied_to is not None:
        return f"it shares its weight or bias with '{site.tied_to}', which needs it dense"
    share = site.params / sum(other.params for other in sites)
    small = site.is_last and share < SMALL_LAST_LAYER and site.name not in target and len(sites) > 1
    if small:
        return f"small last layer ({share:.1%} of the dense parameters); --target {site.name} replaces it too"
    return None


def _windows(
    sites: Sequence[Site],
    runs: Sequence[Run] | None,
    kept: Mapping[str, str],
    block: StructuredLayer | None,
    window: str,
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Groups of site names in order, each with the activation modules inside it, for a method that makes ``block``."""
    singles: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((site.name,), ()) for site in sites]
    if window == "off" or block is None or (window == "auto" and block.is_linear):
        return singles
    if runs is None:
        if window == "auto":
            return singles
        raise CompressorError("windows were asked for, but the model cannot be traced; give --set window=off")
    runs = [part for run in runs for part in _removable(run)]
    runs_found = (
        [_explicit(runs, window)] if window != "auto" else [_automatic(r, kept, block.has_readout) for r in runs]
    )
    grouped: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for run, names in runs_found:
        inner = run.activations[run.sites.index(names[0]) : run.sites.index(names[-1])] if names else ()
        for name in names:
            grouped[name] = (names, tuple(module for passed in inner for module in passed or ()))
    out: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for site in sites:
        names, passed = grouped.get(site.name, ((site.name,), ()))
        if names[0] == site.name:
            out.append((names, passed))
    return out


def _removable(run: Run) -> list[Run]:
    """``run`` cut where an activation cannot be taken out: one that other parts of the model use too."""
    parts, start = [], 0
    for i, passed in enumerate(run.activations):
        if passed is None or i + 1 == len(run.sites):
            parts.append(Run(run.sites[start : i + 1], run.activations[start : i + 1], run.functions[start : i + 1]))
            start = i + 1
    return parts


def _automatic(run: Run, kept: Mapping[str, str], has_readout: bool) -> tuple[Run, tuple[str, ...]]:
    """The longest part of ``run`` that may be replaced; a block with a dense readout takes the last layer too."""
    names = [name for name in run.sites if name not in kept]
    if has_readout and names and names == list(run.sites[: len(names)]):
        following = run.sites[len(names) : len(names) + 1]
        names += [name for name in following if kept[name].startswith("small last layer")]
    contiguous = tuple(names) in {run.sites[i : i + len(names)] for i in range(len(run.sites))}
    return run, tuple(names) if contiguous else ()


def _explicit(runs: Sequence[Run], window: str) -> tuple[Run, tuple[str, ...]]:
    first, dots, last = window.partition("..")
    for run in runs:
        if first in run.sites and last in run.sites and dots:
            start, end = run.sites.index(first), run.sites.index(last)
            if start <= end:
                return run, run.sites[start : end + 1]
    chains = "; ".join(" .. ".join((run.sites[0], run.sites[-1])) for run in runs)
    raise CompressorError(f"window={window}: give auto, off or FIRST..LAST inside one of these chains: {chains}")


def probe(
    sites: Sequence[Site],
    name: str,
    settings: Mapping[str, Any],
    *,
    target: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> StructuredLayer | None:
    """A block for the first site that is replaced, to be asked what it is; None when all are kept.

    On the site's own sizes, for some settings fit no others.
    """
    chosen = method(name)
    replaced = [site for site in sites if not _reason_to_keep(site, sites, target, ignore, chosen)]
    if not replaced:
        return None
    with torch.device("meta"):
        return chosen.layer(replaced[0].in_features, replaced[0].out_features, config=chosen.config(settings))


def _entry(
    chosen: Method,
    settings: Mapping[str, Any],
    names: tuple[str, ...],
    passed: tuple[str, ...],
    known: Mapping[str, Site],
    seed: int,
    budget: Mapping[str, int] | None,
) -> Entry:
    settings = dict(settings)
    if "seed" in chosen.layer.Config.model_fields and "seed" not in settings:
        settings["seed"] = _site_seed(seed, names[0])
    config = chosen.config(settings)
    first, last = known[names[0]], known[names[-1]]
    if budget is not None and names[0] in budget:
        config = chosen.layer.config_for_params(
            first.in_features, last.out_features, last.bias, budget[names[0]], config
        )
    entry = Entry(sites=names, passed=passed, method=chosen.layer.method, config=config.model_dump(mode="json"))
    layer = layer_for(entry, known)
    before, after = sum(known[name].params for name in names), layer.params()
    if layer.is_sized and after >= before:
        return Entry(sites=names, kept_because=f"{chosen.name} would not be smaller ({after:,} against {before:,})")
    return entry


def _site_seed(seed: int, name: str) -> int:
    """A seed of its own for every site, from the run's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "little")
