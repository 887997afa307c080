"""A site's policy as text that a person can read and edit.

The text names every rule: a rule left out is refused, never taken from a default that may differ in
another version.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from polyclinic.core.errors import InputError
from polyclinic.privacy.policy import Policy

FORMAT = 1
NO_NUMBER = "none"
TABLES = {
    "allow": "What may be asked. A name may hold *; an empty list allows nothing.",
    "rules": "The numbers that guard every release.",
    "budget": "Differential privacy.",
}
REFUSES = "this site refuses every plan until a policy is signed"


def template(policy: Policy) -> str:
    """`policy` as TOML, each key below its rule in words. The same policy gives the same text."""
    words = _words()
    parts = [f"format = {FORMAT}"]
    for table, title in TABLES.items():
        parts += ["", f"# {title}", f"[{table}]"]
        later: list[str] = []
        for field, _ in _fields(table):
            value = getattr(policy, field.name)
            lines = [f"# {line}" for line in textwrap.wrap(words.get(field.name, field.name), 88)]
            if isinstance(value, Mapping):
                later += ["", *lines, f"[{table}.{field.name}]"]
                later += [f"{_text(key)} = {_toml(item)}" for key, item in value.items()]
            else:
                parts += [*lines, f"{field.name} = {_toml(value)}"]
        parts += later
    return "\n".join(parts) + "\n"


@lru_cache(maxsize=16)  # a site reads its policy before every answer
def parse(text: str, where: str = "policy") -> Policy:
    """The policy in `text`.

    Raises
    ------
    InputError : BAD_TOML, UNKNOWN_KEY, WRONG_VALUE; `where` names the file in its words.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise wrong(f"{where}: {error}", "the file is TOML 1.0", code="BAD_TOML") from None
    if type(content.get("format")) is not int or content["format"] != FORMAT:
        raise wrong(f"{where}: format is not {FORMAT}", f"the file begins with format = {FORMAT}")
    _known(content, ["format", *TABLES], where, "")
    values: dict[str, Any] = {}
    for table in TABLES:
        keys = content.get(table, {})
        if not isinstance(keys, dict):
            raise wrong(f'{where}: "{table}" is no table', f"[{table}] heads a table")
        fields = dict(_fields(table))
        _known(keys, [field.name for field in fields], where, table)
        for field, kind in fields.items():
            if field.name not in keys:
                raise wrong(
                    f'{where}: "{field.name}" is absent in [{table}]',
                    "a policy names every rule; nothing is filled in for you",
                    next=f"add {field.name} below [{table}]",
                )
            values[field.name] = _take(keys[field.name], kind, f"{where}: {field.name}")
    return _build(values, where)


@cache
def _fields(table: str) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """The fields of Policy that stand in `table`, with their types."""
    kinds = typing.get_type_hints(Policy)
    return tuple(
        (field, kinds[field.name])
        for field in dataclasses.fields(Policy)
        if _table_of(field.name, kinds[field.name]) == table
    )


def _table_of(name: str, kind: Any) -> str:
    if name in {"epsilon", "delta"}:
        return "budget"
    listed = typing.get_origin(kind) in {tuple, Mapping, dict}
    return "allow" if listed or kind is bool else "rules"


def _take(value: Any, kind: Any, where: str) -> Any:
    """A TOML value as a field of type `kind`; anything else is refused."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        rest = [one for one in inside if one is not type(None)]
        return None if value == NO_NUMBER else _take(value, rest[0], where)
    if origin is typing.Literal:
        if value in inside and type(value) is str:
            return value
        raise wrong(f"{where} has a value that is not allowed", f"one of {_list(inside)}")
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_take(item, inside[0], where) for item in value)
        raise wrong(f"{where} is no list", 'a list in brackets, for example ["glm.*"]')
    if origin is not None:
        if isinstance(value, dict):
            return {key: _take(item, inside[1], f"{where}.{key}") for key, item in value.items()}
        raise wrong(f"{where} is no table", "a table of lists, by the purpose that a study states")
    return _take_plain(value, kind, where)


def _take_plain(value: Any, kind: Any, where: str) -> Any:
    if kind is float and type(value) in (int, float):
        return value
    if type(value) is kind and kind in _IN_WORDS:
        return value
    raise wrong(f"{where} has a value of the wrong kind", _IN_WORDS.get(kind, "another kind"))


_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
}


def _build(values: Mapping[str, Any], where: str) -> Policy:
    try:
        return Policy(**values)
    except InputError as error:  # it names the rule and its range
        raise wrong(f"{where}: {error.what.removeprefix('policy: ')}", error.rule) from None


def _known(keys: Mapping[str, Any], allowed: list[str], where: str, table: str) -> None:
    for key in keys:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1, 0.6)
            inside = f" in [{table}]" if table else ""
            raise wrong(
                f"{where}: unknown key {json.dumps(key)}{inside}",
                f"keys{' of [' + table + ']' if table else ''}: {', '.join(allowed)}",
                code="UNKNOWN_KEY",
                next=f'did you mean "{close[0]}"?' if close else "remove the key",
            )


def _words() -> dict[str, str]:
    """Each rule in words, from the docstring of Policy: ``name   words``."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(Policy.__doc__ or "").splitlines():
        start = re.match(r"(\w+) {2,}(\S.*)", line)
        if start:
            name, found[start[1]] = start[1], start[2]
        elif name and line.startswith(" "):
            found[name] += f" {line.strip()}"
        else:
            name = ""
    return {name: _as_in_toml(text) for name, text in found.items()}


def _as_in_toml(text: str) -> str:
    return text.replace("``", "").replace("None:", f'"{NO_NUMBER}":').replace("False:", "false:")


def _toml(value: Any) -> str:
    if value is None:
        return _text(NO_NUMBER)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    return "[" + ", ".join(map(_toml, value)) + "]"


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's, but for DEL and half characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong("policy: a text holds half a character", "texts are UTF-8") from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: tuple[Any, ...]) -> str:
    return ", ".join(f'"{value}"' for value in values)


def wrong(
    what: str, rule: str, *, code: str = "WRONG_VALUE", next: str = "correct the file"
) -> InputError:
    """What is wrong with a policy, where, and the rule."""
    kept = f"{REFUSES}, nothing left a hospital"
    return InputError(what, code=code, rule=rule, next=next, kept=kept)
