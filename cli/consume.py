"""`./flashgate consume NAME`: one consumer, as a process of its own."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.config import load
from consumers.app import main_draws, main_orders, main_points


class ConsumerName(StrEnum):
    """The consumers there are."""

    ORDERS = "orders"
    DRAWS = "draws"
    POINTS = "points"


def consume(name: Annotated[ConsumerName, typer.Argument(help="Which consumer.")]) -> None:
    """Run one consumer until SIGTERM or Ctrl-C. `orders`, `draws` and `points` write what their topic tells to MySQL.

    Several processes of one name share the partitions of their topic; more processes than partitions stand by.
    """
    match name:
        case ConsumerName.ORDERS:
            main_orders(load())
        case ConsumerName.DRAWS:
            main_draws(load())
        case ConsumerName.POINTS:
            main_points(load())
