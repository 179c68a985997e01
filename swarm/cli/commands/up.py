"""``swarm up``, ``down``, ``restart``, ``brain``, ``worker`` and ``sim``.

They start and end the processes of a swarm.
"""

from __future__ import annotations

from typing import Annotated

import typer

from swarm.cli.command_options import QueueOptions, ShowOptions, Simulate, Verbose, arg, opt, with_address, with_ray
from swarm.cli.render import to_json
from swarm.errors import EngineError
from swarm.views.blocks import Line

sim = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Simulated parts: a model server without models or GPU.")


def up(
    at: QueueOptions,
    simulate: Simulate = None,
    http: str | None = opt("--http [HOST:]PORT", "Serve OpenAI's and Ollama's APIs and a page there. [config: http.port]"),
    ray: str | None = opt("--ray ADDRESS", "Use the cards of this Ray cluster: HOST:PORT or auto. [config: ray.address]"),
    detach: bool = opt("--detach -d", "Continue in the background once everything is up.", False),
    for_pid: Annotated[
        int | None, typer.Option("--for-pid", hidden=True, help="Drain and end when this process does.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Start brain, model servers and workers; restart what dies.

    Runs until stopped: Ctrl-C once drains, twice stops at once.

    \b
    Examples:
      swarm up
      swarm up --simulate 4          no GPU or Ollama needed
      swarm up --detach; swarm status; swarm down
      swarm up --http 8080
    """
    from swarm.proc import identity
    from swarm.runtime.bootstrap import run_options
    from swarm.supervisor.background import start_detached
    from swarm.supervisor.main import run_supervisor

    loaded = at.load(announce=True)
    if http is not None:
        loaded = with_address(loaded, http, "--http")
    if ray is not None:
        loaded = with_ray(loaded, ray)
    options = run_options(loaded, simulate=simulate, verbose=verbose)
    if detach:
        raise typer.Exit(start_detached(options))
    parent = None if for_pid is None else identity.of_pid(for_pid)
    if for_pid is not None and parent is None:
        raise EngineError(f"--for-pid {for_pid}: there is no such process")
    raise typer.Exit(run_supervisor(options, parent=parent))


def down(
    at: ShowOptions,
    now: bool = opt("--now", "Requeue running tasks instead of waiting for them.", False),
) -> None:
    """Stop everything that runs on this queue.

    Running tasks finish first, unless --now is given. Also stops what a killed supervisor left and what was started alone.

    \b
    Examples:
      swarm down
      swarm down --now
    """
    from swarm.supervisor.down import stop_swarm

    stopped = stop_swarm(at.settings(), now=now)
    at.show({"stopped": stopped}, [Line(line) for line in stopped])


def brain(at: QueueOptions, verbose: Verbose = False) -> None:
    """Run the brain alone, in the foreground.

    `swarm up` does this for you.

    \b
    Example:
      swarm brain --verbose
    """
    from swarm.brain.main import run_brain
    from swarm.runtime.bootstrap import run_options

    raise typer.Exit(run_brain(run_options(at.load(), verbose=verbose)))


def worker(
    at: QueueOptions,
    name: str = arg("NAME", "Its name: from [[workers]], or worker-1 … one per card."),
    simulate: Simulate = None,
    verbose: Verbose = False,
) -> None:
    """Run one worker alone, in the foreground.

    `swarm up` does this for you.

    \b
    Example:
      swarm worker worker-1 --verbose
    """
    from swarm.runtime.bootstrap import run_options
    from swarm.worker.main import run_worker

    raise typer.Exit(run_worker(run_options(at.load(), simulate=simulate, verbose=verbose), name))


@sim.callback()
def sim_group() -> None:
    """Simulated parts: a model server without models or GPU."""


@sim.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def ollama(ctx: typer.Context) -> None:
    """Run one simulated model server; its own --help lists its options.

    \b
    Examples:
      swarm sim ollama --help
      swarm sim ollama --host 127.0.0.1:11500
    """
    from swarm.simulator.__main__ import main

    raise typer.Exit(main(ctx.args))


def restart(
    at: ShowOptions,
    names: list[str] = arg("NAME...", "brain, http, ray, worker-1, or its server ollama-worker-1."),
    now: bool = opt("--now", "Requeue running tasks instead of waiting for them.", False),
) -> None:
    """Restart single processes of the running swarm.

    A worker finishes its tasks first, unless --now is given. A process that waits for its next start, or is in quarantine,
    is started at once. The requests of a server are cut; their tasks are retried without losing an attempt.

    \b
    Examples:
      swarm restart worker-2
      swarm restart ollama-worker-2        its model server
      swarm restart brain
    """
    from swarm.supervisor.restarts import restart as restart_processes
    from swarm.views.verbs import Restarted

    lines = []
    for line in restart_processes(at.settings(), list(dict.fromkeys(names)), now=now):
        lines.append(line)
        if not at.as_json:
            print(line, flush=True)
    if at.as_json:
        print(to_json(Restarted(restarted=tuple(lines))))
