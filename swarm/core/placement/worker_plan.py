"""From settings and cards to workers: who gets which card, port and server. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import count

import msgspec

from swarm.config.settings import Settings, WorkerSpec
from swarm.core.gpu_reading import GpuReading
from swarm.core.health.visible_gpus import Visibility
from swarm.core.models.engines import OLLAMA, engine_named, engine_of_worker
from swarm.core.nodes.relay_workers import EXAMPLE_URL, RelayPlace, relay_places
from swarm.errors import ConfigError

HOST = "127.0.0.1"
RESERVED_NAMES = frozenset({"brain", "supervisor", "http", "ray"})
"""Lock and log files of these names belong to others."""
_LAST_PORT = 65535
_SHOW_CARDS = (
    "unset CUDA_VISIBLE_DEVICES or name a card that may be used in it (by index or UUID: `nvidia-smi -L`), "
    "or set ignore_visible = true in [gpu]"
)


class WorkerPlan(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One planned worker: its cards and its model server."""

    name: str
    gpus: tuple[int, ...] = ()
    gpu_uuids: tuple[str, ...] = ()
    engines: tuple[str, ...] = (OLLAMA,)
    """Engines that serve its models, that of models which name none first."""
    port: int | None = None
    """Where our own server listens; None for an adopted server and for a worker without one."""
    model_port: int | None = None
    """Where the processes listen that serve one model each; another than ``port`` only beside an Ollama server."""
    url: str | None = None
    """Base URL of its model server without a trailing slash; None: cpu and script work only."""
    adopted: bool = False
    """The server is somebody else's: neither started nor stopped by us."""
    simulated: bool = False
    vram_mib: int | None = None
    """Memory of its cards together, where known."""
    fault: str | None = None
    """A card of it is lost: no server is started on it."""
    relay: RelayPlace | None = None
    """Its card is in another machine; ``url`` is the card's base URL at the relay there, which keeps its server."""

    @property
    def owns_server(self) -> bool:
        """Whether the supervisor keeps an Ollama server for this worker; servers of other engines are the worker's own."""
        return self.url is not None and not self.adopted and self.relay is None and OLLAMA in self.engines

    @property
    def ollama_url(self) -> str | None:
        """Base URL of its Ollama server; None where it has none."""
        return self.url if OLLAMA in self.engines and self.relay is None else None

    @property
    def node(self) -> str:
        """The machine of its cards; empty: this one."""
        return self.relay.node if self.relay is not None else ""


def simulated_cards(number: int, vram_mib: int) -> tuple[GpuReading, ...]:
    """The cards of ``--simulate N``. Raises ``ConfigError`` for less than one."""
    if number < 1:
        raise ConfigError(f"--simulate {number}: at least one card is needed", hint="try --simulate 4")
    return tuple(
        GpuReading(index=i, uuid=f"SIM-GPU-{i}", name="Simulated GPU", simulated=True, memory_total_mib=vram_mib)
        for i in range(number)
    )


def plan_workers(
    settings: Settings,
    cards: Sequence[GpuReading],
    *,
    simulate: int | None,
    visibility: Visibility | None = None,
    unavailable: str | None = None,
) -> tuple[WorkerPlan, ...]:
    """One worker per card, or those of ``[[workers]]``, and besides those whose cards are in other machines.

    With ``simulate`` ``cards`` is ignored; with Ray only ``[[workers]]`` counts. ``visibility`` tells why ``cards`` are not
    all there are, ``unavailable`` why none could be read. Raises ``ConfigError``: unknown or hidden card, a card, name, port
    or server given twice, no card at all.
    """
    seen = visibility if visibility is not None and simulate is None else Visibility()
    found = tuple(cards) if simulate is None else simulated_cards(simulate, settings.sim.vram_mib)
    remote = tuple(spec for spec in settings.workers if spec.url is not None)
    specs = tuple(spec for spec in settings.workers if spec.url is None) or _unnamed(settings, found, remote)
    elsewhere = bool(remote) or settings.ray.address is not None
    if not specs and seen.hidden and not elsewhere:
        raise ConfigError(f"no card is left to work on: {seen.note}", hint=_SHOW_CARDS)
    if not specs and not elsewhere:
        raise ConfigError(
            f"no GPU was found{f' ({unavailable})' if unavailable else ''} and the configuration names no workers",
            hint="try --simulate 4, or name a running server: [[workers]] name = 'worker-1', ollama_url = 'http://127.0.0.1:11434'",
        )
    _check_names((*specs, *remote))
    _check_cards(specs, found, seen, unavailable)
    _check_servers(specs, settings)
    ports = _ports(specs, settings.ollama.base_port)
    by_index = {card.index: card for card in found}
    here = (_plan(spec, settings, by_index, ports, simulated=simulate is not None) for spec in specs)
    return (*here, *_remote_plans(remote, settings))


def _unnamed(settings: Settings, cards: Sequence[GpuReading], others: Collection[WorkerSpec]) -> tuple[WorkerSpec, ...]:
    """The workers of this machine where the configuration names none."""
    if settings.ray.address is not None:
        return ()  # its cards come through Ray too
    taken = {spec.name for spec in others}
    names = (name for i in count(1) if (name := f"worker-{i}") not in taken)
    if engine_named(settings, settings.llm.engine).url is not None:
        return (WorkerSpec(name=next(names)),)  # one server, wherever its cards are
    return tuple(WorkerSpec(name=next(names), gpus=(card.index,)) for card in cards)


def _remote_plans(specs: Sequence[WorkerSpec], settings: Settings) -> Iterator[WorkerPlan]:
    """Cards of other machines; what they are is known once their relay has told it."""
    places = relay_places(specs)
    for spec in specs:
        if spec.name not in places:
            raise ConfigError(f"[[workers]] {spec.name}: url is no address of a card", hint=f"write it as {EXAMPLE_URL}")
        card, place = places[spec.name]
        yield WorkerPlan(name=spec.name, engines=_engines(spec, settings, adopted=False), url=card.url, relay=place)


def _plan(
    spec: WorkerSpec, settings: Settings, cards: dict[int, GpuReading], ports: Iterator[int], *, simulated: bool
) -> WorkerPlan:
    mine = [cards[i] for i in spec.gpus]
    sizes = [c.memory_total_mib for c in mine if c.memory_total_mib is not None]
    url = _running_server(spec, settings)
    adopted = url is not None
    engines = _engines(spec, settings, adopted=adopted)
    # A worker without card, port, engine and URL has no server: it runs cpu and script tasks.
    port = None if adopted or not (mine or spec.port or spec.engine) else (spec.port or next(ports))
    model_port = None if port is None or engines == (OLLAMA,) else next(ports) if OLLAMA in engines else port
    url = url or (f"http://{HOST}:{port}" if port else None)
    return WorkerPlan(
        name=spec.name,
        gpus=spec.gpus,
        gpu_uuids=tuple(c.uuid for c in mine),
        engines=engines,
        port=port,
        model_port=model_port,
        url=url,
        adopted=adopted,
        simulated=simulated and port is not None,
        vram_mib=sum(sizes) if sizes and len(sizes) == len(mine) else None,
        fault=next((f"card {c.index}: {c.fault}" for c in mine if c.fault is not None), None),
    )


def _running_server(spec: WorkerSpec, settings: Settings) -> str | None:
    """The running server that this worker uses."""
    if spec.ollama_url is not None:
        return spec.ollama_url.rstrip("/")
    return engine_named(settings, engine_of_worker(settings, spec.engine)).url


def _engines(spec: WorkerSpec, settings: Settings, *, adopted: bool) -> tuple[str, ...]:
    """A running server serves its own models only; other workers also those that name an engine of their own."""
    own = OLLAMA if spec.ollama_url is not None else engine_of_worker(settings, spec.engine)
    if adopted:
        return (own,)
    named = [model.engine for model in settings.models.values() if model.engine is not None]
    return tuple(dict.fromkeys((own, *(name for name in named if engine_named(settings, name).url is None))))


def _ports(specs: Sequence[WorkerSpec], base: int) -> Iterator[int]:
    """Ports from ``base`` upwards that no worker was given by hand."""
    given = {spec.port for spec in specs}
    for port in count(base):
        if port > _LAST_PORT:
            raise ConfigError(f"ollama.base_port = {base} leaves too few ports", hint="use a lower base_port, such as 11435")
        if port not in given:
            yield port


def _check_names(specs: Sequence[WorkerSpec]) -> None:
    seen: set[str] = set()
    for spec in specs:
        if spec.name in RESERVED_NAMES:
            raise ConfigError(f"[[workers]] name = {spec.name!r}: this name is swarm's own", hint="try worker-1")
        if spec.name in seen:
            raise ConfigError(f"[[workers]] name = {spec.name!r} is given twice", hint="give each worker its own name")
        seen.add(spec.name)


def _check_cards(
    specs: Sequence[WorkerSpec], cards: Sequence[GpuReading], seen: Visibility, unavailable: str | None
) -> None:
    known = sorted(card.index for card in cards)
    owner: dict[int, str] = {}
    for spec in specs:
        for index in spec.gpus:
            if index in seen.hidden:
                raise ConfigError(
                    f"[[workers]] {spec.name}: GPU {index} is hidden from this process: {seen.note}", hint=_SHOW_CARDS
                )
            if index not in known:
                there = ", ".join(map(str, known)) or f"none{f': {unavailable}' if unavailable else ''}"
                raise ConfigError(
                    f"[[workers]] {spec.name}: there is no GPU {index} (there are: {there})", hint="see `swarm gpus`"
                )
            if index in owner:
                raise ConfigError(
                    f"[[workers]] GPU {index} is given to both {owner[index]} and {spec.name}",
                    hint="a card belongs to one worker; use llm.slots for more requests at a time",
                )
            owner[index] = spec.name


def _check_servers(specs: Sequence[WorkerSpec], settings: Settings) -> None:
    ports: dict[int, str] = {}
    urls: dict[str, str] = {}
    for spec in specs:
        if spec.port is not None and spec.ollama_url is not None:
            raise ConfigError(f"[[workers]] {spec.name}: give either port (our own server) or ollama_url (a running one)")
        if spec.port is not None:
            if spec.port in ports:
                raise ConfigError(f"[[workers]] port {spec.port} is given to both {ports[spec.port]} and {spec.name}")
            ports[spec.port] = spec.name
        url = _running_server(spec, settings)
        if url is None:
            continue
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"[[workers]] {spec.name}: ollama_url = {spec.ollama_url!r} is no http URL",
                hint="write it as http://127.0.0.1:11434",
            )
        if url in urls:
            raise ConfigError(
                f"[[workers]] the server {url} is given to both {urls[url]} and {spec.name}",
                hint="two workers would unload each other's models; use llm.slots for more requests at a time",
            )
        urls[url] = spec.name
