"""Settings: what the file, the environment and a person who looks may and may not see."""

import msgspec
import pytest
from rich.pretty import pretty_repr

from domain.errors import ConfigError
from domain.settings import Settings, load_settings, parse_dsn


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway]\n\nbatch_max = 0\n", "line 3: gateway.batch_max"),
        ("[gateway]\nbatch_max = 1.5\n", "line 2: gateway.batch_max"),
        ("[gateway]\nbatch_max = true\n", "line 2: gateway.batch_max"),
        ('[gateway]\nbatch_max = "5"\n', "line 2: gateway.batch_max"),
        ('[gateway]\ndurability = "none"\n', "line 2: gateway.durability"),
        ("[redis]\nport = 70000\n", "line 2: redis.port"),
        ("[redis]\ncommand_timeout_s = nan\n", "line 2: redis.command_timeout_s"),
        ("[redis]\ncommand_timeout_s = inf\n", "line 2: redis.command_timeout_s"),
        ("[redis]\ncommand_timeout_s = 0\n", "line 2: redis.command_timeout_s"),
        ("gateway = 1\n", "line 1: gateway"),
        ("[gatway]\n", "line 1: gatway: unknown name; did you mean 'gateway'?"),
        ("[auth]\nkey = 1\n", "did you mean 'key_file'?"),
        ("[gateway]\nport = 1\nport = 2\n", "line 3"),
    ],
)
def test_errors_in_the_file_name_line_and_field(text: str, words: str) -> None:
    """A value of the wrong kind or size, an unknown or doubled name: the message names line and field."""
    with pytest.raises(ConfigError) as refused:
        load_settings(text=text, source="flashgate.toml")
    assert words in str(refused.value)
    assert "flashgate.toml" in str(refused.value)


@pytest.mark.parametrize("value", ["", "x", "1.5", "true", "-1", "0", "1001", "1e9", "NaN"])
def test_errors_in_the_environment_name_the_field(value: str) -> None:
    """A value in the environment is held to the same bounds, and an empty one is no value."""
    with pytest.raises(ConfigError, match=r"environment, FLASHGATE_GATEWAY.*batch_max"):
        load_settings(env={"FLASHGATE_GATEWAY_BATCH_MAX": value})


def test_every_setting_can_be_set_in_the_environment() -> None:
    """Each field has its FLASHGATE_ name, and the default said in words is the default."""
    default = Settings()
    env = {
        f"FLASHGATE_{table}_{name}".upper(): str(value)
        for table, fields in msgspec.to_builtins(default).items()
        for name, value in fields.items()
    }
    assert load_settings(env=env) == default


def test_names_that_are_no_settings_are_left_alone() -> None:
    """Other programs' names, and those of the folder and the file, are no settings."""
    assert load_settings(env={"HOME": "/", "FLASHGATE_HOME": "x", "FLASHGATE_CONFIG": "y"}) == Settings()
    with pytest.raises(ConfigError, match=r"FLASHGATE_REDIS_PROT.*did you mean 'FLASHGATE_REDIS_PORT'"):
        load_settings(env={"FLASHGATE_REDIS_PROT": "1"})


def test_passwords_are_in_nothing_that_is_printed() -> None:
    """Neither repr, str nor rich's pretty printer (which asks each struct for its fields) shows a password."""
    dsn = "mysql://u:hush@h:1/d"
    made = load_settings(env={"FLASHGATE_MYSQL_ORDERS_DSN": dsn, "FLASHGATE_MYSQL_CATALOG_DSN": dsn})
    for secret in (made, made.mysql, parse_dsn(dsn, name="x")):
        for text in (repr(secret), str(secret), pretty_repr(secret), pretty_repr([secret], expand_all=True)):
            assert "hush" not in text


@pytest.mark.parametrize(
    "text",
    ["", "mysql://h/d", "mysql://u:hush@h", "mysql://u:hush@h:99999/d", "http://u:hush@h/d", "mysql://u:hush@[/d"],
)
def test_bad_dsns_are_not_repeated(text: str) -> None:
    """A DSN that cannot be used is refused by its name; the message does not show what it is."""
    with pytest.raises(ConfigError, match=r"mysql\.orders_dsn") as refused:
        parse_dsn(text, name="mysql.orders_dsn")
    assert "hush" not in str(refused.value)


def test_dsn_parts() -> None:
    """User and password are percent-decoded, the port defaults to 3306, a password of its own comes first."""
    dsn = parse_dsn("mysql://u%40x:p%2Fw@h/d", name="x", password="other")
    assert (dsn.user, dsn.password, dsn.host, dsn.port, dsn.database) == ("u@x", "p/w", "h", 3306, "d")
    assert parse_dsn("mysql://u@h:7/d", name="x", password="other").password == "other"
