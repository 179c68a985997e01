"""One swarm per card, until it has asked nothing for a while."""

from swarm.core.nodes.relay_wire import HOLD_S
from swarm.relay.card_holders import CardHolder


def test_the_first_one_holds_it_and_is_named():
    card = CardHolder()
    assert card.refusal("a here:/queue", 0.0) == ""
    assert "here:/queue" in card.refusal("b there:/queue", HOLD_S - 1)
    assert card.refusal("a moved:/queue", HOLD_S - 1) == "", "the id counts, not where it lies"
    assert card.refusal("b there:/queue", HOLD_S + 1) != "", "it has asked meanwhile"
    assert card.refusal("b there:/queue", 2 * HOLD_S) == ""
    assert "there:/queue" in card.refusal("a moved:/queue", 2 * HOLD_S)


def test_a_long_request_holds_it_to_its_end():
    card, now_s = CardHolder(), 0.0
    card.refusal("a", now_s)
    with card.asking(lambda: now_s):
        now_s = 1000.0
        assert card.refusal("b", now_s) != ""
    assert card.refusal("b", now_s + HOLD_S - 1) != ""
    assert card.refusal("b", now_s + HOLD_S) == ""
