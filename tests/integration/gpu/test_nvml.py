"""The real binding against a compiled stand-in for NVIDIA's library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.fake_nvml import FakeDriver, ReaderProcess, build, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler: the NVML binding is not tested")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return FakeDriver(tmp_path / "state")


@pytest.fixture
def open_reader(driver: FakeDriver) -> Iterator[Callable[[Path], ReaderProcess]]:
    readers: list[ReaderProcess] = []

    def open_(library_dir: Path) -> ReaderProcess:
        readers.append(ReaderProcess(library_dir, driver.path))
        return readers[-1]

    yield open_
    for reader in readers:
        reader.close()


def test_four_cards_with_all_their_readings(library, open_reader):
    cards, unavailable = open_reader(library).read()
    assert unavailable is None
    assert [c["uuid"] for c in cards] == [f"GPU-{i:08d}" for i in range(4)]
    assert cards[2] == {
        "index": 2,
        "uuid": "GPU-00000002",
        "name": "TestCard",
        "memory_total_mib": 24576,
        "memory_used_mib": 1002,
        "utilisation_pct": 50,
        "temperature_c": 42,
        "power_w": 100.002,
        "processes": [{"pid": 4002, "used_mib": 900}],
    }


def test_a_card_lost_in_mid_run_is_a_value_and_comes_back(library, open_reader, driver):
    reader = open_reader(library)
    reader.read()
    driver.lost = {1}
    driver.write()
    cards, unavailable = reader.read()
    assert unavailable is None
    assert cards[1] == {
        "index": 1,
        "uuid": "GPU-00000001",
        "name": "TestCard",
        "memory_total_mib": 24576,
        "fault": "GPU is lost",
    }
    assert [c["memory_used_mib"] for c in cards if "fault" not in c] == [1000, 1002, 1003]
    driver.lost = set()
    driver.write()
    assert all("fault" not in c for c in reader.read()[0])


def test_a_card_lost_before_the_first_look_is_still_counted(library, open_reader, driver):
    driver.lost = {0}
    driver.write()
    cards, _ = open_reader(library).read()
    assert len(cards) == 4
    assert cards[0]["fault"] == "GPU is lost"


def test_a_driver_that_goes_away_faults_the_known_cards_and_recovers(library, open_reader, driver):
    reader = open_reader(library)
    reader.read()
    driver.init = 9
    driver.write()
    cards, unavailable = reader.read()
    assert unavailable == "Driver Not Loaded"
    assert [c["fault"] for c in cards] == ["Driver Not Loaded"] * 4
    driver.init = 0
    driver.write()
    cards, unavailable = reader.read()
    assert unavailable is None
    assert all("fault" not in c for c in cards)


def test_driver_not_loaded_is_a_normal_case(library, open_reader, driver):
    driver.init = 9
    driver.write()
    assert open_reader(library).read() == ([], "Driver Not Loaded")


def test_no_library_is_a_normal_case(open_reader, tmp_path):
    cards, unavailable = open_reader(tmp_path).read()
    if cards:
        pytest.skip("this machine has a real NVIDIA driver")
    assert cards == []
    assert unavailable


def test_a_missing_function_is_a_missing_reading(open_reader, tmp_path):
    cards, _ = open_reader(build(tmp_path / "without", "WITHOUT_POWER")).read()
    assert len(cards) == 4
    assert all("power_w" not in c and "fault" not in c and c["temperature_c"] == 40 + c["index"] for c in cards)


def test_an_unsupported_reading_is_missing_not_zero(library, open_reader, driver):
    driver.load = -1
    driver.write()
    cards, _ = open_reader(library).read()
    assert all("utilisation_pct" not in c and "fault" not in c for c in cards)


@pytest.mark.gpu
def test_a_real_card_answers():
    from swarm.gpu.nvml import NvmlReader

    reader = NvmlReader()
    cards = reader.read()
    if not cards:
        pytest.skip(f"no NVIDIA card here: {reader.unavailable}")
    assert all(c.uuid.startswith("GPU-") and c.memory_total_mib for c in cards)
    reader.close()
