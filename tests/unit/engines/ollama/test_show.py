import pytest

from swarm.engines.ollama.replies import model_details


def shown(**info):
    return {
        "details": {"family": "llama", "families": ["llama", "clip", 7]},
        "model_info": {"general.architecture": "llama"} | info,
    }


@pytest.mark.parametrize(
    ("info", "kv_bytes"),
    [
        (
            {
                "llama.block_count": 32,
                "llama.attention.head_count": 32,
                "llama.attention.head_count_kv": 8,
                "llama.attention.key_length": 128,
                "llama.attention.value_length": 128,
                "llama.embedding_length": 4096,
            },
            131_072,
        ),
        (
            {
                "llama.block_count": 32,
                "llama.attention.head_count": 32,
                "llama.attention.head_count_kv": 8,
                "llama.embedding_length": 4096,
            },
            131_072,
        ),
        ({"llama.block_count": 32, "llama.attention.head_count": 32, "llama.embedding_length": 4096}, 524_288),
        ({"llama.block_count": 2, "llama.attention.head_count_kv": [4, 0], "llama.attention.key_length": 64}, 1024),
        ({"llama.block_count": 32, "llama.attention.head_count_kv": [4], "llama.attention.key_length": 64}, 0),
        ({"llama.block_count": 28, "llama.embedding_length": 3072}, 0),
        ({"llama.block_count": -1, "llama.attention.head_count": "many", "llama.attention.head_count_kv": True}, 0),
        ({"llama.block_count": 1 << 60, "llama.attention.head_count": 0}, 0),
        ({}, 0),
    ],
)
def test_what_a_token_of_context_costs_is_told_from_the_model_s_own_numbers(info, kv_bytes):
    assert model_details("m", shown(**info)).kv_bytes_per_token == kv_bytes


def test_the_families_of_a_model_are_words():
    assert model_details("m", shown()).families == ("llama", "clip")
    assert model_details("m", {"details": {"family": None}}).families == ()
