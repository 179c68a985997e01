"""``swarm queue fsck``: prove the queue sound, or say what is not and put it right."""

# ruff: noqa: D301  (the help text carries \b, which keeps its examples as they are)

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Config, Json, Root, existing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.cli.render import Block
    from swarm.queue.fsck.rules import Finding


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Do what is said; no task is ever deleted.")] = False,
    root: Root = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Prove that each task is whole and in exactly one state. And that nothing is left without an owner.

    Reads every document. May run while the swarm works: only what two scans agree on is told. What has no place is
    moved to corrupt/ with its reason. Exit code 0: sound (or all put right); 1: findings.

    \b
    Examples:
      swarm queue fsck
      swarm queue fsck --repair
      swarm queue fsck --json | jq .findings
    """
    import os

    from swarm.cli.render import show
    from swarm.errors import EXIT_TASKS_FAILED
    from swarm.queue.fsck import fsck as checks
    from swarm.queue.layout import Layout
    from swarm.queue.storage.files import Storage

    settings = existing(root, config)
    layout = Layout(os.path.abspath(settings.queue.root))
    findings = checks.look(layout)
    done = checks.repair(layout, Storage(settings.queue.durability, layout.root), findings) if repair else ()
    left = tuple(f for f in findings if f not in done)
    show({"clean": not left, "findings": left, "repaired": done}, _blocks(left, done), as_json=as_json)
    if left:
        raise typer.Exit(EXIT_TASKS_FAILED)


def _blocks(left: Sequence[Finding], done: Sequence[Finding]) -> list[Block]:
    from swarm.cli.render import Line
    from swarm.cli.units import plural

    lines: list[Block] = [Line(f"repaired: {f.path}: {f.what} - {f.repair}", "green") for f in done]
    for f in left:
        lines += [Line(f"{f.kind}: {f.path}", "yellow"), Line(f"  {f.what}"), Line(f"  repair: {f.repair}", "dim")]
    if not left:
        lines.append(Line("The queue is sound: each task is whole and in exactly one state.", "bold"))
    elif not done:
        lines.append(Line(f"{plural(len(left), 'finding')}; `swarm queue fsck --repair` does what each says", "bold"))
    else:
        lines.append(Line(f"{plural(len(left), 'finding')} left, which nothing here may decide", "bold"))
    return lines
