"""TOML files against a pydantic model, with errors that a person can act on."""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from polyclinic.core.errors import InputError

Model = TypeVar("Model", bound=BaseModel)
NOTHING_READ = "nothing was read, nothing left a hospital"


def load_toml(path: str | Path, model: type[Model]) -> Model:
    """Read `path` into `model`.

    Raises
    ------
    InputError : NO_FILE, BAD_TOML, UNKNOWN_KEY or WRONG_VALUE, with the line where it can be found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        closed = isinstance(error, PermissionError)
        raise InputError(
            f"{path}: {reason}",
            code="NO_FILE",
            rule="the file and its folder are open to the account that runs this"
            if closed
            else "the file is UTF-8 TOML",
            next="give the account a copy of its own, where it may read"
            if closed
            else "check the path",
            kept=NOTHING_READ,
        ) from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"{path}: {error}",
            code="BAD_TOML",
            rule="the file is TOML 1.0",
            next="correct the line named above",
            kept=NOTHING_READ,
        ) from None
    return validate(content, model, str(path), text)


def validate(content: Mapping[str, Any], model: type[Model], where: str, text: str = "") -> Model:
    """`content` as a `model`; the first error in words."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _in_words(error, model, where, text) from None


def _in_words(error: ValidationError, model: type[BaseModel], where: str, text: str) -> InputError:
    first = next((e for e in error.errors() if e["type"] == "extra_forbidden"), error.errors()[0])
    path = [str(part) for part in first["loc"] if not _is_tag(part)]
    key, section = (path[-1] if path else ""), ".".join(path[:-1])
    place = f"{where}{_line(text, key)}"
    inside = f" in [{section}]" if section else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(model, path[:-1])
        close = difflib.get_close_matches(key, allowed, 1, 0.6)
        return InputError(
            f'{place}: unknown key "{key}"{inside}',
            code="UNKNOWN_KEY",
            rule=f"keys{' of [' + section + ']' if section else ''}: {', '.join(allowed)}",
            next=f'did you mean "{close[0]}"?' if close else "remove the key",
            kept=NOTHING_READ,
        )
    if first["type"] == "missing":
        return InputError(
            f'{where}: "{key}" is absent{inside}',
            code="WRONG_VALUE",
            rule=f'"{key}" must be given',
            next="add it",
            kept=NOTHING_READ,
        )
    message = first["msg"].removeprefix("Value error, ")
    return InputError(
        f'{place}: "{".".join(path) or where}" has a value that is not allowed',
        code="WRONG_VALUE",
        rule=message[:1].lower() + message[1:],
        next="correct the value",
        kept=NOTHING_READ,
    )


def _is_tag(part: Any) -> bool:
    """Parts that pydantic adds for the members of a union, such as "dict[str,float]"."""
    added = r"(dict|list|literal|constrained|str$|float$)"
    return isinstance(part, str) and bool(re.match(added, part))


def _line(text: str, key: str) -> str:
    pattern = re.compile(rf"(^|[\s{{,\[.]){re.escape(key)}\s*(=|\])")
    for number, line in enumerate(text.splitlines(), 1):
        if key and pattern.search(line.split("#")[0]):
            return f" line {number}"
    return ""


def _keys_at(model: Any, path: list[str]) -> list[str]:
    """The keys that the model allows at `path`."""
    for part in path:
        model = _plain(model)
        if typing.get_origin(model) is dict:
            model = typing.get_args(model)[1]
            continue
        fields = getattr(model, "model_fields", {})
        model = next((f.annotation for n, f in fields.items() if (f.alias or n) == part), None)
    fields = getattr(_plain(model), "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _plain(annotation: Any) -> Any:
    """The model or dict inside Optional, a union or Annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        options = [_plain(a) for a in typing.get_args(annotation) if a is not type(None)]
        return next((o for o in options if hasattr(o, "model_fields")), options[0])
    return annotation
