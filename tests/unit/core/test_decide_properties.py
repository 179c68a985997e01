"""Whatever the swarm looks like: same answer twice, no load that should not be, nothing new once all is applied."""

from __future__ import annotations

import string

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swarm.config.settings import Settings
from swarm.core.health.liveness import condition
from swarm.core.placement.demand import is_load_id, load_document, load_id, outstanding, resource_task
from swarm.core.policy.decide import decide
from swarm.core.policy.decisions import LoadModel, Warn
from swarm.core.snapshot import BlockedView, DropIn, LiveView, ResourceTask
from swarm.core.task import ID_RE, Task, canonical_model
from swarm.core.worker import LivePlaces, ModelTally, WorkerStatus
from tests.support.builders import a_claim, a_snapshot, a_worker, llm_waiting, load_claimed, load_waiting, resource_waiting
from tests.support.decision_model import after

S = Settings()
MODELS = ["a:1", "b:1", "c:1", "d:1"]
seconds = st.sampled_from([0.0, 1.0, 20.0, 50.0, 100.0, 700.0])
models = st.sampled_from(MODELS)
tallies = st.builds(
    ModelTally,
    completed=st.integers(0, 50),
    busy_s=st.floats(0, 500),
    loads=st.integers(0, 3),
    load_s=st.floats(0, 60),
    load_failures=st.sampled_from([0, 0, 0, 1, 5]),
)


@st.composite
def workers(draw, name, *, healthy):
    status = WorkerStatus.IDLE if healthy else draw(st.sampled_from(list(WorkerStatus)))
    return a_worker(
        name,
        holding=draw(st.none() | models),
        status=status,
        alive=healthy or draw(st.booleans()),
        beating=healthy or draw(st.booleans()),
        with_server=draw(st.sampled_from([True, True, True, False])),
        slots=draw(st.integers(1, 4)),
        epoch=draw(st.integers(1, 3)),
        resource_seq=draw(st.integers(0, 3)),
        quiet_s=0.0 if healthy else draw(seconds),
        turn_quiet_s=0.0 if healthy else draw(seconds),
        held_s=draw(seconds),
        learned=draw(st.dictionaries(models, tallies, max_size=3)),
        load_failed_s=draw(st.dictionaries(models, seconds, max_size=3)),
        live=draw(st.none() | st.builds(LivePlaces, limit=st.integers(0, 2), in_flight=st.integers(0, 2))),
    )


@st.composite
def live_views(draw):
    """What clients wait for: of half of the swarms nothing."""
    wanted = draw(st.just([]) | st.lists(models, unique=True, max_size=3))
    waiting = {model: draw(st.integers(0, 3)) for model in wanted}
    return [
        LiveView(
            model=model,
            waiting=number,
            in_flight=draw(st.integers(0, 2)),
            oldest_s=draw(seconds) if number else 0.0,
            idle_s=draw(seconds),
            wanted_s=draw(seconds),
        )
        for model, number in waiting.items()
    ]


@st.composite
def snapshots(draw, *, healthy=False):
    names = [f"worker-{n}" for n in range(1, draw(st.integers(0, 6)) + 1)]
    views, lanes, claims = [], [], []
    for name in names:
        view = draw(workers(name, healthy=healthy))
        held = [a_claim(f"t-{name}-{n}", worker=name, model=draw(models)) for n in range(draw(st.integers(0, 3)))]
        match draw(st.sampled_from(["", "", "", "ours", "claimed", "theirs"])):
            case "ours":
                lanes.append(load_waiting(name, draw(models), live=draw(st.booleans())))
            case "theirs":
                lanes.append(resource_waiting(name, f"mine-{name}"))
            case "claimed" if view.alive:
                held.append(load_claimed(name, draw(models), resource_seq=9))
        claims += held
        views.append(type(view)(**{f: getattr(view, f) for f in view.__struct_fields__} | {"claims": len(held)}))
    counts = {model: draw(st.sampled_from([0, 0, 1, 3, 20, 400])) for model in MODELS}
    lanes += [llm_waiting(count, model, unserved_s=draw(seconds)) for model, count in counts.items() if count]
    return a_snapshot(
        workers=draw(st.permutations(views)),
        lanes=lanes,
        claims=claims,
        blocked=draw(st.lists(st.builds(BlockedView, task_id=st.just("b1"), attempt=st.just(1)), max_size=1)),
        drop_ins=draw(st.lists(st.builds(DropIn, file_name=st.just("d.json"), quiet_s=seconds), max_size=1)),
        grace=not healthy and draw(st.booleans()),
        live=draw(live_views()),
    )


calm = settings(max_examples=200)


def acts(snapshot):
    return tuple(d for d in decide(snapshot, S) if not isinstance(d, Warn))


@calm
@given(snapshots())
def test_the_same_picture_gives_the_same_answer(snapshot):
    assert decide(snapshot, S) == decide(snapshot, S)
    flipped = a_snapshot(
        **{f: getattr(snapshot, f) for f in ("lanes", "claims", "blocked", "drop_ins", "grace")},
        workers=reversed(snapshot.workers),
        live=reversed(snapshot.live),
    )
    assert decide(flipped, S) == decide(snapshot, S), "the order of a listing is no reason"


@calm
@given(snapshots())
def test_loads_go_one_to_a_worker_that_can_serve_and_has_none_outstanding(snapshot):
    loads = [d for d in decide(snapshot, S) if isinstance(d, LoadModel)]
    assert len({d.worker for d in loads}) == len(loads)
    for load in loads:
        view = snapshot.worker(load.worker)
        assert view.alive
        assert condition(view, snapshot, S).state == "ready"
        assert view.heartbeat.model != load.model
        assert {t.task.task_id for t in outstanding(snapshot).get(load.worker, ())} == {load.instead_of} - {None}
        waited_for = [*snapshot.lanes, *snapshot.claims, *(view for view in snapshot.live if view.waiting)]
        assert any(one.model == load.model for one in waited_for)
        assert ID_RE.match(load.task_id)


@calm
@given(snapshots(healthy=True))
def test_once_applied_nothing_new_is_decided(snapshot):
    quiet = msgspec.structs.replace(snapshot, live=())
    assert acts(after(quiet, acts(quiet))) == ()


@calm
@given(snapshots(healthy=True))
def test_with_clients_it_settles_within_a_few_turns(snapshot):
    """A card that a starved batch takes from clients may have them take another one."""
    for _ in range(3):
        snapshot = after(snapshot, acts(snapshot))
    assert acts(snapshot) == ()


@calm
@given(snapshots())
def test_deaths_and_kills_settle_within_a_few_turns(snapshot):
    for _ in range(4):
        todo = acts(snapshot)
        snapshot = after(snapshot, todo)
    assert acts(snapshot) == ()


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")
any_model = st.text(string.ascii_lowercase + string.digits + "._:/-", min_size=1, max_size=150).map(lambda t: "m" + t)


@example("w" * 32, "m" * 150, 10**9 - 1, 10**9 - 1, True)
@given(names, any_model, st.integers(0, 10**9), st.integers(0, 10**9), st.booleans())
def test_a_load_id_is_legal_and_its_document_tells_what_it_is_for(worker, model, epoch, resource_seq, live):
    task_id = load_id(worker, model, epoch=epoch, resource_seq=resource_seq, live=live)
    assert ID_RE.match(task_id)
    assert is_load_id(task_id)
    assert is_load_id(f"{task_id}-2")
    document = {"task_id": task_id, **load_document(worker, model, epoch, live=live)}
    assert resource_task(msgspec.convert(document, Task)) == ResourceTask(
        task_id=task_id, worker=worker, model=canonical_model(model), epoch=epoch, live=live
    )
