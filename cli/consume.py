"""`./flashgate consume NAME`: one consumer, as a process of its own."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.config import load


class ConsumerName(StrEnum):
    """The consumers there are."""

    ORDERS = "orders"
    DRAWS = "draws"
    POINTS = "points"
    REDEMPTIONS = "redemptions"
    WAREHOUSE = "warehouse"


def consume(name: Annotated[ConsumerName, typer.Argument(help="Which consumer.")]) -> None:
    """Run one consumer until SIGTERM or Ctrl-C.

    `orders`, `draws` and `points` write what their topic tells to MySQL; several processes of one name share the
    partitions of their topic, and more processes than partitions stand by. `redemptions` takes in what
    its topic tells, and carries each redemption through: any process goes on with any of them, wherever another has
    left it. `warehouse` carries out what was decided and left undone: parcels that leave and come back, loads and
    top-ups of campaigns, the return of what closed campaigns have not sold; one process is enough.
    """
    match name:
        case ConsumerName.ORDERS:
            # Each process carries its own modules alone.
            from consumers.app import main_orders  # noqa: PLC0415

            main_orders(load())
        case ConsumerName.DRAWS:
            from consumers.app import main_draws  # noqa: PLC0415

            main_draws(load())
        case ConsumerName.POINTS:
            from consumers.app import main_points  # noqa: PLC0415

            main_points(load())
        case ConsumerName.REDEMPTIONS:
            from consumers.app import main_redemptions  # noqa: PLC0415

            main_redemptions(load())
        case ConsumerName.WAREHOUSE:
            from warehouse.app import main_warehouse  # noqa: PLC0415

            main_warehouse(load())
