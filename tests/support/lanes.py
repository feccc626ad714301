"""Who answers the hot calls: the fast lane, or aiohttp. What is promised holds in both."""

from typing import Final

import msgspec
import pytest

from domain.settings import Settings

LANES: Final = ("fast", "aiohttp")

BOTH_LANES: Final = pytest.mark.parametrize("lane", LANES, indirect=True)
"""Runs a test twice; its `settings` have the lane."""


def in_lane(settings: Settings, lane: str) -> Settings:
    """Return the settings with this lane."""
    return msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, lane=lane))
