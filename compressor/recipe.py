"""The recipe: everything that a run was asked, as YAML; running it again gives the same result."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from compressor import __version__
from compressor.errors import CompressorError
from compressor.plan import Plan
from compressor.training import Training

_MOST_BYTES = 1 << 24
_MOST_VALUES = 1 << 20
_DEEPEST = 50  # of lists and mappings in each other


class Recipe(BaseModel):
    """What a run was asked. Paths stand as the user gave them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(None, description="file, or module:callable; absent for a live module")
    model_sha256: str | None = Field(None, description="of the model file, checked when the recipe is run again")
    arch: str | None = Field(None, description="module:callable that builds the network of a state dict")
    method: str = "acdc"
    settings: dict[str, Any] = Field(default_factory=dict, description="the method's own options")
    target: tuple[str, ...] = Field((), description="globs of the dense layers to replace; all when empty")
    ignore: tuple[str, ...] = Field((), description="globs of the dense layers to keep")
    window: str = Field("auto", description="auto, off or FIRST..LAST")
    data: str | None = None
    data_fingerprint: str | None = None
    eval_data: str | None = None
    label_key: str | None = None
    normalize: str | None = None
    input_shape: dict[str, tuple[PositiveInt, ...]] | None = None
    metric: str | None = None
    epochs: int | None = Field(None, ge=0)
    training: dict[str, Any] = Field(default_factory=dict, description="other options of the training")
    time_limit: float | None = Field(None, gt=0, description="seconds")
    seed: int = Field(0, ge=0, lt=1 << 32)  # epochs count on from a multiple of it, and torch takes 64 bits
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    baselines: tuple[str, ...] = ()
    stream: bool = Field(False, description="weights only, layer by layer: for models that hardly fit in memory")
    plan: Plan | None = Field(None, description="what each site became; replayed when present")

    def how(self) -> Training:
        """How the whole network is trained; CompressorError for a wrong option."""
        epochs = {} if self.epochs is None else {"epochs": self.epochs}
        return Training.from_settings("training", {**self.training, **epochs})

    def to_yaml(self) -> str:
        """The recipe as text; options that were not given are left out, but for the method and the seed."""
        asked = {**self.model_dump(mode="json", exclude_defaults=True), "method": self.method, "seed": self.seed}
        ordered = {name: asked[name] for name in type(self).model_fields if name in asked}
        return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """A short name for the work this recipe asks for: two runs that share it may share a checkpoint."""
        asked = self.model_dump_json(exclude={"baselines", "time_limit"})
        return hashlib.sha256(f"{__version__} {torch.__version__} {asked}".encode()).hexdigest()[:16]


class _Loader(yaml.SafeLoader):
    """Plain data, not nested beyond reason: the scanner takes time with the square of the depth."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        self._check_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._check_depth(len(self.indents))
        return bool(super().add_indent(column))

    def _check_depth(self, depth: int) -> None:
        if depth >= _DEEPEST:
            raise yaml.YAMLError(f"nested more than {_DEEPEST} deep")


def read_recipe(path: Path) -> Recipe:
    """The recipe in the YAML file ``path``; plain data only, no tags."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CompressorError(f"recipe {path}: has {path.stat().st_size:,} bytes, more than {_MOST_BYTES:,}")
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
        _count(found, path)
        return Recipe.model_validate(found)
    except OSError as error:
        raise CompressorError(f"recipe {path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise CompressorError(f"recipe {path}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise _invalid(path, error) from None
        raise CompressorError(f"recipe {path}: is not plain YAML: {' '.join(str(error).split())}") from None


def refuse_code_in(folder: Path, recipe: Recipe, *, is_original_given: bool = False) -> None:
    """CompressorError where the recipe of ``folder`` names code that lies in it: such a folder may be from anybody.

    With an original that was given, the recipe's own is not read.
    """
    inside = folder.resolve()
    for name in ("model", "arch", "data", "eval_data", "metric"):
        module, colon, _ = (getattr(recipe, name) or "").rpartition(":")
        if not colon or (name == "model" and is_original_given):
            continue
        if any(place.resolve().is_relative_to(inside) for place in _places(module)):
            raise CompressorError(
                f"{folder}: its recipe names code inside of it ({name}: {module[:80]}), which is not run unasked; name"
                " the original yourself with --original, or move the code out of the folder"
            )


def _places(module: str) -> Iterator[Path]:
    """Where the code of ``module`` may lie: its file, or folders of modules on Python's path and here.

    A folder without ``__init__`` is a package too where it holds the module.
    """
    if module.endswith(".py"):
        yield Path(module)
        return
    yield Path.cwd()
    for root in (Path.cwd(), *map(Path, sys.path)):
        place = root.joinpath(*module.split("."))
        yield place.parent
        if any(place.glob("__init__.*")):
            yield place


def _invalid(path: Path, error: ValidationError) -> CompressorError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return CompressorError(f"recipe {path}: {where} is not valid: {first['msg']}")


def _count(value: object, path: Path) -> None:
    """Refuse what is small in the file and endless once its aliases are followed."""
    pending, count = [value], 0
    while pending:
        item = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise CompressorError(
                f"recipe {path}: holds more than {_MOST_VALUES:,} values once its aliases are followed"
            )
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            pending += item
