"""Images go into the request when it is sent, with the question they belong to."""

from __future__ import annotations

import base64

import pytest

from swarm.config.settings import LlmSettings
from swarm.core.faults import TaskFault
from swarm.core.task import ImageRef
from swarm.errors import TaskInvalid
from swarm.queue.codec import validate
from swarm.worker.executors.llm import LlmExecutor
from tests.helpers.blocking import wait_for
from tests.helpers.worker_fakes import FakeServer, claim_of, llm

REF = ImageRef("/pics/a.png", "0" * 64)
ENCODED = base64.b64encode(b"/pics/a.png").decode()


def sent(read=lambda ref: ref.path.encode(), **fields):
    server = FakeServer()
    executor = LlmExecutor(server, LlmSettings(), models={}, read_image=read)
    wait_for(executor.run(claim_of(llm("t", images=(REF,), **fields)), progress=lambda n: None))
    ((_, _, body, _),) = server.calls
    return body


def test_they_go_with_the_last_question_of_a_chat():
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "this", "images": ["given"]},
        {"role": "assistant", "content": "Well,"},
    ]
    made = sent(request={"messages": messages})["messages"]
    assert [one.get("images") for one in made] == [None, None, ["given", ENCODED], None]
    assert "images" in messages[2]
    assert messages[2]["images"] == ["given"], "the task's own request stays as it is"


def test_they_go_beside_a_prompt():
    assert sent(request={"prompt": "x"}, endpoint="/api/generate")["images"] == [ENCODED]


@pytest.mark.parametrize(
    ("trouble", "fault"),
    [(ValueError("is no longer what it was"), "deterministic"), (FileNotFoundError(2, "x"), "deterministic"),
     (OSError(5, "Input/output error"), "transient")],
)  # fmt: skip
def test_what_cannot_be_read_says_so(trouble, fault):
    def read(ref):
        raise trouble

    with pytest.raises(TaskFault) as caught:
        sent(read, request={"prompt": "x"})
    assert (caught.value.fault, caught.value.kind) == (fault, "image_unusable")
    assert caught.value.message.startswith("/pics/a.png")


def test_nobody_to_show_them_to():
    with pytest.raises(TaskFault, match="need a message of role user"):
        sent(request={"messages": [{"role": "system", "content": "x"}]})


@pytest.mark.parametrize(
    "change",
    [
        {"images": ["/etc/passwd"]},
        {"images": [{"path": "/a", "sha256": "0"}]},
        {"images": [{"path": "/a"}]},
        {"images": [{"path": "/a", "sha256": "0" * 64}] * 17},
        {"images": [{"path": "/a", "sha256": "0" * 64}], "endpoint": "/api/embed"},
    ],
)
def test_tasks_with_images_that_cannot_be_meant_are_refused(change):
    whole = {"task_id": "t", "task_class": "llm", "model": "m", "request": {"prompt": "x"}}
    with pytest.raises(TaskInvalid, match="images"):
        validate({**whole, **change})
