"""`flashgate sandbox …`: the payment provider for trying things out, in which no money moves."""

from typing import Annotated, Final

import typer

from cli.clients import run as run_async
from cli.config import load
from domain.errors import OperationRefusedError
from lifecycle.payment_key import read_payment_key
from sandbox import client as sandbox_client
from sandbox.app import run_sandbox
from sandbox.rules import DELAY_MAX_S, Mode

HELP: Final = "The payment provider for trying things out: no money moves."

TELL_HELP: Final = """Tell the running sandbox how to behave: all new payments, or --payment or --order alone.

\b
ask                  it waits for the buyer (so it is at first)
approve              charged at once
decline              declined at once
delay                charged at once; the callback comes late
duplicate            charged at once; the callback comes three times
reorder              charged at once; an older callback comes last: declined
charge_then_timeout  charged, but the call that creates it is never answered
timeout              neither charged nor answered
nonsense             waits for the buyer; creating it is answered with garbage
silent               charged at once, without any callback
"""

app = typer.Typer(help=HELP)


@app.callback(no_args_is_help=True)
def group() -> None:
    """The payment provider for trying things out: no money moves."""


@app.command()
def run() -> None:
    """Run the sandbox provider until SIGTERM or Ctrl-C, on this machine only."""
    run_sandbox(load())


@app.command(help=TELL_HELP)
def tell(
    mode: Annotated[Mode, typer.Argument(help="What becomes of payments.")],
    payment: Annotated[str | None, typer.Option(help="This payment only, rather than all new ones.")] = None,
    order: Annotated[str | None, typer.Option(help="This order's payments only.")] = None,
    delay: Annotated[float, typer.Option(min=0, max=DELAY_MAX_S, help="How late callbacks come, seconds.")] = 0.0,
    *,
    callback: Annotated[
        bool, typer.Option("--callback", help="With charge_then_timeout: a callback tells of it after all.")
    ] = False,
) -> None:
    """Tell the running sandbox how to behave: TELL_HELP."""
    if payment is not None and order is not None:
        raise OperationRefusedError("give --payment or --order, not both")
    settings = load()
    run_async(
        sandbox_client.tell(
            settings.payment.provider_url,
            read_payment_key(settings),
            mode,
            payment_id=payment,
            order_id=order,
            delay_s=delay,
            callback=callback,
        )
    )


@app.command()
def reset() -> None:
    """Make the running sandbox forget what it was told: it asks the buyer again."""
    settings = load()
    run_async(sandbox_client.reset(settings.payment.provider_url, read_payment_key(settings)))


@app.command()
def pay(
    payment: Annotated[str, typer.Argument(help="The payment's id.")],
    *,
    decline: Annotated[bool, typer.Option("--decline", help="Decline instead.")] = False,
) -> None:
    """Pay, as the buyer does at the pay_url."""
    state = run_async(sandbox_client.pay(load().payment.provider_url, payment, approve=not decline))
    typer.echo(f"{payment} is {state.value}")
