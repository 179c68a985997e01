"""The tables of faults: which words and codes mean what."""

from __future__ import annotations

import http.client

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from swarm.engines.classify import error_text, fault_of_status, fault_of_text, fault_of_transport

TEXTS = [
    ("llama-server process has terminated: exit status 1: cudaMalloc failed: out of memory", "infra", "out_of_memory"),
    ("CUDA error: Out Of Memory", "infra", "out_of_memory"),
    ("ROCm error: out of memory", "infra", "out_of_memory"),
    ("command buffer 0 failed with status 5: kIOGPUCommandBufferCallbackErrorOutOfMemory", "infra", "out_of_memory"),
    ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "infra", "out_of_memory"),
    ("llama runner process has terminated: error loading model: unable to allocate CUDA0 buffer", "infra", "out_of_memory"),
    ("memory layout cannot be allocated", "infra", "out_of_memory"),
    ("2.0 GiB KV cache is needed, which is larger than the available KV cache memory (0.7 GiB)", "infra", "out_of_memory"),
    ("model requires more system memory (9.1 GiB) than is available (5.0 GiB)", "infra", "does_not_fit"),
    ("unable to load full model on GPU", "infra", "does_not_fit"),
    ("llama runner process has terminated: signal: killed", "infra", "load_failed"),
    ("llama-server process has terminated: exit status 134: CUDA error: unspecified launch failure", "infra", "runner_died"),
    ("llama-server process has terminated: exit status 134: ROCm error: unspecified launch failure", "infra", "runner_died"),
    ("error starting llama-server: no such file", "infra", "load_failed"),
    ("model failed to load, this may be due to resource limitations or an internal error", "infra", "load_failed"),
    ("timed out waiting for llama runner to start - progress 0.12", "infra", "load_timeout"),
    ("timed out waiting for llama-server to start: context canceled", "transient", "aborted"),
    ("model runner has unexpectedly stopped, this may be due to resource limitations", "infra", "runner_died"),
    ("an error was encountered while running the model: unexpected EOF", "infra", "runner_died"),
    ("CUDA error: an illegal memory access was encountered", "infra", "runner_died"),
    ("this model may be incompatible with your version of Ollama", "deterministic", "model_incompatible"),
    ("prediction aborted, token repeat limit reached", "transient", "token_repeat"),
    ("server busy, please try again.  maximum pending requests exceeded", "transient", "busy"),
    ('option "num_ctx" must be of type integer', "deterministic", "bad_request"),
    ('invalid format: "xml"; expected "json" or a JSON schema', "deterministic", "bad_request"),
    ("the input length exceeds the context length", "deterministic", "too_long"),
    ("model 'nope' not found", "deterministic", "model_missing"),
    ("pull model manifest: file does not exist", "deterministic", "model_missing"),
    ("write /models/blob: no space left on device", "infra", "disk_full"),
    ("something never seen before", "transient", "server_error"),
    ("", "transient", "server_error"),
]


@pytest.mark.parametrize(("text", "fault", "kind"), TEXTS)
def test_error_texts(text: str, fault: str, kind: str) -> None:
    found = fault_of_text(text)
    assert (found.fault, found.kind) == (fault, kind)
    assert found.message


STATUSES = [
    (400, '{"error":"missing request body"}', "/api/chat", "deterministic", "bad_request"),
    # A document of its own inside the error text, as runners send it.
    (400, '{"error":"{\\"error\\":{\\"code\\":400,\\"message\\":\\"bad\\"}}"}', "/api/chat", "deterministic", "bad_request"),
    (400, '{"error":"CUDA error: whatever"}', "/api/chat", "deterministic", "bad_request"),
    (400, '{"error":"CUDA error: whatever"}', "/api/embed", "infra", "runner_died"),
    (400, '{"error":"the input length exceeds the context length"}', "/api/embed", "deterministic", "too_long"),
    (400, '{"error":"no idea"}', "/api/embed", "deterministic", "bad_request"),
    (404, '{"error":"model \'x\' not found"}', "/api/chat", "deterministic", "model_missing"),
    (404, '{"error":"model \\"x\\" not found, try pulling it first"}', "/api/embed", "deterministic", "model_missing"),
    (404, "404 page not found", "/api/chat", "infra", "garbage"),
    (403, "", "/api/chat", "infra", "forbidden"),
    (403, '{"error":"cloud is off"}', "/api/chat", "deterministic", "forbidden"),
    (499, '{"error":"request canceled"}', "/api/chat", "transient", "busy"),
    (500, '{"error":"unexpected out of memory"}', "/api/chat", "infra", "out_of_memory"),
    (500, '{"error":"who knows"}', "/api/chat", "transient", "server_error"),
    (502, "<html>bad gateway</html>", "/api/chat", "infra", "garbage"),
    (503, '{"error":"server busy"}', "/api/chat", "transient", "busy"),
    (503, "upstream gone", "/api/chat", "transient", "busy"),
    (302, "", "/api/chat", "infra", "redirected"),
    (500, '{"error":{"message":"nested: out of memory"}}', "/v1/x", "infra", "out_of_memory"),
]


@pytest.mark.parametrize(("status", "body", "endpoint", "fault", "kind"), STATUSES)
def test_statuses(status: int, body: str, endpoint: str, fault: str, kind: str) -> None:
    found = fault_of_status(status, body, endpoint=endpoint)
    assert (found.fault, found.kind) == (fault, kind)
    assert str(status) in found.message


@pytest.mark.parametrize(
    ("error", "fault", "kind"),
    [
        (ConnectionRefusedError(), "infra", "server_down"),
        (ConnectionResetError(), "infra", "connection_lost"),
        (http.client.RemoteDisconnected("gone"), "infra", "connection_lost"),
        (http.client.IncompleteRead(b""), "infra", "connection_lost"),
        (http.client.BadStatusLine("SSH-2.0"), "infra", "garbage"),
        (urllib3.exceptions.InvalidHeader("two lengths"), "infra", "garbage"),
        (OSError("no route"), "infra", "server_down"),
    ],
)
def test_broken_connections(error: Exception, fault: str, kind: str) -> None:
    found = fault_of_transport(error, url="http://127.0.0.1:1")
    assert (found.fault, found.kind) == (fault, kind)
    assert "127.0.0.1:1" in found.message


@given(st.integers(201, 599), st.text(max_size=2000), st.sampled_from(["/api/chat", "/api/embed"]))
def test_any_reply_has_a_class_and_a_short_message(status: int, body: str, endpoint: str) -> None:
    found = fault_of_status(status, body, endpoint=endpoint)
    assert found.fault in ("infra", "transient", "deterministic")
    assert len(found.message) < 1000


def test_error_text_of_deep_nonsense() -> None:
    assert error_text("[" * 100_000) is None
    assert error_text('{"error": 5}') is None
    assert error_text('["error"]') is None
