"""Where a command's settings come from: the running local stack, then the file, then the environment."""

import os
from pathlib import Path
from typing import Any, Final

from cli.secrets import local_secret
from domain.errors import ConfigError
from domain.settings import Settings, load_settings
from stack.paths import PROJECT_ROOT
from stack.runtime import read_runtime
from stack.servers import Endpoints

CONFIG_VARIABLE: Final = "FLASHGATE_CONFIG"
CONFIG_NAME: Final = "flashgate.toml"


def load() -> Settings:
    """Return the settings of this command.

    Raises:
        ConfigError: the message names what is wrong and where.
    """
    runtime = read_runtime()
    defaults = local_defaults(runtime.endpoints, runtime.home) if runtime else local_secrets()
    if runtime and "sandbox" in runtime.services:
        defaults.setdefault("payment", {})["provider_url"] = runtime.services["sandbox"]
    told = os.environ.get(CONFIG_VARIABLE)
    path = Path(told) if told else PROJECT_ROOT / CONFIG_NAME
    try:
        text = path.read_text(encoding="utf-8") if told or path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return load_settings(text=text, source=path.name, env=os.environ, defaults=defaults)


def local_secrets() -> dict[str, dict[str, Any]]:
    """Return the settings that name this machine's own secrets."""
    return {
        "auth": {"key_file": str(local_secret("jwt.key"))},
        "ops": {"token_file": str(local_secret("ops.token"))},
        "payment": {"key_file": str(local_secret("payment.key"))},
    }


def local_defaults(endpoints: Endpoints, home: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of services that use a local stack."""
    address = f"mysql://{endpoints.mysql_user}@{endpoints.mysql_host}:{endpoints.mysql_port}"
    return {
        **local_secrets(),
        "redis": {"host": endpoints.redis_host, "port": endpoints.redis_port},
        "kafka": {"bootstrap": endpoints.kafka_bootstrap},
        "mysql": {
            "orders_dsn": f"{address}/fg_orders",
            "catalog_dsn": f"{address}/fg_catalog",
            "points_dsn": f"{address}/fg_points",
            "password_file": str(home / "secrets" / "mysql_password"),
        },
    }


def as_environment(defaults: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return settings as the environment variables that a child process reads."""
    return {
        f"FLASHGATE_{table}_{name}".upper(): str(value)
        for table, fields in defaults.items()
        for name, value in fields.items()
    }
