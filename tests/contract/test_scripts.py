"""Headers, bodies and Python's enums of the Lua scripts say the same."""

import re
from enum import IntEnum

import pytest

from adapters.lua import SCRIPTS, assemble, load_script
from domain.outcomes import (
    AdjustOutcome,
    BatchStatus,
    DrawOutcome,
    DuplicateOutcome,
    GuardOutcome,
    GuardReleaseOutcome,
    LoadOutcome,
    MarkOutcome,
    Outcome,
    ReacquireOutcome,
    ReleaseOutcome,
    RestoreOutcome,
    TopUpOutcome,
    WithdrawOutcome,
)

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.lua"))
ENUMS: dict[str, tuple[type[IntEnum], ...]] = {
    "adjust_stock": (AdjustOutcome, BatchStatus),
    "admit_orders": (Outcome, BatchStatus),
    "draw_prize": (DrawOutcome, BatchStatus),
    "load_campaign": (LoadOutcome,),
    "mark_paid": (MarkOutcome, BatchStatus),
    "reacquire_stock": (ReacquireOutcome, BatchStatus),
    "release_stock": (ReleaseOutcome, BatchStatus),
    "restore_record": (RestoreOutcome, BatchStatus),
    "return_duplicate": (DuplicateOutcome, BatchStatus),
    "topup_stock": (TopUpOutcome, BatchStatus),
    "withdraw_stock": (WithdrawOutcome, BatchStatus),
    "release_guard": (GuardReleaseOutcome,),
    "take_guard": (GuardOutcome,),
}


def own_text(name: str) -> str:
    """Return a script as its file has it, without what it includes."""
    return (SCRIPTS / f"{name}.lua").read_text()


def header_of(text: str) -> str:
    """Return the comment lines at the top."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line)
    return "\n".join(lines)


def header_codes(text: str) -> dict[str, int]:
    """Return code name → number, as the header lists them."""
    return {
        name: int(number) for number, name in re.findall(r"^--\s+(-?\d+) ([A-Z_]+)$", header_of(text), re.MULTILINE)
    }


def body_codes(text: str) -> dict[str, int]:
    """Return code name → number, as the body's constants have them."""
    found: dict[str, int] = {}
    for names, numbers in re.findall(r"^local ([A-Z][A-Z_]+(?:, [A-Z_]+)*) = (-?\d+(?:, -?\d+)*)$", text, re.MULTILINE):
        found.update(zip(names.split(", "), map(int, numbers.split(", ")), strict=True))
    found.pop("QUANTITY_MAX", None)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_header_and_body_list_the_same_codes(name: str) -> None:
    """Every code of the header is a constant of the body with the same number, and the reverse."""
    text = own_text(name)
    assert header_codes(text)
    assert header_codes(text) == body_codes(text)


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_codes_and_enums_agree(name: str) -> None:
    """The script's codes and the IntEnums that decode them have the same names and numbers."""
    members = {member.name: int(member) for enum in ENUMS[name] for member in enum if member is not BatchStatus.DECIDED}
    assert header_codes(own_text(name)) == members


@pytest.mark.parametrize("name", NAMES)
def test_header_says_purpose_keys_arguments_and_return(name: str) -> None:
    """A header has a purpose, KEYS, ARGV, what is returned, and every index that the body uses."""
    text = own_text(name)
    header = header_of(text)
    assert re.match(r"-- [A-Z]", header)
    for word in ("-- KEYS ", "-- ARGV ", "-- Returns ", "-- Codes:"):
        assert word in header
    body = text[len(header) :]
    for kind in ("KEYS", "ARGV"):
        documented = re.search(rf"-- {kind}((?:.|\n)*?)(?=\n-- (?:ARGV|Returns))", header)
        assert documented
        numbers = set(re.findall(r"(?<![\w-])(\d)(?:\.\.)? ", documented.group(1)))
        assert set(re.findall(rf"{kind}\[(\d)\]", body)) <= numbers


@pytest.mark.parametrize("name", NAMES)
def test_names_are_verb_and_noun_and_includes_resolve(name: str) -> None:
    """A script is named verb_noun, what it includes exists, and it has at most 160 lines of its own."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
    assert "--@include" not in load_script(name).text
    assert len(own_text(name).splitlines()) <= 160


def test_every_include_is_used() -> None:
    """No file in `include/` is there for nobody."""
    used = {piece for name in NAMES for piece in re.findall(r"^--@include (\w+)$", own_text(name), re.MULTILINE)}
    assert used == {path.stem for path in (SCRIPTS / "include").glob("*.lua")}


def test_a_missing_include_is_an_error() -> None:
    """An include that does not exist is an error when the script is put together, not when it runs."""
    with pytest.raises(FileNotFoundError):
        assemble("x", "--@include no_such\n")
