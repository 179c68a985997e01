"""Prompts that begin alike are found at any shared length, unique ones are left alone, and workers share the groups."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.prefix_groups import MIN_CHARS, MIN_ROWS, next_group, prefix_groups, prompt_head, take_freed

CHARS = 10_000


def words(seed: int, chars: int) -> str:
    return "".join(random.Random(seed).choices("abcdefg hijklmnop", k=chars))


def task(text: str, **fields: object) -> dict[str, object]:
    return {"model": "m", "request": {"messages": [{"role": "user", "content": text}]}, **fields}


def members(documents: list[dict[str, object]]) -> list[list[int]]:
    return [group.members for group in prefix_groups(documents)]


def test_each_header_makes_a_group_in_the_order_of_first_appearance():
    headers = [words(n, 700 * (n + 1)) for n in range(3)]
    order = [2, 0, 1] * 5
    documents = [task(headers[which] + words(100 + at, 50)) for at, which in enumerate(order)]
    assert members(documents) == [[at for at, which in enumerate(order) if which == one] for one in (2, 0, 1)]


def test_unique_and_short_prompts_and_a_few_alike_make_no_group():
    few = [task(words(1, 2000) + words(n, 20)) for n in range(MIN_ROWS - 1)]
    short = [task(words(2, MIN_CHARS - 20) + str(n)) for n in range(9)]
    assert members([*few, *short, *(task(words(10 + n, 3000)) for n in range(9))]) == []


def test_groups_within_a_group_follow_one_another():
    system, other = words(1, 600), words(2, 2600)
    manuals = [words(10 + n, 3000) for n in range(3)]
    texts = [*(system + manuals[n % 3] + str(n) for n in range(12)), *(other + str(n) for n in range(4))]
    alone = [system + words(50, 900), system + words(51, 900)]
    mixed = [texts[0], texts[12], alone[0], *texts[1:12], alone[1], *texts[13:]]
    found = members([task(text) for text in mixed])
    assert [len(one) for one in found] == [4, 2, 4, 4, 4], "what shares only the system prompt stays beside those groups"
    assert mixed[found[-1][0]].startswith(other)


def test_the_key_is_that_of_the_prefix_wherever_it_comes():
    header = words(1, 1500)
    one, other = ([task(header + words(n, 40)) for n in range(first, first + 20)] for first in (10, 90))
    assert prefix_groups(one)[0].key == prefix_groups([*(task(words(200 + n, 900)) for n in range(9)), *other])[0].key


def test_only_what_comes_before_an_image_is_compared():
    picture = [{"path": "/p.png", "sha256": "0" * 64}]
    asked = [{"role": "system", "content": "s" * 600}, {"role": "user", "content": "u" * 600}]
    document = {"model": "m", "images": picture, "request": {"messages": asked}}
    assert "s" in prompt_head(document, CHARS)
    assert "u" not in prompt_head(document, CHARS)
    inline = {"model": "m", "request": {"messages": [asked[0], {**asked[1], "images": ["aGk="]}]}}
    assert "u" not in prompt_head(inline, CHARS)
    plain = {"model": "m", "images": picture, "request": {"system": "s" * 600, "prompt": "p" * 600}}
    assert "p" not in prompt_head(plain, CHARS).replace("prompt", "")


def test_tasks_with_an_order_of_their_own_and_embeddings_are_left_out():
    text = words(1, 2000)
    for fields in ({"session": "s"}, {"depends_on": ["a"]}, {"not_before": "2030-01-01"}, {"endpoint": "/api/embed"}):
        assert members([task(text + str(n), **fields) for n in range(9)]) == []


def test_models_tools_and_system_prompts_tell_groups_apart():
    text = words(1, 900)
    plain = {"model": "m", "request": {"system": "a", "prompt": text}}
    others = ({**plain, "model": "n"}, {**plain, "request": {**plain["request"], "system": "b"}}, task(text))
    assert len(prefix_groups([one for one in (plain, *others) for _ in range(5)])) == 4


def test_odd_requests_are_no_trouble():
    odd = (None, [], {}, {"messages": [1]}, {"messages": [{"content": [1]}]}, {"messages": []}, {"prompt": 3})
    assert members([{"request": one} for one in odd for _ in range(9)]) == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 9)), max_size=60))
def test_nothing_is_in_two_groups_and_one_worker_changes_prefix_as_seldom_as_can_be(rows):
    headers, middles = [words(n, 800) for n in range(5)], [words(20 + n, 1500) for n in range(4)]
    documents = [task(headers[a] + middles[b] + words(100 + c, 30)) for a, b, c in rows]
    found = members(documents)
    flat = [at for one in found for at in one]
    assert len(flat) == len(set(flat))
    assert all(one == sorted(one) for one in found)
    often = {header for header, number in Counter(a for a, _, _ in rows).items() if number >= MIN_ROWS}
    assert {rows[at][0] for at in flat} == often
    runs = [header for i, header in enumerate(rows[at][0] for at in flat) if i == 0 or rows[flat[i - 1]][0] != header]
    assert len(runs) == len(often), "each header is one stretch"


def test_a_worker_stays_in_its_group_then_takes_a_fresh_one_then_helps_where_most_is_left():
    waiting = {"a": 10, "b": 90, "c": 5}
    assert next_group(waiting, "c", lambda: {"c": 7}) == "c"
    assert next_group(waiting, "gone", lambda: {"a": 1}) == "b"
    assert next_group(waiting, "gone", lambda: {"a": 1, "b": 1, "c": 1}) == "b"
    assert next_group(waiting, "gone", lambda: {"a": 1, "b": 20, "c": 1}) == "a"


def test_the_last_freed_slot_whose_group_waits_goes_on_with_it():
    freed = ["a", "b", "a", "gone"]
    assert take_freed(freed, {"a": 1, "b": 1}) == "a"
    assert freed == ["a", "b", "gone"]
    assert take_freed(freed, {"c": 1}) == ""
    assert freed == ["a", "b"], "that slot holds another prompt from now on"
    assert take_freed([], {"c": 1}) == ""
