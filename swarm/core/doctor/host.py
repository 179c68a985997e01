"""Findings about the box: disk, root, limits, clock, cards, programs."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.config.settings import Settings
from swarm.core.doctor.evidence import BoxEvidence, DiskEvidence, DoctorFinding, ServerEvidence, critical, warning
from swarm.core.doctor.root_check import TOLD_OF_THE_DISK, Support
from swarm.core.policy.script_entries import script_warnings

LOW_MIB = 500
FULL_MIB = 20
LOW_INODES = 10_000
FULL_INODES = 100
MIN_OPEN_FILES = 1024


def box_findings(evidence: BoxEvidence, settings: Settings) -> Iterator[DoctorFinding]:
    """In the order in which they would stop a start."""
    yield from _disk(evidence.disk)
    yield from _root(evidence)
    yield from _lacks(evidence)
    yield from _host(evidence)
    yield from _programs(evidence)
    yield from _cards(evidence, settings.gpu.warn_c)
    for server in evidence.servers:
        yield from _port(server)
    yield from _scripts(settings)


def _scripts(settings: Settings) -> Iterator[DoctorFinding]:
    for entry in script_warnings(settings.scripts):
        yield warning("script-any-code", f"[scripts] {entry.name}", entry.what, todo=entry.next)


def _disk(disk: DiskEvidence) -> Iterator[DoctorFinding]:
    room = f"{disk.path}: {disk.free_mib} of {disk.total_mib} MiB free"
    inodes = "" if disk.free_inodes is None else f"{disk.path}: {disk.free_inodes} inodes free"
    numbers = tuple(text for text in (room, inodes) if text)
    if disk.read_only:
        what = f"the file system of {disk.path} is read-only: nothing can be claimed, finished or submitted"
        step = "see `dmesg` for why it was remounted; mount -o remount,rw, work resumes by itself"
        yield critical("disk-read-only", "box", what, evidence=numbers, todo=step)
    elif disk.free_mib < FULL_MIB or (disk.free_inodes is not None and disk.free_inodes < FULL_INODES):
        what = "the disk is full: tasks stay where they are, results are kept in memory until there is room"
        step = "make room (`swarm queue purge --older-than 7d`, old logs, `ollama rm`); work resumes by itself"
        refused = (f"a test file was refused: {disk.refused}",) if disk.refused else ()
        yield critical("disk-full", "box", what, evidence=(*numbers, *refused), todo=step)
    elif disk.refused:
        what = f"nothing can be written to {disk.path}: {disk.refused}"
        step = "give this user the directory, or choose another one with --root"
        yield critical("disk-refuses", "box", what, evidence=numbers, todo=step)
    elif disk.free_mib < LOW_MIB or (disk.free_inodes is not None and disk.free_inodes < LOW_INODES):
        what = "the disk is nearly full"
        step = "make room: `swarm queue purge --older-than 7d`, brain.retention_days"
        yield warning("disk-low", "box", what, evidence=numbers, todo=step)


def _root(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    if evidence.root_trouble:
        yield critical(
            "root-permissions",
            "box",
            f"the queue root cannot be used: {evidence.root_trouble}",
            evidence=(evidence.root,),
            todo=f"{evidence.root_mend or _root_mend(evidence.root)}, or a root of your own with --root",
        )
    elif evidence.look_trouble:
        yield critical(
            "root-unreadable",
            "box",
            f"the queue cannot be read: {evidence.look_trouble}",
            evidence=(evidence.root,),
            todo="run this as the user that runs the swarm",
        )


def _root_mend(root: str) -> str:
    return f"run this as the user of the swarm; if it is to be yours, chown and chmod go-w {root}"


def _lacks(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    """What a start would refuse, and what costs something that could be mended; other fall-backs are only listed."""
    for check in evidence.checks:
        missing = check.verdict is Support.MISSING
        if check.name in TOLD_OF_THE_DISK or not (missing or (check.verdict is Support.FALLBACK and check.next)):
            continue
        yield DoctorFinding(
            severity="critical" if missing else "warning",
            code="host-lacks" if missing else "host-fallback",
            subject="box",
            what=str(check),
            evidence=(f"tested just now for {evidence.root}",),
            next=check.next,
        )


def _host(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    if evidence.open_files < MIN_OPEN_FILES:
        yield warning(
            "open-files",
            "box",
            f"a process may open only {evidence.open_files} files",
            evidence=(f"ulimit -n: {evidence.open_files}",),
            todo=f"ulimit -n 65536 before `swarm up`, or LimitNOFILE= in the unit (at least {MIN_OPEN_FILES})",
        )
    if evidence.clock_ahead is not None:
        yield warning(
            "clock",
            "box",
            "the clock is wrong, or was: a file here was written later than now",
            evidence=(f"{evidence.clock_ahead.path}: {evidence.clock_ahead.text}",),
            todo="timedatectl; until it is right, ages in listings and waits for a time of day are wrong; work goes on",
        )
    if evidence.cgroup_kills is not None and not evidence.kernel_kills:
        yield warning(
            "memory-pressure",
            "box",
            "the kernel has killed processes of this control group because memory ran out",
            evidence=(str(evidence.cgroup_kills),),
            todo="journalctl -k | grep -i 'killed process' names them; give the group more memory, or run fewer workers",
        )


def _programs(evidence: BoxEvidence) -> Iterator[DoctorFinding]:
    if evidence.plan_trouble:
        cards = (f"NVML: {evidence.cards_trouble}",) if evidence.cards_trouble else ()
        step = "install the NVIDIA driver (`nvidia-smi` must list the cards), correct [[workers]], or try --simulate 4"
        if evidence.cards_note:
            step = "unset CUDA_VISIBLE_DEVICES or name other cards in it (`nvidia-smi -L`), or correct [[workers]]"
        yield critical("no-plan", "box", f"no worker can be planned: {evidence.plan_trouble}", evidence=cards, todo=step)
    elif evidence.cards_trouble and any(p.gpus for p in evidence.plan) and not evidence.simulated:
        yield critical(
            "no-nvml",
            "box",
            "the cards cannot be read",
            evidence=(f"NVML: {evidence.cards_trouble}",),
            todo="`nvidia-smi` must work for this user: reload the driver (modprobe nvidia) or reboot",
        )
    if not evidence.binary_found:
        yield critical(
            "no-ollama",
            "box",
            f"there is no program {evidence.binary!r} to serve models",
            evidence=(f"ollama.binary = {evidence.binary!r}, not found on the PATH",),
            todo=(
                "install Ollama (https://ollama.com/download), or set [ollama] binary to its path; "
                "a running server is used with ollama_url in [[workers]]"
            ),
        )

    for engine in evidence.engines:
        if engine.workers and not engine.path and engine.name != "ollama":
            yield critical(
                "no-engine",
                "box",
                f"there is no program {engine.program!r} for the engine {engine.name!r} of {', '.join(engine.workers)}",
                evidence=(str(engine),),
                todo=f"install it, set command in [engines.{engine.name}] to its path, or choose another engine",
            )
    for file in evidence.model_files:
        if file.trouble:
            yield critical(
                "model-file",
                file.model,
                f"{file.model} cannot be loaded by {file.engine}: {file.trouble}",
                evidence=(file.file or "no file is configured, and Ollama's store has none that could be used",),
                todo=f'correct file in [models."{file.model}"], fetch the file again, or choose another engine for it',
            )
    for where, how, mend in evidence.open_programs:
        yield warning(
            "program-open",
            where,
            "others could put something else in this program's place, and it would run as you",
            evidence=(how,),
            todo=mend,
        )


def _cards(evidence: BoxEvidence, warn_c: float) -> Iterator[DoctorFinding]:
    for card in evidence.cards:
        if card.unreached:
            continue  # said of its node
        owner = next((name for name, uuids in _owned(evidence, card.node) if card.is_one_of(uuids)), "")
        reading = f"{card.title} {card.uuid} ({card.name})"
        subject = f"{card.node}/gpu-{card.index}" if card.node else f"gpu-{card.index}"
        place = f"on {card.node}: " if card.node else ""
        if card.fault is not None:
            yield critical(
                "card-lost",
                subject,
                f"{card.title} is lost or cannot be read: {card.fault}",
                evidence=(reading, f"driver: {card.fault}"),
                concerns=owner,
                todo=f"{place}dmesg | grep -i xid; nvidia-smi -r or a reboot; the other cards work on meanwhile",
            )
        elif card.temperature_c is not None and card.temperature_c >= warn_c:
            yield warning(
                "card-hot",
                subject,
                f"{card.title} is hot: {card.temperature_c} °C; hot cards slow down",
                evidence=(f"{reading}: {card.temperature_c} °C, warned of from {warn_c:g} °C (gpu.warn_c)",),
                concerns=owner,
                todo=f"{place}check fans, airflow and dust; a lower power limit (nvidia-smi -pl) helps at once",
            )
    for note in evidence.quarantines:
        yield critical(
            "quarantined",
            note.worker,
            f"{note.worker} is in quarantine, tried again in {note.left_s / 60:.0f} min: {note.reason}",
            evidence=(note.path,),
            todo=f"remove the cause, then `swarm workers release {note.worker}`",
        )


def _owned(evidence: BoxEvidence, node: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Cards of the workers of a node: here as planned, elsewhere as registered, since only the relay there knows them."""
    if not node:
        yield from ((plan.name, plan.gpu_uuids) for plan in evidence.plan if not plan.node)
    elif evidence.snapshot is not None:
        rows = (view.row for view in evidence.snapshot.workers if view.row is not None)
        yield from ((row.name, row.gpu_uuids) for row in rows if row.node == node)


def _port(server: ServerEvidence) -> Iterator[DoctorFinding]:
    if server.port is not None and server.port_holder:
        yield critical(
            "port-taken",
            server.name,
            f"port {server.port}, meant for the server of {server.worker}, is taken by {server.port_holder}",
            evidence=(f"listening on 127.0.0.1:{server.port}: {server.port_holder}",),
            concerns=server.worker,
            todo="end that process (a system-wide `ollama serve`: systemctl stop ollama), or set ollama.base_port",
        )
