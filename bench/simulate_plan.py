"""What is simulated: a crowd, the machines that it meets, their limits and their costs. Pure."""

import math
from typing import Final, Literal

import msgspec

from bench.capacity_costs import Costs, PartCost
from bench.capacity_facts import CONSUMER, GATEWAY, KAFKA, MYSQL, REDIS, RELAY
from bench.errors import BenchError

USERS_MAX: Final = 1_000_000_000
SKUS_MAX: Final = 1_000
SLOT_S: Final = 0.01
RISE_MAX_S: Final = 3_600.0
RETRIES_MAX: Final = 100
NETWORK_MAX_MS: Final = 2_000.0
NETWORK_SIGMA_MAX: Final = 1.5
ZIPF_MAX: Final = 5.0
STOCK_MAX: Final = 100_000_000
SLOTS_WANTED: Final = 20_000
"""A slot is so long that all buyers can have come back for the last time within so many."""
SLOTS_MAX: Final = 100_000
"""A simulation ends after so many; who still waits then is told."""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """Who comes.

    Attributes:
        users: each wants one unit of one SKU, once.
        rise_s: they come within so many seconds of ten o'clock.
        shape: `decline`: a vertical rise, then fewer and fewer, in a straight line; `even`: equally many at any time.
        skus: on sale; their demand follows Zipf's law.
        zipf: its exponent; 0: all are wanted alike.
        stock: units of each SKU.
        sold_out_share: of the users want a further SKU, which has nothing from the beginning.
        retries_max: how often a buyer who was told to come back does so, then gives up.
        obeys_retry_after: buyers wait as `Retry-After` tells them, and spread out over as long again; otherwise they
            press again after `impatience_s` on average.
        impatience_s: see there.
        network_ms: median of the round trip between buyer and gateway; lognormal.
        network_sigma: of its logarithm.
    """

    users: int
    rise_s: float
    shape: Literal["decline", "even"] = "decline"
    skus: int = 1
    zipf: float = 1.1
    stock: int = 1_000
    sold_out_share: float = 0.0
    retries_max: int = 3
    obeys_retry_after: bool = True
    impatience_s: float = 0.5
    network_ms: float = 40.0
    network_sigma: float = 0.5


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What serves them. Gateway workers, shards, relays and consumers have a core each, at most.

    Attributes:
        gateways: workers.
        shards: Redis servers that the campaign is divided over, each with a relay.
        consumers: of orders.
        kafka_cores, mysql_cores: of all brokers together, of the server of fg_orders.
        cores: that all of these share, the driver with them; None: each has its own.
        drivers: processes of the load driver on those cores; 0: buyers are elsewhere.
        at_rest: cores that are used though nobody asks for anything; of `cores`.
    """

    gateways: int
    shards: int = 1
    consumers: int = 1
    kafka_cores: float = 1.0
    mysql_cores: float = 4.0
    cores: float | None = None
    drivers: int = 0
    at_rest: float = 0.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The product's own bounds, see `domain.settings`. `linger_s` of the consumers; `admit_per_s` 0: no limit."""

    batch_max: int = 256
    inflight_max: int = 8_192
    connections_max: int = 10_000
    answer_timeout_s: float = 5.0
    retry_after_s: float = 1.0
    linger_s: float = 0.25
    admit_per_s: float = 0.0


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """Latency on one machine that all share, without queues: log(ms) = level + busy x -log(1 - u) + order x accepted.

    u is the share of the cores that is used from the driver to Kafka, `accepted` the share of requests that are. One
    number of each kind for each percentile.
    """

    percentiles: list[float]
    level: list[float]
    busy: list[float]
    order: list[float]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """All that the simulator goes by.

    Attributes:
        call_ms: from sending a script call to its answer, besides the CPU of its orders: way, fsync, waking up.
        curve: measured latency on a shared machine; None: what the queues and the network make of it.
        slot_s: length of a step.
        seed: of the crowd.
    """

    crowd: Crowd
    fleet: Fleet
    limits: Limits = Limits()
    costs: Costs
    call_ms: float = 1.0
    curve: Curve | None = None
    slot_s: float = SLOT_S
    seed: int = 0


EXAMPLE_COSTS: Final = Costs(
    parts=[
        PartCost(component=GATEWAY, accepted_us=28.0, refused_us=25.0, batch_us=100.0),
        PartCost(component=REDIS, accepted_us=7.0, refused_us=0.0, batch_us=100.0),
        PartCost(component=RELAY, accepted_us=8.0, refused_us=0.0),
        PartCost(component=KAFKA, accepted_us=10.0, refused_us=0.0),
        PartCost(component=CONSUMER, accepted_us=30.0, refused_us=0.0),
        PartCost(component=MYSQL, accepted_us=60.0, refused_us=0.0),
    ],
    example=True,
)
"""Round figures to try the simulator with; a sweep tells those of your machines."""


def longest_s(crowd: Crowd, limits: Limits) -> float:
    """Return when the last buyer presses the button for the last time, if each try lasts as long as it may."""
    wait_s = 2 * limits.retry_after_s if crowd.obeys_retry_after else 4 * crowd.impatience_s
    way_s = crowd.network_ms / 1000 * math.exp(2 * crowd.network_sigma) if crowd.network_ms else 0.0
    return crowd.rise_s + (crowd.retries_max + 1) * (wait_s + way_s + limits.answer_timeout_s)


def slot_for(crowd: Crowd, limits: Limits) -> float:
    """Return the length of a slot for a crowd, seconds: `SLOT_S`, or longer for what lasts long."""
    return max(SLOT_S, math.ceil(longest_s(crowd, limits) / SLOTS_WANTED * 1000) / 1000)


def check(model: Model) -> Model:
    """Return a model that can be simulated.

    Raises:
        BenchError: it cannot; says what is wrong with it.
    """
    crowd, fleet, limits = model.crowd, model.fleet, model.limits
    numbers = [*_numbers(crowd), *_numbers(fleet), *_numbers(limits), model.call_ms, model.slot_s]
    if not all(math.isfinite(number) for number in numbers):
        raise BenchError("cannot be simulated: every number must be finite")
    for wrong, text in (
        (not 1 <= crowd.users <= USERS_MAX, f"users: from 1 to {USERS_MAX:,}"),
        (model.slot_s <= 0, "a step of no time"),
        (crowd.rise_s < model.slot_s, f"rise: {model.slot_s:g} s at least"),
        (crowd.rise_s > RISE_MAX_S, f"rise: {RISE_MAX_S:g} s at most"),
        (not 1 <= crowd.skus <= SKUS_MAX, f"SKUs: from 1 to {SKUS_MAX:,}"),
        (min(crowd.stock, crowd.zipf, crowd.retries_max, crowd.network_ms, crowd.network_sigma) < 0, "nothing below 0"),
        (crowd.stock > STOCK_MAX, f"stock: {STOCK_MAX:,} units of a SKU at most"),
        (crowd.zipf > ZIPF_MAX, f"Zipf's exponent: {ZIPF_MAX:g} at most"),
        (not 0 <= crowd.sold_out_share <= 1, "a share is from 0 to 1"),
        (crowd.retries_max > RETRIES_MAX, f"retries: {RETRIES_MAX} at most"),
        (crowd.network_ms > NETWORK_MAX_MS, f"network: {NETWORK_MAX_MS:g} ms at most"),
        (crowd.network_sigma > NETWORK_SIGMA_MAX, f"the network's sigma: {NETWORK_SIGMA_MAX:g} at most"),
        (min(fleet.gateways, fleet.shards, fleet.consumers) < 1, "one gateway, shard and consumer at least"),
        (fleet.cores is not None and fleet.cores <= fleet.at_rest, "the machine has no core left"),
        (min(fleet.kafka_cores, fleet.mysql_cores) <= 0, "Kafka and MySQL need cores"),
        (min(limits.admit_per_s, model.call_ms) < 0, "nothing below 0"),
        (min(limits.retry_after_s, crowd.impatience_s, limits.answer_timeout_s, limits.linger_s) <= 0, "times above 0"),
        (min(limits.batch_max, limits.inflight_max, limits.connections_max) < 1, "limits of one at least"),
        (not model.costs.accepted_us(GATEWAY) > 0, "the costs say nothing of the gateway: sweep again"),
        (
            longest_s(crowd, limits) > model.slot_s * SLOTS_MAX,
            f"{longest_s(crowd, limits):,.0f} s are more than {SLOTS_MAX:,} steps of {model.slot_s:g} s",
        ),
    ):
        if wrong:
            raise BenchError(f"cannot be simulated: {text}")
    return model


def _numbers(one: Crowd | Fleet | Limits) -> list[float]:
    values = (getattr(one, name) for name in one.__struct_fields__)
    return [value for value in values if isinstance(value, int | float)]
