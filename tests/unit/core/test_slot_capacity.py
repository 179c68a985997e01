import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.core.models.model_server import ModelDetails
from swarm.core.policy.slot_capacity import (
    LADDER,
    LoadFacts,
    SlotRecord,
    after_no_memory,
    capacity_for,
    default_context,
    failed_for,
    forced_to_one,
    length_class,
    record_of,
    reload_gain_s,
    reload_pays,
)

LLAMA_8B = LoadFacts(memory_mib=24_000, weights_mib=4_900, kv_bytes_per_token=131_072, context=8192)
"""One slot of 8,192 tokens takes a GiB."""


@pytest.mark.parametrize(
    ("changed", "slots", "why"),
    [
        ({}, 16, "there is memory"),
        ({"memory_mib": 12_000}, 4, "8192 tokens do not fit"),
        ({"memory_mib": 5_000}, 1, "do not fit"),
        ({"memory_mib": None}, 4, "not known"),
        ({"memory_mib": 0}, 1, "CPU"),
        ({"memory_mib": 0, "remembered": 2}, 2, "CPU"),
        ({"memory_mib": 0, "pooled": True}, 4, "CPU"),
        ({"memory_mib": 0, "pooled": True, "most": 2}, 2, "slots_max"),
        ({"memory_mib": 0, "pooled": True, "host_mib": 64_000}, 16, "CPU"),
        ({"memory_mib": 0, "pooled": True, "host_mib": 24_000}, 8, "CPU"),
        ({"memory_mib": 0, "pooled": True, "host_mib": 24_000, "wanted": 32}, 8, "CPU"),
        ({"memory_mib": 0, "host_mib": 24_000, "remembered": 16}, 8, "CPU"),
        ({"memory_mib": 0, "pooled": True, "host_mib": 6_000}, 1, "CPU"),
        ({"memory_mib": 0, "host_mib": 64_000}, 1, "CPU"),
        ({"kv_bytes_per_token": 0}, 4, "not known"),
        ({"context": 0}, 4, "not known"),
        ({"most": 8}, 8, "slots_max = 8"),
        ({"remembered": 4}, 4, "remembered"),
        ({"remembered": 10}, 12, "remembered"),
        ({"remembered": 64}, 16, "do not fit"),
        ({"wanted": 32, "memory_mib": 80_000}, 32, "climbing"),
        ({"failed": 16}, 12, "16 found no memory"),
        ({"failed": 2}, 1, "2 found no memory"),
        ({"memory_mib": None, "failed": 3}, 2, "3 found no memory"),
        ({"running": 4, "waiting": 63}, 4, "does not pay"),
        ({"running": 4, "waiting": 64}, 16, "there is memory"),
        ({"running": 4, "wanted": 8}, 8, "climbing"),
        ({"running": 32, "waiting": 0}, 16, "there is memory"),
    ],
)
def test_a_model_is_loaded_for_as_many_as_memory_and_memories_allow(changed, slots, why):
    facts = LoadFacts(**{name: getattr(LLAMA_8B, name) for name in LLAMA_8B.__struct_fields__} | changed)
    chosen = capacity_for(facts)
    assert chosen.slots == slots
    assert why in chosen.why


numbers = st.integers(0, 200_000)


@given(
    st.builds(
        LoadFacts,
        memory_mib=st.none() | numbers,
        weights_mib=numbers,
        kv_bytes_per_token=st.integers(0, 1 << 22),
        context=st.integers(0, 1 << 18),
        most=st.integers(1, 512),
        failed=st.integers(0, 300),
        remembered=st.integers(0, 300),
        wanted=st.integers(0, 600),
        running=st.integers(0, 100),
        waiting=st.integers(0, 10_000),
    )
)
def test_never_the_same_out_of_memory_twice_and_never_above_the_setting(facts):
    slots = capacity_for(facts).slots
    assert 1 <= slots <= facts.most
    assert slots < facts.failed or facts.failed <= 1


@pytest.mark.parametrize(
    ("engine", "details", "embedding", "words"),
    [
        ("ollama", ModelDetails(name="m", architecture="qwen3next"), False, "family qwen3next"),
        ("ollama", ModelDetails(name="m", architecture="x", families=("llama", "mllama")), False, "family mllama"),
        ("ollama", ModelDetails(name="m", architecture="bert"), True, "embedding"),
        ("ollama", ModelDetails(name="m", architecture="llama"), False, ""),
        ("llama-server", ModelDetails(name="m", architecture="qwen3next"), True, ""),
    ],
)
def test_what_ollama_forces_to_one_slot_is_known(engine, details, embedding, words):
    assert (words in forced_to_one(engine, details, embedding=embedding)) and bool(words) == bool(
        forced_to_one(engine, details, embedding=embedding)
    )


def test_after_a_load_without_memory_half_is_tried_and_less_than_one_never():
    tried = [16]
    while tried[-1]:
        tried.append(after_no_memory(tried[-1]))
    assert tried == [16, 8, 4, 2, 1, 0]
    assert all(one in LADDER for one in tried if one)


@pytest.mark.parametrize(("slots", "loaded", "then"), [(3, 2, 2), (32, 16, 16), (16, 16, 8), (8, 24, 4), (2, 1, 1)])
def test_a_climb_that_found_no_memory_goes_back_to_what_it_was_loaded_for(slots, loaded, then):
    assert after_no_memory(slots, loaded) == then


def test_the_context_that_ollama_takes_by_itself():
    assert [default_context(mib) for mib in (None, 8_000, 24_576, 81_920)] == [0, 4096, 32_768, 262_144]


def test_a_reload_pays_for_much_work_and_not_for_little():
    saved_s = reload_gain_s(waiting=10_000, tokens=300, tokens_per_s=600, gain=1.7, capacity=8)
    assert 1000 < saved_s < 5000 * (1 - 1 / 1.7)
    assert reload_pays(saved_s, load_s=20, request_s=10)
    assert not reload_pays(
        reload_gain_s(waiting=100, tokens=300, tokens_per_s=600, gain=1.7, capacity=8), load_s=20, request_s=10
    )
    assert reload_gain_s(waiting=16, tokens=300, tokens_per_s=1, gain=1.7, capacity=8) == 0
    assert reload_gain_s(waiting=10_000, tokens=300, tokens_per_s=600, gain=1.0, capacity=8) == 0
    assert reload_gain_s(waiting=10_000, tokens=300, tokens_per_s=0, gain=2.0, capacity=8) == 0


def test_a_length_near_a_border_keeps_its_class():
    assert [length_class(tokens) for tokens in (100, 600, 5000)] == ["short", "medium", "long"]
    assert [length_class(600, before) for before in ("short", "medium", "long")] == ["short", "medium", "medium"]
    assert [length_class(700, before) for before in ("short", "medium")] == ["medium", "medium"]
    assert length_class(4000, "long") == "long"


RECORD = SlotRecord(
    card="GPU-1", engine="ollama", model="m", digest="abc", length="short", in_flight=8, failed=32, failed_context=4096
)


def test_a_record_holds_for_its_card_engine_digest_and_length_only():
    def wanted(**changed):
        return SlotRecord(
            **{"card": "GPU-1", "engine": "ollama", "model": "m", "digest": "abc", "length": "short"} | changed
        )

    assert record_of([RECORD], wanted()) == RECORD
    assert record_of([RECORD], wanted(digest="")) == RECORD
    for other in ({"card": "GPU-2"}, {"engine": "llama-server"}, {"digest": "other"}, {"length": "long"}, {"model": "n"}):
        assert record_of([RECORD], wanted(**other)) is None
    assert failed_for([RECORD], wanted(length="long"), 4096) == 32
    assert failed_for([RECORD], wanted(), 0) == 32
    assert failed_for([RECORD], wanted(), 8192) == 32
    assert failed_for([RECORD], wanted(), 2048) == 0
    assert failed_for([RECORD], wanted(card="GPU-2"), 4096) == 0
