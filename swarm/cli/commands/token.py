"""``swarm token``: who may use the HTTP server over the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from swarm.cli.command_options import ShowOptions, arg, opt
from swarm.errors import InputError, name_hint
from swarm.views.blocks import Line, Table, columns

if TYPE_CHECKING:
    from swarm.core.access import Scope

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""Tokens of the HTTP server: create, list, revoke.

    \b
    Example:
      swarm token create alice
    """,
)


@app.command()
def create(
    at: ShowOptions,
    name: str = arg("NAME", "Of the person or program that gets it."),
    scope: str = opt("--scope SCOPE", "read: look; submit: have work done; admin: everything.", "submit"),
) -> None:
    """Make a token and show it, this once. It is valid at once.

    \b
    Examples:
      swarm token create alice
      swarm token create grafana --scope read
    """
    from swarm.queue.stores.tokens import create_token
    from swarm.runtime.bootstrap import open_root, run_options

    queue, _ = open_root(run_options(at.load()))
    made = create_token(queue.layout, queue.storage, name, _scope(scope))
    lines = [Line(made), Line("This is the only time it is shown. Clients send it as `Authorization: Bearer TOKEN`.")]
    at.show({"name": name, "scope": scope, "token": made}, lines)


@app.command("list")
def list_tokens(at: ShowOptions) -> None:
    """Names, scopes and dates of all tokens.

    \b
    Example:
      swarm token list
    """
    from swarm.queue.stores.tokens import read_tokens

    known = read_tokens(at.queue().layout)
    document = [{"name": one.name, "scope": one.scope, "created_at": one.created_at} for one in known]
    rows = tuple((one.name, str(one.scope), one.created_at) for one in known)
    at.show(
        {"tokens": document}, [Table(columns=columns("name", "scope", "created"), rows=rows, empty="there are no tokens")]
    )


@app.command()
def revoke(at: ShowOptions, names: list[str] = arg("NAME...", "Tokens that are no longer valid.")) -> None:
    """Make tokens invalid, at once. Requests that run are finished; streams of events end.

    \b
    Example:
      swarm token revoke alice
    """
    from swarm.queue.stores.tokens import revoke_token

    queue = at.queue()
    for name in names:
        revoke_token(queue.layout, queue.storage, name)
    at.show({"revoked": names}, [Line(f"{name}: revoked") for name in names])


def _scope(text: str) -> Scope:
    from swarm.core.access import Scope

    known = [str(one) for one in Scope]
    if text not in known:
        raise InputError(f"--scope {text!r}: there is no such scope", hint=name_hint(text, known, "one of:"))
    return Scope(text)
