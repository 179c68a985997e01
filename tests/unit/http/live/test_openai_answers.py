"""Pieces in Ollama's form become what OpenAI's own types read, streamed and whole alike."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from swarm.core.live.routing import LiveWorker
from swarm.formats.tasks.openai_batch import CHAT, COMPLETIONS, EMBEDDINGS
from swarm.http.live.live_ask import LiveAsk
from swarm.http.live.openai_answers import ChunkWriter, whole_answer
from swarm.http.live.worker_sockets import Piece

WORKER = LiveWorker(name="w1", digest="sha256:0123456789abcdef")
TEXTS = st.text(max_size=20)
CALLS = st.lists(
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": st.just({"a": 1})})}),
    max_size=2,
)
LOGPROBS = st.lists(
    st.fixed_dictionaries({"token": st.text(min_size=1, max_size=4), "logprob": st.floats(-9, 0)}), min_size=1, max_size=2
)
CHAT_PIECES = st.lists(
    st.fixed_dictionaries(
        {"message": st.fixed_dictionaries({"content": TEXTS}, optional={"thinking": TEXTS, "tool_calls": CALLS})},
        optional={"logprobs": LOGPROBS},
    ),
    max_size=6,
)
TEXT_PIECES = st.lists(st.fixed_dictionaries({"response": TEXTS}, optional={"logprobs": LOGPROBS}), max_size=6)
LASTS = st.fixed_dictionaries(
    {"done": st.just(True), "done_reason": st.sampled_from(["stop", "length"]), "prompt_eval_count": st.integers(0, 99)},
    optional={"eval_count": st.integers(0, 99), "prompt_cached_count": st.integers(0, 9), "simulated": st.just(True)},
)


def ask(endpoint="/api/chat", **notes):
    return LiveAsk(id="abc", client="me", endpoint=endpoint, request={}, model="llama3.2:3b", notes=notes)


def pieces(documents):
    return [Piece(msgspec.json.encode(one), one) for one in documents]


def streamed(url, asked, documents, kind, *, usage=True):
    """The chunks as OpenAI's own types, each written alone."""
    writer = ChunkWriter(url, asked, WORKER, usage=usage)
    events = b"".join(writer.events([one]) for one in pieces(documents)).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    documents = [msgspec.json.decode(one.removeprefix("data: ")) for one in events[:-2]]
    if kind is Completion:  # its type wants a reason in each event, where OpenAI itself sends null; the SDK passes over that
        assert all(one["choices"][0]["finish_reason"] is None for one in documents[:-2])
        return [construct_type(type_=kind, value=one) for one in documents]
    return [kind.model_validate(one) for one in documents]


@given(CHAT_PIECES, LASTS)
def test_a_streamed_chat_is_the_whole_one_in_parts(said, last):
    documents = [*said, {**last, "message": {"role": "assistant", "content": ""}}]
    chunks = streamed(CHAT, ask(), documents, ChatCompletionChunk)
    whole = ChatCompletion.model_validate(whole_answer(CHAT, ask(), pieces(documents), WORKER))
    assert {(one.id, one.model, one.object) for one in chunks} == {("chatcmpl-abc", "llama3.2:3b", "chat.completion.chunk")}
    assert {one.system_fingerprint for one in chunks} == {whole.system_fingerprint} == {"fp_0123456789ab"}
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [one.choices[0] for one in chunks if one.choices]
    message = whole.choices[0].message
    assert "".join(one.delta.content or "" for one in deltas) == (message.content or "")
    assert [one.finish_reason for one in deltas if one.finish_reason] == [whole.choices[0].finish_reason]
    assert deltas[-1].finish_reason
    calls = [call for one in deltas for call in one.delta.tool_calls or ()]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert [(c.id, c.function.arguments) for c in calls] == [(c.id, c.function.arguments) for c in message.tool_calls or ()]
    tokens = [token for one in deltas if one.logprobs for token in one.logprobs.content]
    assert tokens == (whole.choices[0].logprobs.content if whole.choices[0].logprobs else [])
    assert chunks[-1].usage == whole.usage
    assert all(one.usage is None for one in chunks[:-1])
    assert getattr(chunks[-1], "simulated", False) == getattr(whole, "simulated", False) == last.get("simulated", False)


@given(TEXT_PIECES, LASTS)
def test_a_streamed_completion_is_the_whole_one_in_parts(said, last):
    asked = ask("/api/generate")
    documents = [*said, {**last, "response": ""}]
    chunks = streamed(COMPLETIONS, asked, documents, Completion)
    whole = Completion.model_validate(whole_answer(COMPLETIONS, asked, pieces(documents), WORKER))
    deltas = [one.choices[0] for one in chunks if one.choices]
    assert "".join(one.text for one in deltas) == whole.choices[0].text
    assert deltas[-1].finish_reason == whole.choices[0].finish_reason
    tokens = [token for one in deltas if one.logprobs for token in one.logprobs.tokens]
    assert tokens == (whole.choices[0].logprobs.tokens if whole.choices[0].logprobs else [])
    assert chunks[-1].usage == whole.usage


def test_without_include_usage_no_chunk_has_any():
    documents = [{"message": {"content": "a"}}, {"done": True, "message": {"content": ""}}]
    writer = ChunkWriter(CHAT, ask(), WORKER, usage=False)
    assert b"usage" not in writer.events(pieces(documents))


def test_what_a_simulated_worker_says_is_marked_from_the_first_event():
    writer = ChunkWriter(CHAT, ask(), LiveWorker(name="w1", simulated=True), usage=False)
    events = writer.events(pieces([{"message": {"content": "a"}}])).decode().split("\n\n")[:-1]
    assert len(events) == 2
    assert all('"simulated":true' in one for one in events)


def test_embeddings():
    line = Piece(msgspec.json.encode({"embeddings": [[0.5, 1.0], [2.0, 3.0]], "prompt_eval_count": 4}), {})
    whole = whole_answer(EMBEDDINGS, ask("/api/embed"), [line], WORKER)
    found = CreateEmbeddingResponse.model_validate(whole)
    assert [one.embedding for one in found.data] == [[0.5, 1.0], [2.0, 3.0]]
    packed = whole_answer(EMBEDDINGS, ask("/api/embed", encoding_format="base64"), [line], WORKER)
    assert packed["data"][0]["embedding"] == "AAAAPwAAgD8="
