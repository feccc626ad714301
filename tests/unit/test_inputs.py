"""What strangers and operators write: order bodies, keys, campaign files, settings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.campaign import parse_campaign
from domain.errors import ConfigError
from domain.order import fingerprint, order_id, split_order_id
from domain.settings import MysqlSettings, load_settings, parse_dsn
from gateway.requests import (
    BODIES_REMEMBERED_MAX,
    InvalidRequestError,
    OrderBodies,
    PlaceOrder,
    decode_place_order,
    read_idempotency_key,
)

GOOD = '{"campaign_id":"c-1","sku_id":"box","quantity":1}'

FILE = """[campaign]
id = "c-1"
opens_at = 2026-11-28T10:00:00+08:00
closes_at = 2026-11-28T12:00:00+08:00

[limits]
admit_per_s = 100

[[sku]]
id = "a"
stock = 10

[[sku]]
id = "b"
stock = 10
per_user = 2
"""


def test_a_good_order_is_decoded() -> None:
    """A body with the three names is an order, whatever the order of the names and the blanks."""
    assert decode_place_order(GOOD.encode()) == PlaceOrder("c-1", "box", 1)
    assert decode_place_order(b' { "quantity" : 2 , "sku_id":"box","campaign_id":"c-1" } ') == PlaceOrder(
        "c-1", "box", 2
    )


@pytest.mark.parametrize(
    "body",
    [
        GOOD.replace("1}", "0}"),
        GOOD.replace("1}", "-5}"),
        GOOD.replace("1}", "1.5}"),
        GOOD.replace("1}", "true}"),
        GOOD.replace("1}", "9223372036854775808}"),
        GOOD.replace("1}", "NaN}"),
        GOOD.replace("1}", "Infinity}"),
        GOOD.replace("1}", '"1"}'),
        GOOD.replace("1}", '1,"quantity":1}'),
        GOOD.replace("1}", '1,"\\u0071uantity":1}'),
        GOOD.replace("1}", '1,"x":1}'),
        GOOD.replace('"quantity":1', '"quantity":' + "[" * 100_000),
        GOOD.replace('"quantity":1', '"x":' + "[" * 100_000),
        GOOD.replace("box", "bo:x"),
        GOOD.replace("box", "b\\u003ax"),
        GOOD.replace("c-1", "C-1"),
        GOOD + "x",
        "",
        "[]",
        "1",
    ],
)
def test_anything_else_is_refused(body: str) -> None:
    """Wrong values, unknown and duplicate names, depth: InvalidRequestError, never anything else."""
    with pytest.raises(InvalidRequestError):
        decode_place_order(body.encode())


@given(st.binary(max_size=200))
def test_no_bytes_are_a_surprise(body: bytes) -> None:
    """Whatever the bytes are: an order, or InvalidRequestError."""
    try:
        assert isinstance(decode_place_order(body), PlaceOrder)
    except InvalidRequestError:
        return


@given(
    st.lists(
        st.sampled_from(['"campaign_id":"c-1"', '"sku_id":"box"', '"quantity":1', '"quantity":2', '"x":1']), max_size=5
    )
)
def test_accepted_exactly_when_each_name_stands_once(pieces: list[str]) -> None:
    """A body is taken exactly when the three names stand in it once each and nothing else does."""
    names = sorted(piece.partition(":")[0] for piece in pieces)
    good = names == ['"campaign_id"', '"quantity"', '"sku_id"']
    try:
        decode_place_order(("{" + ",".join(pieces) + "}").encode())
    except InvalidRequestError:
        assert not good
    else:
        assert good


def test_remembered_bodies_say_the_same_and_are_bounded() -> None:
    """A body that came before means what it meant then; however many different ones come, few are remembered."""
    bodies = OrderBodies()
    for number in range(2 * BODIES_REMEMBERED_MAX):
        body = GOOD.replace("box", f"box-{number}").encode()
        for _ in range(2):
            wanted, print_ = bodies.decode(body)
            assert (wanted, print_) == (decode_place_order(body), fingerprint(f"box-{number}", 1))
        assert len(bodies) <= BODIES_REMEMBERED_MAX
    with pytest.raises(InvalidRequestError):
        bodies.decode(b"{}")
    assert len(bodies) <= BODIES_REMEMBERED_MAX


@pytest.mark.parametrize("key", ["k" * 256, "ü", "a\x00b", "a\tb", "\x7f"])
def test_bad_keys_are_refused(key: str) -> None:
    """An Idempotency-Key is at most 255 printable ASCII characters."""
    with pytest.raises(InvalidRequestError):
        read_idempotency_key(key.encode())


def test_order_ids_do_not_run_into_each_other() -> None:
    """The parts of an identity are length-prefixed, so ("ab", "c") and ("a", "bc") are two."""
    assert order_id("c", "ab", "c") != order_id("c", "a", "bc")
    assert order_id("c", "a", "k") == order_id("c", "a", "k")
    assert fingerprint("a", 11) != fingerprint("a1", 1)
    assert split_order_id(order_id("c-1", "a", "k")) == ("c-1", order_id("c-1", "a", "k")[-32:])


@pytest.mark.parametrize("text", ["", "c-1", "~" + "0" * 32, "c-1~" + "0" * 31, "c-1~" + "G" * 32])
def test_what_is_no_order_id(text: str) -> None:
    """Anything but `<campaign>~<32 hex>` is None."""
    assert split_order_id(text) is None


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("stock = 10\n\n", "stock = -1\n\n", 11, "sku[0].stock"),
        ("stock = 10\n\n", "stock = true\n\n", 11, "sku[0].stock"),
        ("stock = 10\nper", "stock = 1.5\nper", 15, "sku[1].stock"),
        ("per_user", "per_usr", 16, "did you mean 'per_user'?"),
        ('id = "b"\n', "", 13, "'id' is missing"),
        ('id = "b"', 'id = "a"', 14, "stands twice"),
        ("2026-11-28T12", "2026-11-28T09", 4, "later than opens_at"),
        ("2026-11-28T10:00:00+08:00", "2026-11-28T10:00:00", 3, "campaign.opens_at"),
        ('"c-1"', '"C 1"', 2, "campaign.id"),
        ("admit_per_s = 100", "admit_per_s = 0", 7, "limits.admit_per_s"),
        ("[limits]", "[limit]", 6, "did you mean 'limits'?"),
    ],
)
def test_campaign_file_errors_name_line_and_field(old: str, new: str, line: int, words: str) -> None:
    """An error in a campaign file names the file, the line and the field."""
    parse_campaign(FILE, source="sale.toml")
    with pytest.raises(ConfigError) as refused:
        parse_campaign(FILE.replace(old, new, 1), source="sale.toml")
    assert f"sale.toml, line {line}:" in str(refused.value)
    assert words in str(refused.value)


def test_what_is_no_toml_names_the_line() -> None:
    """A file that is no TOML is refused with the parser's line."""
    with pytest.raises(ConfigError, match="line 2"):
        parse_campaign("[campaign]\nid = \n", source="sale.toml")


def test_unknown_settings_are_refused_with_the_nearest_name() -> None:
    """An unknown name in the file or the environment is an error that tells the nearest known one."""
    with pytest.raises(ConfigError, match=r"line 2.*did you mean 'batch_max'"):
        load_settings(text="[gateway]\nbatchmax = 3\n")
    with pytest.raises(ConfigError, match="did you mean 'FLASHGATE_GATEWAY_PORT'"):
        load_settings(env={"FLASHGATE_GATEWAY_PROT": "1"})


def test_environment_stands_before_file_and_file_before_defaults() -> None:
    """Defaults, then the file, then the environment."""
    defaults = {"gateway": {"port": 1, "workers": 3, "batch_max": 5}}
    made = load_settings(
        text="[gateway]\nport = 2\nworkers = 4\n", env={"FLASHGATE_GATEWAY_PORT": "7"}, defaults=defaults
    )
    assert (made.gateway.port, made.gateway.workers, made.gateway.batch_max) == (7, 4, 5)


def test_passwords_are_in_no_repr() -> None:
    """Neither the settings nor a DSN show a password."""
    dsn = "mysql://u:hush@h:1/d"
    assert "hush" not in repr(load_settings(defaults={"mysql": {"orders_dsn": dsn}}))
    assert "hush" not in repr(MysqlSettings(orders_dsn=dsn))
    assert "hush" not in repr(parse_dsn(dsn, name="x"))
    with pytest.raises(ConfigError) as refused:
        parse_dsn("postgres://u:hush@h/d", name="mysql.orders_dsn")
    assert "hush" not in str(refused.value)


def test_settings_have_units_and_docs() -> None:
    """A campaign's JSON form round-trips, so that MySQL's copy of a definition is the definition."""
    import msgspec

    campaign = parse_campaign(FILE, source="x")
    again = msgspec.json.decode(msgspec.json.encode(campaign), type=type(campaign))
    assert again == campaign
    assert json.loads(msgspec.json.encode(campaign))["campaign"]["id"] == "c-1"
