"""A little bad luck for swarms whose cards are in other machines. The large dose: ``scripts/torture --only nodes``."""

import pytest

from tests.helpers.node_network import ProxyNetwork
from tests.helpers.node_plan import NodePlan
from tests.helpers.node_storm import NodeStorm
from tests.helpers.ray_cluster import has_ray
from tests.helpers.ray_storm_nodes import RayNodes
from tests.helpers.storm_nodes import HandNodes
from tests.helpers.stormplan import storm_config

SMALL = {"every_s": 0.7, "freeze_s": 10.0, "cut_s": 10.0, "drain_s": 1.0, "away_s": 1.0, "rest_s": 1.0}


@pytest.mark.slow
def test_killed_frozen_and_cut_off_relays_lose_nothing_and_leave_nothing():
    plan = NodePlan(events=7, tasks=120, seed=677, nodes=3, slots=2, **SMALL)
    config = storm_config(request_s=0.7, slots=plan.slots)
    storm = NodeStorm(plan, lambda home: HandNodes(home, plan, ProxyNetwork(), config), config, print)
    report = storm.blow()
    assert report.violations == [], (report, storm.home)
    assert report.ledger.completed == 120
    assert {"freeze", "cut", "add"} <= set(report.ledger.shots)
    storm.forget()


@pytest.mark.slow
@pytest.mark.skipif(not has_ray(), reason="Ray is not installed: pip install 'gpu-swarm[ray]'")
def test_killed_actors_and_drivers_of_ray_lose_nothing_and_leave_nothing():
    kinds = ("raylet", "actor", "driver", "relay")
    plan = NodePlan(events=2, tasks=60, seed=4, nodes=2, slots=2, kinds=kinds, long_kinds=(), **SMALL)
    config = storm_config(request_s=0.3, slots=plan.slots)
    storm = NodeStorm(plan, lambda home: RayNodes(home, plan), config, print)
    report = storm.blow()
    assert report.violations == [], (report, storm.home)
    assert report.ledger.completed == 60
    assert set(report.ledger.shots) == {"actor", "driver", "add"}
    storm.forget()
