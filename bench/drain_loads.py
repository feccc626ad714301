"""The topics that `bench drain` can fill."""

from typing import Final

from bench.drain_awards import AwardLoad
from bench.drain_load import DrainLoad
from bench.drain_orders import OrderLoad

LOADS: Final[dict[str, DrainLoad]] = {load.topic: load for load in (OrderLoad(), AwardLoad())}
"""By the product's topic."""
