"""The report as a value: what report.json holds, checked on the way in and on the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressor.errors import CompressorError

FILE = "report.json"


class _Value(BaseModel):
    """Frozen; unknown fields are refused; NaN and infinity are written as words, so that the file stays JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True, ser_json_inf_nan="strings")


class LatencyRow(_Value):
    """Milliseconds for one call: the median, and the 10th and 90th percentile."""

    median: float = Field(ge=0)
    p10: float = Field(ge=0)
    p90: float = Field(ge=0)


class Fidelity(_Value):
    """How near the original's outputs are: share of rows with the same argmax, and the relative error of all."""

    agreement: float | None = Field(None, ge=0, le=1)
    relative_error: float
    examples: int = Field(ge=0)


class Side(_Value):
    """One network: its size, its quality, its speed. What was not measured, or cannot be, is None or empty.

    ``params`` all numbers stored; ``dense_params`` those in the dense maps or in what stands for them;
    ``macs`` multiply-adds per example; ``size_bytes`` by file; ``latency_ms`` by runtime and batch size.
    ``metric`` names ``value``; ``accuracy`` and ``error`` (0 to 1) repeat it where it is the accuracy;
    ``fidelity`` stands there when no labels were given.
    """

    params: int | None = Field(None, ge=0)
    dense_params: int | None = Field(None, ge=0)
    macs: int | None = Field(None, ge=0)
    size_bytes: dict[str, int] = Field(default_factory=dict)
    latency_ms: dict[str, dict[str, LatencyRow]] = Field(default_factory=dict)
    metric: str | None = None
    value: float | None = None
    higher_is_better: bool | None = None
    accuracy: float | None = None
    error: float | None = None
    fidelity: Fidelity | None = None


class Stand(_Value):
    """Where one method stands at one layer: numbers stored, relative error of the fit in the metric of the inputs."""

    method: str
    params: int = Field(ge=1)
    error: float = Field(ge=0)


class LayerRow(_Value):
    """One entry of the plan: a dense map, or a run of them that one block replaced, or why it was kept.

    ``fit_error`` is relative, in the metric of the inputs seen, before any distillation. ``low_rank`` gives
    (rank, error) of the best maps of that rank, the layer's spectrum; ``stands`` the methods of this job.
    """

    name: str
    sites: list[str]
    in_features: int
    out_features: int
    calls: int = 1
    method: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    fit_error: float | None = None
    kept_because: str | None = None
    low_rank: list[tuple[int, float]] = Field(default_factory=list)
    stands: list[Stand] = Field(default_factory=list)


class Baseline(_Value):
    """Another method that did the same job, to compare with."""

    name: str
    side: Side
    note: str = ""


class Check(_Value):
    """A file that was read back and run: the largest difference, absolute and relative to the largest output."""

    file: str
    against: str
    max_abs: float
    max_rel: float
    tolerance: float
    rows: int


class Report(_Value):
    """All that a compression did and measured.

    ``status`` is "complete", "stopped early: …" or "dry run"; after a dry run both sides hold counts only.
    """

    model: str
    method: str
    status: str = Field(pattern=r"^(complete|dry run|stopped early: .+)$")
    before: Side
    after: Side
    layers: list[LayerRow] = Field(default_factory=list)
    baselines: list[Baseline] = Field(default_factory=list)
    verification: list[Check] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    wall_time_s: float = Field(ge=0)
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    seed: int
    threads: int

    @property
    def is_dry_run(self) -> bool:
        """Whether nothing was changed: the counts come from shapes alone."""
        return self.status == "dry run"

    def to_json(self) -> str:
        """The text of report.json."""
        return self.model_dump_json(indent=2) + "\n"


def read_report(folder: str | Path) -> Report:
    """The report of a finished folder; a folder without one, or a damaged one, raises CompressorError."""
    path = Path(folder) / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise CompressorError(
            f"{folder}: is not a finished compression (no {FILE}); give the folder that -o named"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CompressorError(f"{path}: cannot be read ({error}); run the compression again") from None
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise CompressorError(
            f"{path}: is not a report of this version ({where}: {first['msg']}{more}); run the compression again"
        ) from None
