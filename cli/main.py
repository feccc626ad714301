"""The command line: one line per group of commands."""

import typer

from cli.campaign import app as campaign_app
from cli.campaign import stock_app
from cli.consume import consume
from cli.demo import demo
from cli.migrate import migrate
from cli.processes import gateway, ops, relay
from cli.reconcile import reconcile
from cli.stack import app as stack_app
from cli.test import test
from cli.token import token
from cli.up import up

app = typer.Typer(
    help="flashgate: a flash-sale gateway.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(up)
app.add_typer(campaign_app, name="campaign")
app.add_typer(stack_app, name="stack")
app.add_typer(stock_app, name="stock")
app.command()(test)
app.command()(token)
app.command()(gateway)
app.command()(relay)
app.command()(consume)
app.command()(reconcile)
app.command(hidden=True)(ops)
app.command()(migrate)


def main() -> None:
    """Run the command that the arguments name; ends by SystemExit, or by the command's own error."""
    app(prog_name="flashgate")
