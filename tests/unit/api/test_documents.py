"""What keywords do to a prompt and to a whole task."""

import pytest

from swarm.api.documents import DocumentMaker
from swarm.errors import InputError

CHAT = {"task_class": "llm", "request": {"messages": [{"role": "user", "content": "Hi"}], "options": {"seed": 7}}}


def made(work, *, model=None, **fields):
    return DocumentMaker(model=model, fields=fields).make(work).document


def test_keywords_reach_the_request_of_a_whole_task_which_keeps_its_own():
    document = made(CHAT, model="m:1", options={"num_predict": 5, "seed": 1}, format="json", priority=7)
    assert (document["model"], document["priority"]) == ("m:1", 7)
    assert document["request"] == {**CHAT["request"], "format": "json", "options": {"num_predict": 5, "seed": 7}}
    assert made({**CHAT, "model": "own:1"}, model="m:1")["model"] == "own:1"
    assert made(CHAT) == CHAT


def test_what_a_caller_gets_wrong_is_said_in_the_words_of_python():
    with pytest.raises(InputError, match="unknown field 'max_tokens'") as caught:
        made("Hi", model="m:1", max_tokens=64)
    assert caught.value.hint == "it is a generation option: options={'num_predict': 64}"
    with pytest.raises(InputError, match=r"name one with model=, or on the line"):
        made("Hi")
    with pytest.raises(InputError, match="item 0: must be a prompt, a list of chat messages or a dictionary, is NoneType"):
        made(None)


@pytest.mark.parametrize(
    ("work", "fields"),
    [
        (CHAT, {"system": "Be brief."}),
        (CHAT, {"endpoint": "/api/generate"}),
        ({"task_class": "script", "command": ["resize"]}, {"options": {"seed": 1}}),
        ({"task_class": "script", "command": ["resize"]}, {"format": "json"}),
    ],
)
def test_a_keyword_without_a_meaning_for_a_whole_task_is_refused_by_name(work, fields):
    (name,) = fields
    with pytest.raises(InputError, match=rf"item 0: {name} has no meaning beside a whole task"):
        made(work, **fields)
