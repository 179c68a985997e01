"""Evidence about engines: their programs and versions, the files of models, the servers of engines besides Ollama."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from swarm.config.settings import Settings
from swarm.core.doctor.evidence import EngineEvidence, ModelFileEvidence, ServerEvidence
from swarm.core.faults import TaskFault
from swarm.core.models.engines import OLLAMA, Engine, engine_named, engine_names, engine_of_model, engine_of_worker
from swarm.core.placement.worker_plan import HOST, WorkerPlan
from swarm.core.task import canonical_model
from swarm.engines.processes.model_files import ConfiguredFiles, SimulatedFiles
from swarm.engines.processes.model_process import running_note
from swarm.engines.processes.model_spec import markers_of, note_path
from swarm.engines.processes.programs import find_program, program_of, version_of
from swarm.engines.server_calls import ServerCalls
from swarm.engines.server_proof import ServerProof
from swarm.errors import ConfigError
from swarm.proc.ports import is_free

VERSION_S = 5.0


def engine_evidence(settings: Settings, plan: tuple[WorkerPlan, ...]) -> tuple[EngineEvidence, ...]:
    """Each engine that starts servers: its program, which version, and who wants it."""
    wanted = [engine_named(settings, name) for name in engine_names(settings)]
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        found = pool.map(lambda engine: _engine(engine, settings, plan), wanted)
        return tuple(one for one in found if one is not None)


def _engine(engine: Engine, settings: Settings, plan: tuple[WorkerPlan, ...]) -> EngineEvidence | None:
    program = find_program(settings.ollama.binary, os.environ) if engine.kind == "ollama" else program_of(engine, os.environ)
    if program is None or (engine.kind == "openai" and not engine.settings.command):
        return None
    owns = (p for p in plan if engine.name in p.engines and (p.owns_server if engine.name == OLLAMA else p.model_port))
    return EngineEvidence(
        name=engine.name,
        program=program.name,
        path=program.path,
        version=version_of(program.path, os.environ, VERSION_S) if program.path else "",
        trouble=program.trouble,
        workers=tuple(p.name for p in owns if not p.simulated),
    )


def file_evidence(settings: Settings) -> Iterator[ModelFileEvidence]:
    """Each configured model that an engine of some worker would load from a file, with what is wrong with that."""
    workers = [
        engine_of_worker(settings, one.engine) for one in settings.workers if one.ollama_url is None and one.url is None
    ]
    for model, entry in settings.models.items():
        names = {engine_of_model(settings, model, one) for one in workers or [settings.llm.engine]}
        engines = [engine_named(settings, name) for name in sorted(names)]
        engine = next((one for one in engines if one.kind != "ollama" and (entry.file or one.kind == "llama-server")), None)
        if engine is None:
            continue
        try:
            found = ConfiguredFiles(engine, engine.name, settings, os.environ).find(model)
        except TaskFault as fault:
            yield ModelFileEvidence(model=model, engine=engine.name, file=entry.file or "", trouble=fault.message)
        else:
            yield ModelFileEvidence(model=model, engine=engine.name, file=found.file)


def engine_server(plan: WorkerPlan, root: Path, settings: Settings, *, ask: bool) -> ServerEvidence:
    """The server of a worker's engines besides Ollama: what it serves or could, and who has its port."""
    url = plan.url if plan.adopted else f"http://{HOST}:{plan.model_port}"
    assert url is not None
    error, installed = "", None
    holder = _port_holder(plan, root, running=ask)
    if ask and not holder:
        try:
            installed = tuple(sorted(_names(plan, root, settings)))
        except (TaskFault, ConfigError) as fault:
            error = fault.message
    return ServerEvidence(
        worker=plan.name,
        url=url,
        adopted=plan.adopted,
        ollama=False,
        error=error,
        installed=installed,
        port=plan.model_port,
        port_holder=holder,
    )


def _names(plan: WorkerPlan, root: Path, settings: Settings) -> Iterator[str]:
    """Canonical names of the models it could serve. Raises ``TaskFault`` where a server that runs does not answer well."""
    key = {name: engine_named(settings, name).settings.api_key_env for name in plan.engines}
    if plan.adopted:
        assert plan.url is not None
        variable = key[plan.engines[0]]
        served = ServerCalls(plan.url, key=os.environ.get(variable, "") if variable else "").models(VERSION_S)
        yield from (canonical_model(one.name) for one in served)
        return
    note = running_note(note_path(plan.name, root), markers_of(plan.name, root))
    if note is not None and note.engine in key:
        health = engine_named(settings, note.engine).settings.health
        trouble = ServerCalls(f"http://127.0.0.1:{note.port}").trouble(health, VERSION_S)
        if trouble:
            raise TaskFault("infra", "unhealthy", f"pid {note.process.pid}, which serves {note.model}: {trouble}")
    for name in plan.engines:
        if name == OLLAMA:
            continue
        own = ConfiguredFiles(engine_named(settings, name), plan.engines[0], settings, os.environ)
        yield from (one.name for one in (SimulatedFiles(settings) if plan.simulated else own).listed())


def _port_holder(plan: WorkerPlan, root: Path, *, running: bool) -> str:
    """Who has the port of a server of ours, if it is none of ours. Simulated servers give way before a start."""
    port = plan.model_port
    if port is None or (plan.simulated and not running) or is_free("127.0.0.1", port):
        return ""
    return ServerProof(markers_of(plan.name, root), known=lambda: None).stranger_on(port)
