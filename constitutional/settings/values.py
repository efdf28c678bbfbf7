"""Kinds of values that settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

Scalar = bool | int | float | str | None
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _spec(value: str) -> str:
    if ":" not in value.strip(":"):
        raise ValueError("expected a model spec KIND:NAME")
    return value


def _spec_or_self(value: str) -> str:
    return value if value == "self" else _spec(value)


Spec = Annotated[str, AfterValidator(_spec)]
SpecOrSelf = Annotated[str, AfterValidator(_spec_or_self)]
