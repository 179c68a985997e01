"""``[[workers]]`` with a ``url``: cards of other machines. What is wrong is named with its line, and no token is shown."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from swarm.config.load import load
from swarm.config.settings import RaySettings, Settings, WorkerSpec
from swarm.core.gpu_reading import GpuReading
from swarm.core.nodes.relay_workers import RelayPlace, relay_warnings, unset_tokens
from swarm.core.placement.worker_plan import plan_workers
from swarm.errors import ConfigError
from swarm.views.config_document import ConfigDocument, without_secrets, without_tokens
from tests.helpers.cli import in_process

URL = "http://box2:11500/cards/gpu0"
SECRET = "s3cret-t0ken"


def config(tmp_path: Path, *entries: str) -> Path:
    path = tmp_path / "my.toml"
    path.write_text("\n".join(f'[[workers]]\nname = "w{i}"\n{entry}\n' for i, entry in enumerate(entries)))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("entry", "line", "said"),
    [
        (f'url = "{URL}"', 1, "workers[0]: has a url but no token"),
        (f'url = "{URL}"\ntoken = "{SECRET}"\ntoken_env = "X"', 4, "workers[0].token: give token or token_env, not both"),
        (f'url = "{URL}"\ntoken = "(hidden)"', 4, "workers[0].token: is no token"),
        (f'url = "{URL}"\ntoken_env = "X"\nport = 11500', 5, "workers[0].port: is for a server on this machine"),
        (f'url = "{URL}"\ntoken_env = "X"\ngpus = [0]', 5, "workers[0].gpus: is for a server on this machine"),
        (f'url = "{URL}"\ntoken_env = "X"\nollama_url = "http://h:1"', 5, "workers[0].ollama_url: is for a server"),
        (
            'url = "http://box2:11500"\ntoken_env = "X"',
            3,
            "'http://box2:11500' names no card; write it as http://box2:11500/c",
        ),
        ('url = "box2:11500/cards/gpu0"\ntoken_env = "X"', 3, "is no http:// address; write it as"),
        (
            'url = "https://box2/cards/gpu0"\ntoken_env = "X"',
            3,
            "relays speak plain http: go through a VPN or an ssh tunnel",
        ),
        ('url = "http://box2:99999/cards/gpu0"\ntoken_env = "X"', 3, "is no address of a card"),
        (f'url = "http://me:{SECRET}@box2/cards/gpu0"\ntoken_env = "X"', 3, "holds more than an address"),
        (f'token = "{SECRET}"', 3, "workers[0].token: belongs to a url, which is missing"),
        (f'url = "{URL}"\ntoken_env = "X"\nnode = "local"', 5, "workers[0].node: 'local' is the machine of the queue"),
        (f'url = "{URL}"\ntoken_env = "X"\nnode = "a b"', 5, "workers[0].node: expected letters, digits, ., - and _"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_without_a_token(tmp_path, entry, line, said):
    with pytest.raises(ConfigError) as refused:
        load(config(tmp_path, entry), {}, None)
    assert f"my.toml, line {line}: " in refused.value.message
    assert said in refused.value.message
    assert SECRET not in refused.value.message


def test_the_same_card_twice_is_refused_however_it_is_written(tmp_path):
    twice = ('url = "http://box2/cards/gpu0"\ntoken_env = "X"', 'url = "http://BOX2:80/cards/gpu0/"\ntoken_env = "X"')
    with pytest.raises(ConfigError, match=r"line 8: workers\[1\]\.url: .* is the card of workers\[0\] too"):
        load(config(tmp_path, *twice), {}, None)


def test_a_token_is_shown_nowhere(tmp_path, monkeypatch):
    path = config(tmp_path, f'url = "{URL}"\ntoken = "{SECRET}"')
    settings = load(path, {}, None).settings
    document = ConfigDocument(file=None, settings=settings, sources={})
    shown = [str(without_secrets(document)), str(without_tokens(settings))]
    looks = [("config", verb, *more, "--config", str(path)) for verb in ("show", "check") for more in ((), ("--json",))]
    shown += [told for code, told in (in_process(*look) for look in looks) if code == 0]
    assert len(shown) == 6
    monkeypatch.setenv("SWARM_WORKERS", json.dumps([{"name": "a b", "url": URL, "token": SECRET}]))
    code, told = in_process("config", "check", "--config", str(path))
    shown.append(told)
    assert (code, "SWARM_WORKERS" in told) == (2, True)
    assert all(SECRET not in text for text in shown)
    assert "(hidden)" in shown[2]


def test_warnings(tmp_path):
    entries = (f'url = "{URL}"\ntoken = "{SECRET}"', 'url = "http://8.8.8.8/cards/gpu0"\ntoken_env = "BOX3_TOKEN"')
    settings = load(config(tmp_path, *entries, 'url = "http://10.0.0.9/cards/gpu0"\ntoken_env = "Y"'), {}, None).settings
    said = {w.name: w.what for w in relay_warnings(settings, open_file=False)}
    assert list(said) == ["w1"]
    assert "public network" in said["w1"]
    assert [w.name for w in relay_warnings(settings, open_file=True)] == ["w0", "w1"]
    assert [w.name for w in unset_tokens(settings, {"Y": "x", "BOX3_TOKEN": " "})] == ["w1"]


CARDS = tuple(GpuReading(index=i, uuid=f"GPU-{i}", name="T") for i in range(2))


def remote(name: str, url: str = URL, **more: str) -> WorkerSpec:
    return WorkerSpec(name=name, url=url, token_env="X", **more)


def plans(*specs: WorkerSpec, cards=CARDS, **settings):
    return plan_workers(Settings(workers=specs, **settings), cards, simulate=None)


def test_cards_of_other_machines_come_on_top_of_those_of_this_one():
    far = remote("worker-1")
    assert [(p.name, p.gpus, p.node) for p in plans(far)] == [
        ("worker-2", (0,), ""),
        ("worker-3", (1,), ""),
        ("worker-1", (), "box2"),
    ]
    assert [p.name for p in plans(WorkerSpec(name="cpu"), far)] == ["cpu", "worker-1"]
    assert [p.name for p in plans(far, cards=())] == ["worker-1"], "no card is needed here"
    assert [p.name for p in plans(far, ray=RaySettings(address="auto"))] == ["worker-1"]
    (plan,) = plans(far, cards=())
    assert (plan.url, plan.port, plan.owns_server, plan.ollama_url) == (URL, None, False, None)
    assert plan.relay == RelayPlace(node="box2", card="gpu0")
    assert "token" not in msgspec.json.encode(plan).decode()


def test_a_machine_is_called_by_its_host_unless_it_is_given_a_name_or_has_two_relays():
    def nodes(*specs: WorkerSpec) -> list[str]:
        return [p.node for p in plans(*specs, cards=())]

    assert nodes(remote("a", "http://10.0.0.2:1/cards/gpu0"), remote("b", "http://[fe80::2]:1/cards/gpu0")) == [
        "10.0.0.2",
        "fe80--2",
    ]
    assert nodes(remote("a"), remote("b", "http://box2:7/cards/gpu0")) == ["box2-11500", "box2-7"]
    assert nodes(remote("a", node="lab"), remote("b", "http://box2:7/cards/gpu0", node="lab")) == ["lab", "lab"]
