"""Commands, run as an operator runs them."""

import asyncio
import subprocess
import sys
from pathlib import Path

from domain.settings import Settings
from stack.paths import PROJECT_ROOT
from tests.support.children import inherited_environment


def environment(settings: Settings, home: Path) -> dict[str, str]:
    """Return the environment in which a command uses these servers, and no others that run here."""
    return {
        **inherited_environment(),
        "PYTHONPATH": str(PROJECT_ROOT),
        "FLASHGATE_HOME": str(home),
        "FLASHGATE_REDIS_HOST": settings.redis.host,
        "FLASHGATE_REDIS_PORT": str(settings.redis.port),
        "FLASHGATE_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
        "FLASHGATE_MYSQL_ORDERS_DSN": settings.mysql.orders_dsn,
        "FLASHGATE_MYSQL_CATALOG_DSN": settings.mysql.catalog_dsn,
        "FLASHGATE_MYSQL_POINTS_DSN": settings.mysql.points_dsn,
        "FLASHGATE_CONSUMER_GROUP": settings.consumer.group,
    }


async def command(settings: Settings, home: Path, *args: str, module: str = "cli") -> tuple[int, list[str]]:
    """Run a command; returns its exit code and the lines that it printed, errors included."""
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *args),
        env=environment(settings, home),
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await ran.communicate()
    assert ran.returncode is not None
    return ran.returncode, out.decode().splitlines()
