"""Options that a person sets by name: typed, checked, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from compressor.errors import CompressorError, nearest


class Settings(BaseModel):
    """A group of options; unknown names and values that do not fit are refused in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_settings(cls, owner: str, settings: Mapping[str, Any]) -> Self:
        """Check ``settings`` (strings from ``--set key=value`` are converted); ``owner`` is whose options they are."""
        for key in settings:
            if key not in cls.model_fields:
                raise CompressorError(f"{owner} has no setting '{key}'; {nearest(key, cls.model_fields)}")
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "settings"
            raise CompressorError(f"{owner}: {where}={first['input']!r:.80} is not valid: {first['msg']}") from None
