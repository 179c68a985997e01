"""A worker whose card is in another machine: how it comes to know the card, and what it uses in place of what is here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.config.settings import Settings
from swarm.core.faults import TaskFault
from swarm.core.gpu_reading import GpuReading
from swarm.core.nodes.relay_wire import CardState, NodeState
from swarm.core.placement.worker_plan import WorkerPlan
from swarm.core.worker import WorkerStatus
from swarm.engines.remote.log_mirror import LogMirror
from swarm.engines.remote.relay_address import RelayAddress, holder_of
from swarm.engines.remote.relay_calls import RelayCalls
from swarm.engines.remote.remote_cards import AnsweredCards, RemoteCards
from swarm.engines.remote.remote_server import RemoteServer
from swarm.errors import ConfigError, EngineError
from swarm.queue.layout import Layout
from swarm.queue.stores.node_book import node_token
from swarm.runtime.bootstrap import RunOptions
from swarm.runtime.logging import LogOnce
from swarm.runtime.loop import StopWish
from swarm.worker.heartbeat import HeartbeatThread, WorkerState
from swarm.worker.tuning.slot_wiring import ServerSlots

ASK_EVERY_S = 1.0
"""How often a machine that does not answer is asked again."""
_FINAL = frozenset({"wrong_token"})
"""What waiting does not mend: kinds of faults."""


@dataclass(frozen=True, kw_only=True)
class RemoteCard:
    """What a worker uses of a card in another machine."""

    plan: WorkerPlan
    """With what the relay says of the card."""
    calls: RelayCalls
    cards: RemoteCards
    judged: AnsweredCards
    server: RemoteServer
    mirror: LogMirror

    @property
    def slots(self) -> ServerSlots:
        """What its Ollama server runs for, as of the last look."""
        card = self.cards.card
        return ServerSlots(card.slots if card.slots_set else 0, lambda: self.cards.card.slots)

    def seen(self) -> tuple[GpuReading, ...]:
        """The card, as of the last look."""
        return self.cards.latest

    def close(self) -> None:
        """Copy no more of the log, close connections."""
        self.mirror.stop()
        self.calls.close()


def remote_card(
    plan: WorkerPlan,
    options: RunOptions,
    layout: Layout,
    *,
    state: WorkerState,
    beats: HeartbeatThread,
    wish: StopWish,
    wait: Callable[[float], object],
    trouble: Callable[[], str],
    log: logging.Logger,
) -> RemoteCard | None:
    """Wait until its relay tells of the card, saying so in the heartbeat; None: asked to stop before, or the root is gone.

    Raises ``ConfigError``, ``EngineError``: what no waiting mends.
    """
    calls = RelayCalls(relay_address(plan, options.settings, layout, os.environ))
    said, again = LogOnce(log), ""
    try:
        while not wish.urgency and not trouble():
            try:
                return _known(plan, calls, calls.node(), calls.state(), options, wish=wish, log=log)
            except TaskFault as fault:
                why = f"waits for its card: {fault.message}"
                said.failing("card", f"{plan.name} {why}")
                state.publish(turn=state.beat.turn + 1, status=WorkerStatus.UNREADY, reason=why)
                if why != again:
                    beats.beat_within(0.0)
                    again = why
                if fault.kind in _FINAL:
                    raise EngineError(f"{plan.name}: {fault.message}") from fault
            wait(ASK_EVERY_S)
    except BaseException:
        calls.close()
        raise
    calls.close()
    return None


def _known(
    plan: WorkerPlan,
    calls: RelayCalls,
    node: NodeState,
    card: CardState,
    options: RunOptions,
    *,
    wish: StopWish,
    log: logging.Logger,
) -> RemoteCard:
    def changed(what: str) -> None:
        log.error("%s ends, to be started anew: its card on %s is another now: %s", plan.name, node.node, what)
        wish.ask()
        wish.ask()  # what runs is requeued untouched

    log.info("Card %s of %s: %s, %s MiB, %s", card.card, node.node, card.uuid, card.vram_mib, ", ".join(card.engines))
    known = completed(plan, card)
    cards = RemoteCards(calls, card, changed, node=known.node)
    return RemoteCard(
        plan=known,
        calls=calls,
        cards=cards,
        judged=AnsweredCards(cards),
        server=RemoteServer(calls, known.engines[0]),
        mirror=LogMirror(calls, plan.name, root=options.root, log=log),
    )


def completed(plan: WorkerPlan, card: CardState) -> WorkerPlan:
    """The plan with what its relay says of the card. Its machine stays called as it is here, also while it is away."""
    return msgspec.structs.replace(
        plan,
        gpus=(card.index,),
        gpu_uuids=(card.uuid,),
        engines=card.engines or plan.engines,
        simulated=card.simulated,
        vram_mib=card.vram_mib,
    )


def relay_address(plan: WorkerPlan, settings: Settings, layout: Layout, env: Mapping[str, str]) -> RelayAddress:
    """With the token of its ``[[workers]]`` entry, or that of all nodes.

    Raises ``ConfigError``, ``QueueError``, ``OSError``.
    """
    assert plan.url is not None
    token = relay_token_of(plan, settings, layout, env)
    return RelayAddress(url=plan.url, token=token, holder=holder_of(Path(settings.queue.root)))


def relay_token_of(plan: WorkerPlan, settings: Settings, layout: Layout, env: Mapping[str, str]) -> str:
    """The token for a worker's relay. Raises ``ConfigError``, ``QueueError``."""
    assert plan.relay is not None
    return _own_token(plan.name, settings, env) if plan.relay.own_token else node_token(layout)


def _own_token(name: str, settings: Settings, env: Mapping[str, str]) -> str:
    spec = next((one for one in settings.workers if one.name == name), None)
    if spec is None:
        raise ConfigError(f"[[workers]] has no entry {name!r} any more", hint="restart the swarm with `swarm up`")
    token = env.get(spec.token_env, "").strip() if spec.token_env is not None else spec.token or ""
    if not token and spec.token_env is not None:
        hint = f"export {spec.token_env}=… with the token that the relay printed, before `swarm up`"
        raise ConfigError(f"[[workers]] {name}: the variable {spec.token_env} (token_env) is not set", hint=hint)
    if not token:
        raise ConfigError(f"[[workers]] {name}: it has a url, and neither token nor token_env", hint="the relay prints it")
    return token
