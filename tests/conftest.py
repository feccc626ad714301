"""What all tests share: real servers, started once, and the switches that turn a mechanism off."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from adapters.kafka import create_topics
from cli.migrate import upgrade_all
from consumers.app import DRAWS_TOPICS, POINTS_TOPICS, REDEMPTIONS_TOPICS
from domain.settings import Settings
from gateway.app import RELAY_TOPICS
from lifecycle.app import LIFECYCLE_TOPICS
from stack.servers import Endpoints, LocalStack
from tests import switches
from tests.support.house import House, new_house
from tests.support.lanes import LANES, in_lane
from tests.support.shop import shop_settings


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of our own."""
    parser.addoption("--life-examples", type=int, default=20, help="Random lives of orders to go through.")


@pytest.fixture(scope="session")
def life_examples(pytestconfig: pytest.Config) -> int:
    """Return how many random lives of orders to go through."""
    return int(pytestconfig.getoption("--life-examples"))


def pytest_configure() -> None:
    """Turn off the mechanism that the environment names, if any: the test that guards it must then fail."""
    switches.apply_from_environment()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """Return Redis, Kafka and MariaDB, running for the whole session."""
    servers = LocalStack(tmp_path_factory.mktemp("stack"))
    await servers.start()
    yield servers
    await servers.stop()


@pytest.fixture(scope="session")
def endpoints(stack: LocalStack) -> Endpoints:
    """Return where the servers are."""
    return stack.endpoints


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_settings(endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Return settings for the shared servers; schemas and topics are there."""
    made = shop_settings(endpoints, tmp_path_factory.mktemp("secrets"))
    await asyncio.to_thread(upgrade_all, made)
    topics = {*RELAY_TOPICS, *LIFECYCLE_TOPICS, *DRAWS_TOPICS, *POINTS_TOPICS, *REDEMPTIONS_TOPICS}
    await create_topics(made.kafka, sorted(topics))
    return made


@pytest.fixture
def lane(request: pytest.FixtureRequest) -> str:
    """Return the lane of a test that runs in both, else the usual one."""
    return str(getattr(request, "param", LANES[0]))


@pytest.fixture
def settings(shared_settings: Settings, lane: str) -> Settings:
    """Return the settings of a test."""
    return in_lane(shared_settings, lane)


@pytest_asyncio.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    """Return goods of a test's own, and campaigns that share them."""
    async with new_house(settings) as made:
        yield made
