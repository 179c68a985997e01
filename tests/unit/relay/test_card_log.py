"""Parts of a log: put together they are the log, whatever its writer does meanwhile."""

import os

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.nodes.relay_wire import LOG_BYTES
from swarm.relay.card_log import log_part

LINES = st.lists(st.text(alphabet="ab é", max_size=12), max_size=6)


@given(st.lists(LINES, max_size=6), st.booleans())
def test_parts_add_up_to_whole_lines(tmp_path_factory, batches, torn):
    path = tmp_path_factory.mktemp("log") / "log"
    seen, life, after = "", "", 0
    for lines in [[], *batches]:
        with path.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        if torn:
            with path.open("a") as file:
                file.write("torn")
        part = log_part(path, life, after)
        seen, life, after = seen + part.text, part.life, part.after
        assert seen == "" or seen.endswith("\n")
    whole = path.read_text()
    assert whole.startswith(seen)
    assert "\n" not in whole.removeprefix(seen)


def test_a_long_log_begins_near_its_end_with_a_whole_line(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)))
    part = log_part(path, "", 0)
    assert len(part.text) <= LOG_BYTES
    assert part.text.startswith("line ")
    assert part.text.endswith("line 19999\n")


def test_a_line_longer_than_a_part_comes_in_pieces(tmp_path):
    path = tmp_path / "log"
    path.write_text("first\n")
    part = log_part(path, "", 0)
    with path.open("a") as file:
        file.write("x" * (LOG_BYTES + 10) + "\n")
    second = log_part(path, part.life, part.after)
    third = log_part(path, second.life, second.after)
    assert (len(second.text), third.text) == (LOG_BYTES, "x" * 10 + "\n")


def test_a_log_that_was_cut_or_replaced_is_read_anew(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    part = log_part(path, "", 0)
    os.truncate(path, 0)
    with path.open("a") as file:
        file.write("three\n")
    assert log_part(path, part.life, part.after).text == "three\n"
    path.rename(tmp_path / "log.1")
    assert log_part(path, part.life, part.after).text == "", "there is none at the moment"
    path.write_text("four\n")
    assert log_part(path, part.life, part.after).text == "four\n"
