"""The kinds of values that the file format is made of, shared by all its models."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from windlass.definition.quantities import format_duration, parse_duration, parse_size
from windlass.engine.core import units

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}\Z")
NAME_RULE = (
    "a name starts with a letter (a to z) or _, goes on with letters, digits, _ or -, and has at most 100 characters"
)
CODE = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,99}\Z")  #: the alphabet of runtimes/failures.py too
#: What a task may be given beyond the default; `GRANTS` of runtimes/port.py too.
GRANTS = {"clock": "a real clock"}
CODE_RULE = "1 to 100 letters, digits and _ . : -, the first one a letter or _"


class Authoring(BaseModel):
    """Root of the models: nothing unknown is let through, nothing is converted behind the author's back."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=False)


def check_name(text: str) -> str:
    """Raises ValueError if the text cannot be a name of the definition."""
    if not NAME.match(text):
        raise ValueError(f"{text[:120]!r} is not a name: {NAME_RULE}")
    return text


def _check_code(text: str) -> str:
    if not CODE.match(text):
        raise ValueError(f"{text[:120]!r} is not an error code: {CODE_RULE}")
    return text


def _check_grant(text: str) -> str:
    if text not in GRANTS:
        known = ", ".join(f"{name!r} ({what})" for name, what in GRANTS.items())
        raise ValueError(f"there is no {text[:120]!r} to grant: a task can be granted {known}")
    return text


def _check_needs(needs: dict[str, Any]) -> dict[str, int]:
    """Raises ValueError if this cannot be what a task needs."""
    if len(needs) > units.NEEDS_MAX:
        raise ValueError(f"a task needs at most {units.NEEDS_MAX} different units, not {len(needs)}")
    return needs


def short_form(key: str, *kinds: type) -> Callable[[Any], Any]:
    """For a before-validator: a bare value of one of these kinds stands for the object that has only this key."""

    def expand(value: Any) -> Any:
        return {key: value} if isinstance(value, kinds) else value

    return expand


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_condition(value: Any) -> Any:
    """`when: true` is YAML's boolean and CEL's too."""
    return str(value).lower() if isinstance(value, bool) else value


Name = Annotated[str, AfterValidator(check_name)]
Duration = Annotated[int, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Condition = Annotated[str, BeforeValidator(_as_condition)]
Names = Annotated[list[Name], BeforeValidator(_as_list)]
Codes = Annotated[list[Annotated[str, AfterValidator(_check_code)]], BeforeValidator(_as_list)]
ErrorCode = Annotated[str, AfterValidator(_check_code)]
Grants = Annotated[list[Annotated[str, AfterValidator(_check_grant)]], BeforeValidator(_as_list)]
Needs = Annotated[dict[str, int], AfterValidator(_check_needs)]
JsonObject = dict[str, Any]
