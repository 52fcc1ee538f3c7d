"""Tables of the configuration as classes, checked by the core of pydantic.

By its core alone: pydantic's own classes, which are made of it, take a quarter of the time that a command needs to
start, and every command reads the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator

Schema = dict[str, Any]
_REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """A key of a table: what its value must be and means, what an error offers instead, and what it is where it is
    unsaid."""

    schema: Schema
    help: str
    example: str
    default: Any
    section: type[Section] | None
    check_default: bool

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    @property
    def kind(self) -> str:
        """What its value must be, in words."""
        return _in_words(self.schema)

    def field(self) -> Schema:
        if self.required:
            return {"type": "model-field", "schema": self.schema}
        unsaid = {"default_factory": lambda: copy(self.default), "validate_default": self.check_default}
        return {"type": "model-field", "schema": {"type": "default", "schema": self.schema, **unsaid}}


def key(
    schema: Schema,
    *,
    help: str,  # noqa: A002 - as for a plugin's option
    example: str,
    default: Any = _REQUIRED,
    check_default: bool = False,
) -> Any:
    """A key of a ``Section``, required without a default. ``help`` is what the reference says of it; ``example`` is a
    value as it would stand in the file."""
    return Key(schema, help, example, default, _nested(schema), check_default)


def _nested(schema: Schema) -> type[Section] | None:
    found = schema.get("metadata", {}).get("section")
    return found if found is not None or "schema" not in schema else _nested(schema["schema"])


class Section:
    """A table whose keys are those of its class; of a subclass with ``shared`` whatever else it holds is kept, too."""

    shared: ClassVar[bool] = False
    fields: ClassVar[dict[str, Key]] = {}

    def __init_subclass__(cls, *, shared: bool | None = None) -> None:
        cls.shared = cls.shared if shared is None else shared
        cls.fields = {name: value for name, value in vars(cls).items() if isinstance(value, Key)}

    def __init__(self, values: dict[str, Any], others: dict[str, Any] | None) -> None:
        self.__dict__.update(values, others=others or {})

    others: dict[str, Any]
    """What a shared table holds besides."""

    @classmethod
    def read(cls, raw: object, base: Path) -> Self:
        """A table as TOML gave it; paths in it are relative to ``base``. Raises ``ValidationError`` with all that is
        wrong in it."""
        return cast("Self", _validator(cast("Any", cls)).validate_python(raw, context={"base": base}))


def table(section: type[Section]) -> Schema:
    """A table inside another one."""
    fields = {
        "type": "model-fields",
        "fields": {name: one.field() for name, one in section.fields.items()},
        "extra_behavior": "allow" if section.shared else "forbid",
    }
    made_of = {"type": "no-info", "function": lambda found: section(found[0], found[1])}
    return {
        "type": "function-after",
        "schema": fields,
        "function": made_of,
        "metadata": {"section": section},
    }


@cache
def _validator(section: Any) -> SchemaValidator:
    # Strict: "4" is no number. Values are kept out of errors, because any may be a secret.
    config: Any = {"strict": True, "hide_input_in_errors": True}
    return SchemaValidator(cast("CoreSchema", table(section)), config)


# --- values ----------------------------------------------------------------------------------------------


def text(words: str = "text") -> Schema:
    """A text that is not empty."""
    return {"type": "str", "min_length": 1, "metadata": {"words": words}}


def number(least: int, most: int) -> Schema:
    return {"type": "int", "ge": least, "le": most}


def listed(schema: Schema) -> Schema:
    return {"type": "list", "items_schema": schema}


def optional(schema: Schema) -> Schema:
    return {"type": "nullable", "schema": schema}


def checked(schema: Schema, check: Callable[[Any], Any], words: str = "") -> Schema:
    """What the schema lets through, and then ``check``, which may raise what ``refused`` makes. ``words`` say what
    that comes to."""
    return {
        "type": "function-after",
        "schema": schema,
        "function": {"type": "no-info", "function": check},
        "metadata": {"words": words},
    }


def made(make: Callable[..., Any], words: str, *, of_base: bool = False) -> Schema:
    """What ``make`` makes of any value; it may raise what ``refused`` makes. ``words`` say what it takes. With
    ``of_base`` it is told the folder."""
    about = {"words": words}
    if not of_base:
        return {
            "type": "function-plain",
            "function": {"type": "no-info", "function": make},
            "metadata": about,
        }

    def with_base(value: Any, info: Any) -> Any:
        return make(value, info.context["base"])

    return {
        "type": "function-plain",
        "function": {"type": "with-info", "function": with_base},
        "metadata": about,
    }


def _in_words(schema: Schema) -> str:
    if words := schema.get("metadata", {}).get("words"):
        return str(words)
    match schema["type"]:
        case "str":
            return "text"
        case "bool":
            return "true or false"
        case "int":
            return f"number, {schema['ge']} to {schema['le']}"
        case "list":
            return f"list of {_in_words(schema['items_schema'])}"
        case "model-fields":
            return "table"
        case _:
            return _in_words(schema["schema"])


def refused(reason: str, remedy: str) -> PydanticCustomError:
    """An error about a value, in words that do not repeat it where it may be a secret."""
    return PydanticCustomError("dualcert", "{reason}", {"reason": reason, "remedy": remedy})
