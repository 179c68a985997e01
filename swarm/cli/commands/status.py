"""``swarm status``, ``gpus``, ``workers``, ``models``, ``explain`` and ``metrics``.

They show what the swarm is made of, what it does, and why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from swarm.cli.command_options import QueueOptions, ShowOptions, arg, opt
from swarm.errors import EXIT_NOT_RUNNING
from swarm.runtime.open import open_observer, open_queue
from swarm.views.blocks import SIMULATED, Line

if TYPE_CHECKING:
    from swarm.config.settings import Settings

METRICS_PORT = 9464
workers_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
models_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


def status(at: ShowOptions) -> None:
    """Alarms, cards, workers, queue, throughput on one screen.

    Exit code 3 if nothing is running.

    \b
    Examples:
      swarm status
      watch -c swarm status
      swarm status --json | jq '.alarms[].text'
    """
    from swarm.views.overview import look, status_blocks

    settings = at.settings()
    queue = open_queue(settings)
    view = look(settings, queue, open_observer(settings, queue).snapshot())
    at.show(view, status_blocks(view))
    if not view.running:
        raise typer.Exit(EXIT_NOT_RUNNING)


def gpus(at: ShowOptions) -> None:
    """Cards: memory, load, temperature, power, worker.

    \b
    Example:
      swarm gpus --json | jq '.gpus[] | select(.temperature_c > 80)'
    """
    from swarm.views.documents import card_list
    from swarm.views.worker_rows import cards_table

    found = card_list(open_observer(at.load().settings).snapshot())
    lines = [Line(found.cards_note, "yellow")] if found.cards_note else []
    at.show(found, [cards_table(found.gpus), *lines])


@workers_app.callback()
def workers(at: ShowOptions, context: typer.Context) -> None:
    """Workers: state, model, slots, current or missing work.

    Below, what those that answer gave in the last minute: tokens per second, share of the best of the card, joules.

    \b
    Examples:
      swarm workers
      swarm workers --json | jq '.workers[] | {name, tokens_per_s, share_of_best, j_per_1k_tokens}'
      swarm workers release worker-2
    """
    if context.invoked_subcommand is not None:
        return
    from swarm.views.documents import worker_list
    from swarm.views.worker_rows import gave_blocks, workers_table

    settings = at.settings()
    found = worker_list(open_observer(settings).snapshot(), settings)
    rows = found.workers
    simulated = [Line(SIMULATED, "yellow")] if any(row.simulated and row.alive for row in rows) else []
    at.show(found, [workers_table(rows), *gave_blocks(rows), *simulated])


@workers_app.command()
def release(
    at: ShowOptions,
    names: list[str] = arg("NAME...", "Workers whose cards are quarantined."),
) -> None:
    """End the quarantine of a card early. Its worker takes tasks again within seconds.

    \b
    Example:
      swarm workers release worker-2
    """
    from swarm.views.verbs import cards_released, release_cards

    freed = release_cards(at.settings(), names)
    lines = [
        Line(f"{name}: quarantine ended ({note.reason})" if note is not None else f"{name}: is not quarantined")
        for name, note in freed.items()
    ]
    at.show(cards_released(freed), lines)


@models_app.callback()
def models(at: ShowOptions, context: typer.Context) -> None:
    """Models: where loaded, tasks waiting, memory, speed.

    Run: tasks, of the slots of the workers that hold it. On card: how much of its size lies in cards' memory. Load, task,
    tok/s: mean time of a load and of a request, and tokens generated per second.

    \b
    Examples:
      swarm models
      swarm models --json | jq '.models[] | select(.loaded_on == [])'
      swarm models pull llama3.2:3b
    """
    if context.invoked_subcommand is not None:
        return
    from swarm.views.documents import model_list
    from swarm.views.model_rows import models_table, serving_nodes

    settings = at.settings()
    snapshot = open_observer(settings).snapshot()
    found = model_list(snapshot, settings)
    at.show(found, [models_table(found.models, serving_nodes(snapshot))])


@models_app.command()
def pull(
    at: ShowOptions,
    name: str = arg("NAME", "A model, as Ollama names it: llama3.2:3b."),
    node: list[str] | None = opt("--node NODE", "Only to this machine, as `swarm workers` names it; local: this one."),
) -> None:
    """Download a model to every machine of the swarm.

    Servers that share a directory of models share a download.

    Uses a running server, or starts one for the download. An interrupted download resumes.

    \b
    Examples:
      swarm models pull llama3.2:3b
      swarm models pull llama3.2:3b --node box2
    """
    from swarm.cli.run.model_pull import pull as pull_model
    from swarm.cli.run.model_pull import pulled_lines, refuse_failed

    done = pull_model(at.load(), name, node or ())
    at.show(done, pulled_lines(done))
    refuse_failed(done)


def explain(
    at: ShowOptions,
    target: str = arg("TASK|WORKER|MODEL", "A task's id, a worker's or a model's name."),
) -> None:
    """Why a task waits, a worker idles, a model is loaded where it is.

    \b
    Examples:
      swarm explain worker-3
      swarm explain 1k7h2mz4q0035w3ce
      swarm explain llama3.2:3b
    """
    from swarm.cli.task_names import meant
    from swarm.views.documents import explain as explained
    from swarm.views.explanations import explanation_blocks

    settings = at.settings()
    queue = open_queue(settings)
    with meant(queue, target) as named:
        found = explained(named, open_observer(settings).snapshot(), settings, queue)
    at.show(found, explanation_blocks(found))


def metrics(
    at: QueueOptions,
    serve: bool = opt("--serve", "Answer on http://HOST:PORT/metrics until interrupted.", False),
    host: str | None = opt("--host HOST", "[default: metrics.host, which is 127.0.0.1]"),
    port: int | None = opt("--port PORT", f"[default: metrics.port, else {METRICS_PORT}]", least=1, most=65535),
) -> None:
    """Prometheus metrics: tasks, workers, models, cards, brain.

    With metrics.port set the brain serves the same; --serve does it without a brain. All metrics: docs/metrics.md.

    \b
    Examples:
      swarm metrics | grep swarm_tasks
      swarm metrics --serve --port 9464
    """
    from swarm.brain.metrics_endpoint import open_metrics, text

    settings = at.settings()
    if serve:
        _serve_metrics(settings, host or settings.metrics.host, port or settings.metrics.port or METRICS_PORT)
    else:
        print(text(open_metrics(settings)), end="")


def _serve_metrics(settings: Settings, host: str, port: int) -> None:
    import signal

    from swarm.brain.metrics_endpoint import open_metrics, serving

    wishes = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wishes)
    with serving(open_metrics(settings), host=host, port=port) as url:
        print(f"metrics on {url}; Ctrl-C ends", flush=True)
        signal.sigwait(wishes)
