"""What commands show of cards in other machines; a swarm on one machine shows no nodes at all."""

from __future__ import annotations

import json

import msgspec
import pytest

from swarm.cli.render import table_lines, to_plain
from swarm.config.settings import Settings
from swarm.core.gpu_reading import GpuReading
from swarm.views import documents
from swarm.views.model_rows import ModelRow, OnDisk, model_rows, models_table
from swarm.views.overview import status, status_blocks
from swarm.views.task_rows import active_table
from swarm.views.worker_rows import cards_table, workers_table
from tests.helpers.cli_world import MODEL, Counts, card, far_worker, healthy, swarm, two_nodes

SETTINGS = Settings()


def tables(snapshot):
    """The text of each table, by what it shows."""
    view = status(snapshot, Counts(), SETTINGS, brain=True)
    disk = {MODEL: OnDisk(size_mib=2048, workers=("worker-1",), nodes=tuple(sorted({w.node for w in view.workers})))}
    return {
        "status": to_plain(status_blocks(view)),
        "gpus": to_plain([cards_table(view.cards)]),
        "workers": to_plain([workers_table(view.workers)]),
        "active": to_plain([active_table(view.active)]),
        "models": to_plain([models_table(model_rows(snapshot, disk))]),
    }


def test_one_machine_shows_no_nodes_and_two_do_in_every_table():
    assert not [name for name, text in tables(healthy()).items() if "NODE" in text]
    shown = tables(two_nodes())
    assert not [name for name, text in shown.items() if "NODE" not in text]
    assert [line.split()[:3] for line in shown["gpus"].splitlines()[1:]] == [
        ["local", "0", "NVIDIA"],
        ["local", "1", "NVIDIA"],
        ["box2", "0", "NVIDIA"],
        ["box2", "1", "NVIDIA"],
    ]
    assert ["box2-gpu1", "box2", "e6ef27e8"] in [line.split()[:3] for line in shown["active"].splitlines()]


def test_a_card_belongs_to_the_worker_of_its_own_machine():
    """Drivers without UUIDs call cards by their index, which other machines have as well."""
    here = far_worker("worker-1", 0, node="")
    here = msgspec.structs.replace(here, row=msgspec.structs.replace(here.row, gpu_uuids=("0",)))
    cards = (card(0, uuid="0"), card(0, uuid="box2/0", node="box2"))
    rows = documents.card_list(swarm(here, far_worker("box2-gpu0", 0), gpus=cards)).gpus
    assert [(row.node, row.worker) for row in rows] == [("", "worker-1"), ("box2", "box2-gpu0")]
    assert not cards[1].is_one_of(("0",))
    assert cards[0].is_one_of(("0",))


def test_documents_always_name_the_node():
    for snapshot, nodes in ((healthy(), {""}), (two_nodes(), {"", "box2"})):
        for document, rows in (
            (documents.card_list(snapshot), "gpus"),
            (documents.worker_list(snapshot, SETTINGS), "workers"),
            (documents.active_list(snapshot, SETTINGS), "tasks"),
        ):
            found = json.loads(msgspec.json.encode(document))[rows]
            assert {row["node"] for row in found} == nodes, rows
    versions = {row.name: row.server_version for row in documents.worker_list(two_nodes(), SETTINGS).workers}
    assert versions["box2-gpu0"] == "0.12.3"


def test_a_hot_card_of_another_machine_is_named_with_it():
    hot = card(1, uuid="box2/1", node="box2", temperature_c=97)
    lost = GpuReading(index=0, uuid="box2/0", name="x", node="box2", fault="GPU is lost")
    view = status(swarm(far_worker("box2-gpu1", 1), gpus=(hot, lost)), Counts(), SETTINGS, brain=True)
    assert {alarm.text: alarm.next.partition(":")[0] for alarm in view.alarms if "GPU" in alarm.text} == {
        "GPU 1 of box2 is hot: 97 °C": "check fans and air; swarm gpus",
        "GPU 0 of box2 cannot be read: GPU is lost": "on box2",
    }


@pytest.mark.parametrize(("on", "shown"), [(("", "box2"), "all"), (("box2",), "box2"), (("",), "local"), ((), "-")])
def test_the_table_of_models_says_which_machines_have_them(on, shown):
    rows = [_model("a:1", on), _model("z:1", ("", "box2"))]
    line = to_plain([models_table(rows)]).splitlines()[1]
    assert line.split()[2] == shown


def test_a_machine_that_has_no_model_at_all_is_one_that_lacks_this_one():
    (row,) = (_model("a:1", ("",)),)
    assert "ON NODES" not in to_plain([models_table([row])])
    assert to_plain([models_table([row], {"", "box2"})]).splitlines()[1].split()[2] == "local"


def _model(name: str, on: tuple[str, ...]) -> ModelRow:
    (row,) = model_rows(swarm(), {name: OnDisk(size_mib=1024, workers=("w",), nodes=on)})
    return row


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_name_of_a_node_leaves_room_for_the_numbers(width):
    node = "render-farm-rack-7-machine-12.example.org"
    workers = [far_worker(f"{node}-gpu{n}", n, node=node) for n in range(2)]
    cards = tuple(card(n, uuid=f"{node}/{n}", node=node) for n in range(2))
    lines = [line.plain for line in table_lines(cards_table(documents.card_list(swarm(*workers, gpus=cards)).gpus), width)]
    assert all(len(line) <= width for line in lines)
    assert ["gpu0" in lines[1], "gpu1" in lines[2], "3.3/24.0G" in lines[1], "211W" in lines[1]] == [True] * 4
