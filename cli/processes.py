"""`flashgate gateway`, `relay`, `lifecycle`, `ops`: one process each, set up by file and environment."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cli.config import load
from gateway.app import run_gateway, run_ops, run_relay

PortOption = Annotated[int | None, typer.Option(min=0, max=65_535, help="Overrides the settings.")]


def gateway(
    port: PortOption = None,
    ops_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Serve /metrics of this process here, too.")
    ] = None,
    number: Annotated[int, typer.Option(help="Number of this worker, for its title.")] = 1,
    fd: Annotated[int | None, typer.Option(help="An inherited listening socket to serve on.", hidden=True)] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Made once the worker serves.", hidden=True)] = None,
) -> None:
    """Run one gateway worker until SIGTERM or Ctrl-C. Several may share one port (SO_REUSEPORT)."""
    settings = load()
    if port is not None:
        settings = msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, port=port))
    if ops_port is not None:
        settings = msgspec.structs.replace(settings, ops=msgspec.structs.replace(settings.ops, port=ops_port))
    run_gateway(settings, number=number, fd=fd, with_ops=ops_port is not None, ready_file=ready_file)


def relay() -> None:
    """Run one relay (outbox to Kafka) until SIGTERM or Ctrl-C. A second one stands by for the first."""
    run_relay(load())


def lifecycle() -> None:
    """Expire unpaid orders, give stock back, check payments, publish order events, until SIGTERM or Ctrl-C."""
    # Only this process needs it; the others should not carry it.
    from lifecycle.app import main_lifecycle  # noqa: PLC0415

    main_lifecycle(load())


def ops() -> None:
    """Run the ops plane (/metrics) for the processes of one `up`."""
    run_ops(load())
