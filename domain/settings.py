"""Settings: one TOML file, then the environment, parsed once into frozen structs and passed on explicitly.

A name `[gateway] batch_max` is `FLASHGATE_GATEWAY_BATCH_MAX` in the environment. Units stand last in a name.
Secrets (a password in a DSN, a key) never appear in a repr.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from domain import toml_source
from domain.errors import ConfigError

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Millis = Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]

ENV_PREFIX: Final = "FLASHGATE_"
ENV_NOT_SETTINGS: Final = frozenset({"FLASHGATE_HOME", "FLASHGATE_CONFIG"})


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[redis]`."""

    host: str = "127.0.0.1"
    port: Port = 6379
    connect_timeout_s: Seconds = 2.0
    command_timeout_s: Seconds = 2.0
    """How long a script call or command may take before its outcome counts as unknown."""


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[kafka]`."""

    bootstrap: str = "127.0.0.1:9092"
    partitions: Positive = 6
    """Partitions of a topic that flashgate creates."""
    replication_factor: Positive = 1
    """1 on a single machine; production: 3, with min ISR 2."""
    request_timeout_ms: Millis = 10_000
    client_start_timeout_s: Seconds = 45.0


class MysqlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[mysql]`: each schema has its own DSN, for they may be three servers."""

    orders_dsn: str = "mysql://flashgate@127.0.0.1:3306/fg_orders"
    catalog_dsn: str = "mysql://flashgate@127.0.0.1:3306/fg_catalog"
    points_dsn: str = "mysql://flashgate@127.0.0.1:3306/fg_points"
    password_file: str = ""
    """Read when a DSN has no password of its own."""
    connect_timeout_s: Seconds = 5.0
    pool_max: Positive = 4

    def __repr__(self) -> str:
        return "MysqlSettings(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more than the repr does: msgspec's own would tell every field to rich."""
        return []


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[auth]`: which tokens are believed."""

    algorithm: Literal["HS256", "RS256", "ES256"] = "HS256"
    key_file: str = ""
    """HS256: the shared secret, at least 32 bytes. RS256 and ES256: the public key, PEM."""
    audience: str = "flashgate"
    leeway_s: Annotated[int, msgspec.Meta(ge=0, le=300)] = 0
    cache_max: Positive = 50_000
    """Verified tokens remembered by a worker."""


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[gateway]`."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    durability: Literal["redis", "kafka"] = "redis"
    """When an order counts as accepted: in Redis's fsynced log, or in Kafka as well."""
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 256
    """Orders in one script call."""
    inflight_max: Positive = 8_192
    """Orders of a worker that wait for a decision; past it 503 BUSY at once."""
    answer_timeout_s: Seconds = 5.0
    """How long an order may wait for its decision (and for Kafka, with durability = "kafka")."""
    check_timeout_s: Seconds = 1.0
    """How long one look at campaigns, stock or points may take before a redemption is admitted, and how long it may
    wait for its turn to be looked at; past it 503 BUSY."""
    checks_inflight_max: Positive = 4_096
    """Of the orders of a worker that wait, redemptions that are being checked; past it 503 BUSY at once."""
    attempts_per_buyer_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Attempts remembered per buyer and campaign; one that holds stock is never forgotten."""
    outbox_entries_max: Positive = 100_000
    """Batches that may wait for the relay; past it 503 BUSY."""
    lane: Literal["fast", "aiohttp"] = "fast"
    """Who answers the hot calls; `aiohttp` lends it every request: slower, for comparison and for emergencies."""
    connections_max: Positive = 10_000
    """Open connections of a worker; past it 503 BUSY and the connection is closed."""
    pipeline_max: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 16
    """Requests of one connection that wait for their answers; past it no more are read."""
    line_bytes_max: Positive = 4_096
    """Target of a request; past it 414."""
    head_bytes_max: Positive = 16_384
    """Request line and headers together; past it 431."""
    body_bytes_max: Positive = 16_384
    """Past it 413."""
    header_timeout_s: Seconds = 10.0
    """How long the head of a request may take to arrive; past it 400, and the connection is closed."""
    body_timeout_s: Seconds = 5.0
    """How long a body may take to arrive; past it 400, and the connection is closed."""
    send_timeout_s: Seconds = 20.0
    """How long a buyer may leave his answers unread; past it the connection is cut."""
    keepalive_timeout_s: Seconds = 75.0
    """How long a connection may be idle."""
    linger_s: Seconds = 0.5
    """How long a connection that is being closed is kept: to throw away what is still being sent, or, when the worker
    stops, for a request that may be on its way."""
    backlog: Positive = 4_096
    drain_timeout_s: Seconds = 10.0
    """How long a worker told to stop may take to answer what it has taken in."""
    snapshot_poll_ms: Millis = 500
    """How often campaigns are re-read besides being notified of changes."""
    stream_listeners_max: Positive = 5_000
    """Buyers of a worker who listen to an order's events; past it 503 BUSY."""
    stream_per_user_max: Positive = 8
    """Of these, streams of one buyer; past it 429."""
    stream_poll_ms: Millis = 250
    """How often the orders that are listened to are looked at."""
    stream_heartbeat_s: Seconds = 15.0
    stream_max_s: Seconds = 3_600.0
    """How long one stream may last; the browser comes back with `Last-Event-ID`."""


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[relay]`."""

    entries_max: Positive = 256
    """Outbox entries read at once."""
    block_ms: Millis = 1_000
    retry_initial_s: Seconds = 0.1
    retry_max_s: Seconds = 5.0
    owner_ttl_ms: Millis = 5_000
    """How long a silent relay keeps its ownership before another may take over."""


class ConsumerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[consumer]`."""

    group: str = "flashgate"
    processes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Consumers that `up` starts; they share the partitions."""
    batch_min: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    """Records written in one transaction while little waits."""
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000
    """Records written in one transaction while much waits."""
    batch_linger_ms: Millis = 250
    """How long the first record of a batch may wait for company."""
    session_timeout_ms: Millis = 10_000
    retry_initial_s: Seconds = 0.1
    retry_max_s: Seconds = 5.0


class PaymentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[payment]`: the payment provider."""

    provider_url: str = "http://127.0.0.1:8090"
    key_file: str = ""
    """The secret, at least 32 bytes, that the provider signs its callbacks with and knows us by."""
    timeout_s: Seconds = 3.0
    """How long a call to the provider may take before its outcome counts as unknown."""
    inflight_max: Positive = 256
    """Calls of one process to the provider at a time; past it 503 BUSY."""
    signature_age_max_s: Annotated[int, msgspec.Meta(ge=1, le=3_600)] = 300
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    """Payments that an order may have, declined ones included."""


class LifecycleSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[lifecycle]`: the process that expires orders, gives stock back and checks payments."""

    poll_ms: Millis = 200
    """How often each kind of work is looked for."""
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    """Orders, returns or payments taken up at once."""
    check_after_s: Seconds = 5.0
    """A payment that the provider has said nothing of for so long is asked for; then twice as long, and so on."""
    retry_initial_s: Seconds = 0.1
    retry_max_s: Seconds = 60.0


class SagaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[saga]`: how redemptions are carried through."""

    batch_max: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 200
    """Sagas taken up at once; those that stand at the same step share its transaction."""
    poll_ms: Millis = 200
    """How often sagas are looked for that are due; those that have just been taken in are taken up at once."""
    lease_ms: Millis = 15_000
    """How long a saga that somebody has taken up, or noted a step of, is left to him."""
    retry_initial_s: Seconds = 0.1
    """Pause after a step that has failed; it doubles with each failure."""
    retry_max_s: Seconds = 30.0
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    """Failures of one step, while its server is there, after which a saga is parked for people to look at."""


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[guard]`: who inserts a fact once where no unique index says so, see adapters/insert_once.py."""

    ttl_s: Seconds = 120.0
    """How long a guard that nobody releases is respected; longer than the longest transaction under it. No COMMIT is
    begun in the last eighth of it."""
    wait_s: Seconds = 2.0
    """How long to wait for guards that others have; past it the caller is told to try again."""
    poll_ms: Millis = 50
    """How often a guard that another has is asked for again."""


class WarehouseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[warehouse]`: the process that carries out what the catalog, Redis and the orders owe one another."""

    poll_ms: Millis = 200
    """How often each kind of work is looked for."""
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    """Parcels, allocations or campaigns taken up at once."""
    retry_initial_s: Seconds = 0.1
    retry_max_s: Seconds = 60.0
    settle_poll_s: Seconds = 2.0
    """How often closed campaigns are asked for units that came back to them."""


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[sandbox]`: the payment provider for trying things out."""

    host: str = "127.0.0.1"
    port: Port = 8090
    callback_url: str = "http://127.0.0.1:8080/v1/webhooks/payment"
    """Where its callbacks go."""
    database: str = ""
    """A file that its payments outlive a restart in; empty: memory."""


class ReconcileSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[reconcile]`."""

    interval_s: Seconds = 5.0
    """Pause between two looks of `reconcile --watch`."""


class OpsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[ops]`."""

    host: str = "127.0.0.1"
    port: Port = 9090
    token_file: str = ""
    """Bearer token of the ops plane; without one nothing is served."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings."""

    redis: RedisSettings = RedisSettings()
    kafka: KafkaSettings = KafkaSettings()
    mysql: MysqlSettings = MysqlSettings()
    auth: AuthSettings = AuthSettings()
    gateway: GatewaySettings = GatewaySettings()
    relay: RelaySettings = RelaySettings()
    consumer: ConsumerSettings = ConsumerSettings()
    payment: PaymentSettings = PaymentSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    guard: GuardSettings = GuardSettings()
    saga: SagaSettings = SagaSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    sandbox: SandboxSettings = SandboxSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    ops: OpsSettings = OpsSettings()


class Dsn(msgspec.Struct, frozen=True, kw_only=True):
    """A MySQL address; its repr keeps the password to itself."""

    host: str
    port: int
    user: str
    password: str
    database: str

    def __repr__(self) -> str:
        return f"Dsn({self.user}@{self.host}:{self.port}/{self.database})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show no more than the repr does: msgspec's own would tell every field to rich."""
        return [("address", f"{self.user}@{self.host}:{self.port}/{self.database}")]


def parse_dsn(text: str, *, name: str, password: str = "") -> Dsn:
    """Parse `mysql://user[:password]@host[:port]/database`.

    Raises:
        ConfigError: not of that form. The message does not repeat the text, which may hold a password.
    """
    try:
        url = urlsplit(text)
        port = url.port or 3306
    except ValueError:
        port, url = 0, urlsplit("")
    database = url.path.lstrip("/")
    if url.scheme != "mysql" or not url.hostname or not url.username or not database or not port:
        raise ConfigError(f"{name}: must be mysql://user[:password]@host[:port]/database")
    own = unquote(url.password) if url.password else ""
    return Dsn(host=url.hostname, port=port, user=unquote(url.username), password=own or password, database=database)


def _tables() -> dict[str, type[msgspec.Struct]]:
    return {field.name: field.type for field in msgspec.structs.fields(Settings)}


def _environment(env: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the settings that the environment holds, by table and name.

    Raises:
        ConfigError: a `FLASHGATE_…` name that is no setting.
    """
    known = {
        f"{ENV_PREFIX}{table}_{field.name}".upper(): (table, field.name)
        for table, kind in _tables().items()
        for field in msgspec.structs.fields(kind)
    }
    found: dict[str, dict[str, str]] = {}
    for name, value in env.items():
        if not name.startswith(ENV_PREFIX) or name in ENV_NOT_SETTINGS:
            continue
        if name not in known:
            raise ConfigError(f"environment: {name}: unknown name; {toml_source.nearest(name, list(known))}")
        table, field = known[name]
        found.setdefault(table, {})[field] = value
    return found


def load_settings(
    *,
    text: str = "",
    source: str = "flashgate.toml",
    env: Mapping[str, str] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Merge defaults (the local stack's addresses, say), the file's text and the environment, in that order.

    Raises:
        ConfigError: an unknown name, or a value of the wrong kind or size; the message names place and field.
    """
    from_file = toml_source.parse(text, source)
    toml_source.convert(from_file, Settings, source=source, text=text)
    merged: dict[str, dict[str, Any]] = {name: dict(table) for name, table in (defaults or {}).items()}
    for name, table in from_file.items():
        merged.setdefault(name, {}).update(table)
    for name, fields in _environment(env or {}).items():
        kind = _tables()[name]
        toml_source.convert(dict(fields), kind, source=f"environment, {ENV_PREFIX}{name.upper()}_…", strict=False)
        merged.setdefault(name, {}).update(fields)
    return toml_source.convert(merged, Settings, source="settings", strict=False)
