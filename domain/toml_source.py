"""Turning a TOML text into a typed struct, with errors that name the line, the field and the nearest known name."""

import difflib
import re
import tomllib
from typing import Any, TypeVar, get_args

import msgspec

from domain.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

_TABLE = re.compile(r"^\s*\[(\[?)\s*([A-Za-z0-9_.-]+)\s*\]\]?")
_ASSIGNED = re.compile(r"^\s*([A-Za-z0-9_.-]+)\s*=")
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")


def line_of(text: str, path: list[str | int]) -> int | None:
    """Return the 1-based line of the value at `path` (["product", 1, "sku", 0, "id"]), or that of the table around it.

    Which `[[table]]` an index counts is seen from the headers above; text inside multi-line strings is not told apart.
    """
    best: tuple[int, int] | None = None
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = _TABLE.match(line)
        assigned = None if header else _ASSIGNED.match(line)
        if header:
            table = _opened(header.group(2).split("."), counts, is_array=bool(header.group(1)))
            here = table[:-1] if list(table[:-1]) == path else table  # the whole array is meant: its first table
        elif assigned:
            here = (*table, *assigned.group(1).split("."))
        else:
            continue
        if list(here) == path[: len(here)] and (best is None or len(here) > best[0]):
            best = len(here), number
    return best[1] if best else None


def _opened(names: list[str], counts: dict[tuple[str | int, ...], int], *, is_array: bool) -> tuple[str | int, ...]:
    """Return the path of a table that a header opens; `counts` holds how many tables each array has so far."""
    table: tuple[str | int, ...] = ()
    for name in names[:-1]:
        table = (*table, name)
        if table in counts:
            table = (*table, counts[table] - 1)
    table = (*table, names[-1])
    if is_array:
        counts[table] = counts.get(table, 0) + 1
        table = (*table, counts[table] - 1)
    return table


def nearest(name: str, known: list[str]) -> str:
    """Return a hint that names the nearest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"


def place(source: str, text: str, path: list[str | int]) -> str:
    """Return where a value stands, as `catalog.toml, line 7: product[1].sku[0].id`."""
    line = line_of(text, path)
    dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    where = source if line is None else f"{source}, line {line}"
    return f"{where}: {dotted}" if dotted else where


def _struct_in(kind: object) -> type[msgspec.Struct] | None:
    """Return the struct type inside an annotation such as `tuple[Sku, ...]`, if any."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for arg in get_args(kind) if (found := _struct_in(arg))), None)


def _refuse_unknown(source: str, text: str, data: object, kind: type[msgspec.Struct], path: list[str | int]) -> None:
    if isinstance(data, list):
        for number, item in enumerate(data):
            _refuse_unknown(source, text, item, kind, [*path, number])
        return
    if not isinstance(data, dict):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in data.items():
        if name not in fields:
            where = place(source, text, [*path, name])
            raise ConfigError(f"{where}: unknown name; {nearest(name, list(fields))}")
        inner = _struct_in(fields[name])
        if inner is not None:
            _refuse_unknown(source, text, value, inner, [*path, name])


def parse(text: str, source: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ConfigError: not TOML; the message names the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None


def convert(data: dict[str, Any], kind: type[S], *, source: str, text: str = "", strict: bool = True) -> S:
    """Convert parsed TOML to a struct.

    Raises:
        ConfigError: an unknown name or a value of the wrong kind or size; the message names line and field.
    """
    _refuse_unknown(source, text, data, kind, [])
    try:
        return msgspec.convert(data, kind, strict=strict)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        path: list[str | int] = [
            int(index) if index else name for name, index in _STEP.findall(where.rstrip("`").replace("[...]", ""))
        ]
        missing = re.search(r"missing required field `([^`]+)`", message)
        if missing:
            raise ConfigError(f"{place(source, text, path)}: {missing.group(1)!r} is missing") from None
        raise ConfigError(f"{place(source, text, path)}: {message}") from None
