"""What the conformance suite shares: a private Redis, and both lanes."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from domain.settings import Settings
from tests.support.gate import LANES, gate_settings
from tests.support.scripts import private_redis


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """Return settings for a private Redis alone."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as server:
        yield gate_settings(server, tmp_path_factory.mktemp("secrets"))


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    """Return who answers the hot calls."""
    return str(request.param)
