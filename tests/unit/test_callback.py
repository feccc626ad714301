"""A payment provider's callback: what is signed is believed, and nothing else is."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ConfigError, PoisonRecordError
from domain.settings import PaymentSettings, Settings
from lifecycle.callback import (
    CALLBACK_BYTES_MAX,
    SIGNATURE_CHARS_MAX,
    Callback,
    CallbackRefusedError,
    decode_callback,
    sign,
    verify,
)
from lifecycle.payment_key import read_payment_key
from lifecycle.provider import AMOUNT_CENTS_MAX, ProviderState
from lifecycle.provider_wire import what_is_signed
from sandbox.rules import ATTEMPTS_MAX, Behaviour, Mode, is_final, plan_callbacks, retry_after_s

KEY = b"0123456789abcdef0123456789abcdef"
OTHER_KEY = b"another secret of 32 bytes, at least"
NOW_S = 1_700_000_000
AGE_MAX_S = 300
BODY = b'{"a":1}'
# openssl dgst -sha256 -hmac KEY over `1700000000.{"a":1}`
HEX = "f05f2539e3ae1c49aec5f8cfdad75ef6b06480b133973ffbb7ec9e18827af177"


def check(header: str | None, body: bytes = BODY, *, key: bytes = KEY, now_s: float = NOW_S) -> None:
    """Verify a header."""
    verify(header, body, key, now_s=now_s, age_max_s=AGE_MAX_S)


def refused(header: str | None, body: bytes = BODY, *, now_s: float = NOW_S) -> str:
    """Return why a header is refused."""
    with pytest.raises(CallbackRefusedError) as error:
        check(header, body, now_s=now_s)
    return str(error.value)


def test_signature_is_hmac_sha256_over_time_and_body() -> None:
    """The header's value is the one that other programs compute."""
    assert sign(BODY, KEY, NOW_S) == f"t={NOW_S},v1={HEX}"
    check(f"t={NOW_S},v1={HEX}")


@given(st.binary(max_size=2_000), st.binary(min_size=32, max_size=64), st.integers(0, 10**12 - 1))
def test_what_is_signed_is_believed(body: bytes, key: bytes, unix_s: int) -> None:
    """Any body, signed with any key at any time, verifies with that key at that time."""
    verify(sign(body, key, unix_s), body, key, now_s=unix_s, age_max_s=AGE_MAX_S)


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_changed_body_is_refused(body: bytes, data: st.DataObject) -> None:
    """A body of which one bit was changed is not what was signed."""
    place = data.draw(st.integers(0, len(body) * 8 - 1))
    changed = bytearray(body)
    changed[place // 8] ^= 1 << place % 8
    assert refused(sign(body, KEY, NOW_S), bytes(changed)) == "the signature is wrong"


def test_forged_signatures_are_refused() -> None:
    """Another body, key or time than what was signed: the signature is wrong."""
    good = sign(BODY, KEY, NOW_S)
    assert refused(good, b'{"a":2}') == "the signature is wrong"
    assert refused(sign(BODY, OTHER_KEY, NOW_S)) == "the signature is wrong"
    assert refused(good.replace(f"t={NOW_S}", f"t={NOW_S + 1}")) == "the signature is wrong"
    assert refused(f"t={NOW_S},v1={'0' * 64}") == "the signature is wrong"


@pytest.mark.parametrize("away_s", [-AGE_MAX_S - 1, AGE_MAX_S + 1, -(10**8), 10**8])
def test_stale_signatures_are_refused(away_s: int) -> None:
    """A right signature whose time lies more than `age_max_s` before or after now is refused."""
    assert refused(sign(BODY, KEY, NOW_S + away_s)).startswith("the signature is stale")


@pytest.mark.parametrize("away_s", [-AGE_MAX_S, 0, AGE_MAX_S])
def test_signatures_within_the_bound_are_fresh(away_s: int) -> None:
    """The bound itself is still fresh."""
    check(sign(BODY, KEY, NOW_S + away_s))


@pytest.mark.parametrize("header", [None, ""])
def test_missing_signature(header: str | None) -> None:
    """Without a header nothing is believed."""
    assert refused(header).startswith("the signature is missing")


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        f"t={NOW_S}",
        f"v1={HEX}",
        f"t={NOW_S},v1=",
        f"t={NOW_S},v1={HEX[:-1]}",
        f"t={NOW_S},v1={HEX}a",
        f"t={NOW_S},v1={HEX.upper()}",
        f"t={NOW_S},v1={HEX},",
        f"t={NOW_S};v1={HEX}",
        f"t=,v1={HEX}",
        f"t=+{NOW_S},v1={HEX}",
        f"t=-{NOW_S},v1={HEX}",
        f"t={NOW_S}.0,v1={HEX}",
        f"t=17000000000000,v1={HEX}",
        f"t={NOW_S},t={NOW_S},v1={HEX}",
        f"t=१७,v1={HEX}",
        f"t=abc,v1={HEX}",
        f"t={NOW_S},v1={HEX}\n",
        f"t={NOW_S},v1={HEX}" + f",v1={HEX}" * (SIGNATURE_CHARS_MAX // 68),
        "t" * 1_000_000,
    ],
)
def test_malformed_signatures(header: str) -> None:
    """What is not of the form is refused as malformed, however long it is."""
    assert refused(header).startswith("the signature is malformed")


@given(st.text(max_size=600))
def test_no_header_crashes(header: str) -> None:
    """Any text is refused in words."""
    assert refused(header).startswith("the signature is ")


def test_keys_can_be_rotated() -> None:
    """One right signature among several is enough, in any place; names of later versions are ignored."""
    old, new = sign(BODY, OTHER_KEY, NOW_S), sign(BODY, KEY, NOW_S).partition(",")[2]
    check(f"{old},{new}")
    check(f"t={NOW_S},{new},{old.partition(',')[2]}")
    check(f"t={NOW_S}, {new}")
    check(f"t={NOW_S},v2=00,{new}")
    assert refused(f"{old},v1={'a' * 64}") == "the signature is wrong"


def test_calls_without_a_body_are_signed_over_their_path() -> None:
    """A signed GET of one payment is none of another."""
    first = what_is_signed("GET", "/payments/a", b"")
    assert what_is_signed("POST", "/payments/a", b"{}") == b"{}"
    assert refused(sign(first, KEY, NOW_S), what_is_signed("GET", "/payments/b", b"")) == "the signature is wrong"


@given(
    st.builds(
        Callback,
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64),
        st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
        st.sampled_from([ProviderState.APPROVED, ProviderState.DECLINED, ProviderState.REFUNDED]),
        st.integers(0, AMOUNT_CENTS_MAX),
    )
)
def test_callbacks_round_trip(told: Callback) -> None:
    """Every callback is decoded to what was encoded."""
    assert decode_callback(msgspec.json.encode(told)) == told


def test_callbacks_may_say_more() -> None:
    """Names that we do not know are ignored."""
    body = b'{"event_id":"e","payment_id":"p","state":"declined","amount_cents":0,"currency":"EUR","more":[{}]}'
    assert decode_callback(body) == Callback("e", "p", ProviderState.DECLINED, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"not json",
        b"\xff",
        b"[" * 4_000,
        b'{"event_id":"e","payment_id":"p","state":"approved"}',
        b'{"event_id":"e","payment_id":"p","state":"pending","amount_cents":1}',
        b'{"event_id":"e","payment_id":"p","state":"absent","amount_cents":1}',
        b'{"event_id":"e","payment_id":"p","state":"paid","amount_cents":1}',
        b'{"event_id":"e","payment_id":"p","state":"approved","amount_cents":-1}',
        b'{"event_id":"e","payment_id":"p","state":"approved","amount_cents":1.5}',
        b'{"event_id":"e","payment_id":"p","state":"approved","amount_cents":"1"}',
        b'{"event_id":"e","payment_id":"p","state":"approved","amount_cents":true}',
        b'{"event_id":"e","payment_id":"p","state":"approved","amount_cents":9223372036854775807}',
        b'{"event_id":7,"payment_id":"p","state":"approved","amount_cents":1}',
        b'{"event_id":"","payment_id":"p","state":"approved","amount_cents":1}',
        b'{"event_id":"e","payment_id":"p\\n","state":"approved","amount_cents":1}',
        b'{"event_id":"e","payment_id":"p q","state":"approved","amount_cents":1}',
        b'{"event_id":"e","payment_id":"' + b"p" * 41 + b'","state":"approved","amount_cents":1}',
        b'{"event_id":"' + b"e" * 65 + b'","payment_id":"p","state":"approved","amount_cents":1}',
        b'{"event_id":"e","payment_id":"p","state":"approved","amount_cents":1,"x":"'
        + b"x" * CALLBACK_BYTES_MAX
        + b'"}',
    ],
)
def test_bodies_that_are_no_callbacks(body: bytes) -> None:
    """A body that is no callback can never be processed; nothing of it is guessed."""
    with pytest.raises(PoisonRecordError):
        decode_callback(body)


def settings_with_key(key_file: Path | str) -> Settings:
    """Return settings that name a key."""
    return Settings(payment=PaymentSettings(key_file=str(key_file)))


def test_key_is_read_from_its_file(tmp_path: Path) -> None:
    """A newline at the file's end is no part of the key."""
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert read_payment_key(settings_with_key(tmp_path / "key")) == KEY


def test_keys_that_are_refused(tmp_path: Path) -> None:
    """No key, no file, or fewer than 32 bytes: an error that names the setting and tells nothing of the key."""
    short = tmp_path / "short"
    short.write_bytes(b" " * 40 + KEY[:31])
    for name, says in (("", "name a file"), (tmp_path / "none", "No such file"), (short, "at least 32 bytes")):
        with pytest.raises(ConfigError, match=rf"^payment\.key_file: .*{says}") as error:
            read_payment_key(settings_with_key(name))
        assert KEY[:31].decode() not in str(error.value)


def test_pause_between_attempts_is_bounded() -> None:
    """A callback is tried again after 0.2 s, then twice as long each time, up to 5 s."""
    pauses = [retry_after_s(attempts) for attempts in range(1, ATTEMPTS_MAX)]
    assert pauses[:6] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert set(pauses[6:]) == {5.0}


def test_which_answers_end_a_delivery() -> None:
    """2xx and 4xx end it, except that the receiver may not be there yet (404) or want it later (429)."""
    assert [status for status in (200, 204, 301, 400, 401, 404, 409, 429, 500, 503) if is_final(status)] == [
        200,
        204,
        400,
        401,
        409,
    ]


def test_no_state_is_told_when_silent() -> None:
    """In the silent modes no change whatever is told; in the others each one is."""
    for mode in Mode:
        for state in (ProviderState.APPROVED, ProviderState.DECLINED, ProviderState.REFUNDED):
            planned = plan_callbacks(Behaviour(mode=mode), state)
            assert bool(planned) == (mode not in {Mode.SILENT, Mode.CHARGE_THEN_TIMEOUT})
