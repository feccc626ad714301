"""A proxy in front of MySQL, and settings that lead through it."""

import msgspec
from yarl import URL

from domain.settings import Settings
from stack.proxy import Proxy


def mysql_proxy(settings: Settings) -> Proxy:
    """Return a proxy in front of MySQL."""
    url = URL(settings.mysql.orders_dsn)
    return Proxy(url.host or "", url.port or 3306)


def with_mysql(settings: Settings, proxy: Proxy) -> Settings:
    """Return settings whose fg_orders is behind the proxy."""
    dsn = str(URL(settings.mysql.orders_dsn).with_host(proxy.host).with_port(proxy.port))
    return msgspec.structs.replace(settings, mysql=msgspec.structs.replace(settings.mysql, orders_dsn=dsn))
