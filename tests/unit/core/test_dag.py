"""Who waits for whom: every circle is found and is a true one; names are told apart."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from swarm.core.workflow.dag import Node, circles, resolve

GRAPHS = st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(st.integers(0, n - 1), max_size=4), min_size=n, max_size=n))


def runnable(edges):
    """By running whatever waits for nothing any more: whether all of it can run."""
    done = set()
    while len(done) < len(edges):
        ready = {i for i, targets in enumerate(edges) if i not in done and done.issuperset(targets)}
        if not ready:
            return False
        done |= ready
    return True


@given(GRAPHS)
def test_a_circle_is_told_exactly_if_something_could_never_run(edges):
    found = list(circles(edges))
    assert bool(found) != runnable(edges)
    for circle in found:
        assert all(there in edges[here] for here, there in zip(circle, [*circle[1:], circle[0]], strict=True))
        assert len(set(circle)) == len(circle)


def nodes(*specs):
    return [Node(line_no=i + 1, names=names, wants=wants, session=s) for i, (names, wants, s) in enumerate(specs)]


@given(GRAPHS, st.lists(st.sampled_from([None, None, "s"]), min_size=12, max_size=12))
def test_refusals_are_right_for_any_batch(edges, sessions):
    items = [
        Node(line_no=i + 1, names=(f"n{i}",), wants=tuple(f"n{t}" for t in targets), session=sessions[i])
        for i, targets in enumerate(edges)
    ]
    findings, used = resolve(items, lambda _: False)
    whole = [list(targets) for targets in edges]
    in_session = [i for i in range(len(edges)) if sessions[i]]
    for before, after in pairwise(in_session):
        whole[after].append(before)
    assert bool(findings) != runnable(whole)
    assert all(used[name] == int(name[1:]) for name in used)
    for finding in findings:
        assert f"n{finding.line_no - 1}" in finding.message, "the path begins with the line that is named"


def test_unknown_self_and_ambiguous_names_are_told_with_their_lines():
    items = nodes((("a",), ("a",), None), (("x",), ("nowhere", "t-1"), None), (("x",), (), None), ((), ("x",), None))
    findings, _ = resolve(items, lambda name: name == "t-1")
    assert [(f.line_no, f.message.split(" ")[0]) for f in findings] == [(1, "'a'"), (2, "'nowhere'"), (4, "'x'")]
    assert "a -> a" in findings[0].message
    assert "lines 2, 3" in findings[2].message


def test_a_circle_through_a_session_says_so():
    items = nodes((("x",), ("y",), "s"), (("y",), (), "s"))
    (finding,), _ = resolve(items, lambda _: False)
    assert finding.message.startswith("they wait for one another: x -> y -> x (earlier in session s)")


def test_a_chain_of_a_hundred_thousand_needs_no_deep_stack():
    items = [Node(line_no=i + 1, names=(f"n{i}",), wants=(f"n{i + 1}",) if i < 99_999 else ()) for i in range(100_000)]
    findings, used = resolve(items, lambda _: False)
    assert not findings
    assert len(used) == 99_999
