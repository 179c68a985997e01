"""Configuration: file, environment, options; every mistake is named with its place."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.config.load import load
from swarm.config.settings import Settings
from swarm.errors import ConfigError


def plain(value: object) -> dict:
    """As it would be read from a file: tuples are lists."""
    return msgspec.json.decode(msgspec.json.encode(value))


EXAMPLE = Path(__file__).parents[3] / "config/swarm.toml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def given_file(text: str) -> Path:
    path = Path("my.toml")
    path.write_text(text)
    return path


def refusal(text: str, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(given_file(text), env or {}, None)
    assert caught.value.exit_code == 2
    return caught.value.message


def test_without_file_and_environment_the_defaults_hold(tmp_path):
    loaded = load(None, {}, None)
    assert loaded.path is None
    assert loaded.sources == {}
    expected = plain(Settings())
    expected["queue"]["root"] = str(tmp_path / "queue")
    assert plain(loaded.settings) == expected


def test_which_file_is_read():
    assert load(None, {}, None).path is None
    Path("config").mkdir()
    Path("config/swarm.toml").write_text("[llm]\nslots = 2\n")
    Path("other.toml").write_text("[llm]\nslots = 3\n")
    assert load(None, {}, None).settings.llm.slots == 2
    assert load(None, {"SWARM_CONFIG": ""}, None).settings.llm.slots == 2
    assert load(None, {"SWARM_CONFIG": "other.toml"}, None).settings.llm.slots == 3
    assert load(Path("other.toml"), {"SWARM_CONFIG": "config/swarm.toml"}, None).settings.llm.slots == 3


def test_which_root_is_taken(tmp_path):
    path = given_file('[queue]\nroot = "from-file"\n')
    assert load(path, {}, None).settings.queue.root == str(tmp_path / "from-file")
    env = {"SWARM_QUEUE__ROOT": "from-key"}
    assert load(path, env, None).settings.queue.root == str(tmp_path / "from-key")
    assert load(path, env | {"SWARM_ROOT": "from-root"}, None).settings.queue.root == str(tmp_path / "from-root")
    loaded = load(path, env | {"SWARM_ROOT": "from-root"}, Path("from-option"))
    assert loaded.settings.queue.root == str(tmp_path / "from-option")
    assert loaded.sources["queue.root"] == "--root"


def test_the_environment_wins_and_is_typed():
    env = {
        "SWARM_BRAIN__TICK_S": "0.5",
        "SWARM_LLM__SLOTS": "4",
        "SWARM_OLLAMA__ENV": '{"OLLAMA_DEBUG": "1"}',
        "SWARM_SIM__MODELS": '["a", "b"]',
        "SWARM_METRICS__PORT": "9400",
        "SWARM_SCRIPTS__RESIZE": '["/usr/bin/convert"]',
        "SWARM_WORKERS": '[{"name": "w1", "gpus": [0]}]',
        "SWARM_QUEUE__DURABILITY": "fast",
    }
    loaded = load(given_file("[brain]\ntick_s = 9\nmonitor_s = 8\n"), env, None)
    found = loaded.settings
    assert (found.brain.tick_s, found.brain.monitor_s, found.llm.slots, found.metrics.port) == (0.5, 8.0, 4, 9400)
    assert found.ollama.env == {"OLLAMA_DEBUG": "1"}
    assert found.sim.models == ("a", "b")
    assert found.scripts == {"resize": ("/usr/bin/convert",)}
    assert found.workers[0].gpus == (0,)
    assert loaded.sources["brain.tick_s"] == "$SWARM_BRAIN__TICK_S"
    assert loaded.sources["brain.monitor_s"] == "file"


def test_every_simple_key_can_be_set_by_a_variable():
    for section, keys in plain(Settings()).items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            text = msgspec.json.encode(value).decode().strip('"') if value is not None else ""
            name = f"SWARM_{section}__{key}".upper()
            loaded = load(None, {name: text}, None)
            assert loaded.sources[f"{section}.{key}"] == f"${name}"


@pytest.mark.parametrize(
    "name", ["SWARM_ROOT", "SWARM_SIM_LOAD_S", "SWARM_WORKER", "SWARM_SERVER", "SWARM_TASK", "SWARM_FOO", "HOME"]
)
def test_other_variables_are_left_alone(name):
    load(None, {name: "x"}, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[brain]\ntick = 1\n", ["my.toml, line 2", "'brain.tick'", "did you mean 'tick_s'?"]),
        ("[loging]\nlevel = 'INFO'\n", ["my.toml, line 1", "unknown section 'loging'", "'logging'"]),
        ("\n[brain]\n\ntick_s = 'x'\n", ["my.toml, line 4", "brain.tick_s: expected float, got str"]),
        ("brain.tick_s = -1\n", ["my.toml, line 1", "brain.tick_s", "> 0"]),
        ("[brain]\ntick_s = inf\n", ["line 2", "inf is no usable number"]),
        ("[brain]\ntick_s = nan\n", ["line 2", "nan is no usable number"]),
        ("[llm]\nslots = true\n", ["line 2", "expected int, got bool, or one of: auto"]),
        ("[llm]\non_cpu_spill = 'maybe'\n", ["line 2", "one of: refuse, warn, allow"]),
        ("brain = 3\n", ["line 1", "brain: expected a table, got 3"]),
        ("[[workers]]\nname = 'a'\n[[workers]]\ngpus = [0]\n", ["line 3", "workers[1]", "'name' is missing"]),
        ("[[workers]]\nname = 'a b'\n", ["line 2", "workers[0].name", "letters, digits"]),
        ("[[workers]]\nname = 'a'\nprt = 1\n", ["line 3", "'workers[0].prt'", "'port'"]),
        ('[models."llama3.2:3b"]\ngpus = 2\n', ["line 2", 'models."llama3.2:3b".gpus', "'gpus_needed'"]),
        ("[scripts]\nresize = 'x'\n", ["line 2", "scripts.resize: expected array"]),
        ("[feed]\nmin = 20\n", ["my.toml", "feed.min (20)", "feed.target (10)"]),
        ("[[workers]]\nname = 'a'\n[[workers]]\nname = 'a'\n", ["workers[1].name: 'a' is taken by workers[0]"]),
        (
            "[[workers]]\nname = 'a'\nport = 1\n[[workers]]\nname = 'b'\nport = 1\n",
            ["workers[1].port: 1 is taken by worker 'a'"],
        ),
        ("[[workers]]\nname = 'brain'\n", ["reserved"]),
        ("[[workers]]\nname = 'a'\nport = 1\nollama_url = 'http://x'\n", ["not both"]),
        ("[[workers]]\nname = 'a'\nollama_url = 'x:1'\n", ["http://"]),
        *(
            (f"[[workers]]\nname = 'a'\nollama_url = 'http://{host}'\n", ["workers[0].ollama_url", "is no http://"])
            for host in ("", "[", "a:b", "a:99999999", "ä..x", "x y", "x" * 300)
        ),
        ("[llm]\nengine = 'lama-server'\n", ["my.toml, line 2", "no engine 'lama-server'", "did you mean 'llama-server'"]),
        ("[llm]\nengine = 'openai'\n", ["my.toml, line 2", "needs a url or a command in [engines.openai]"]),
        ("[[workers]]\nname = 'a'\nengine = 'x'\n", ["my.toml, line 3", "workers[0].engine"]),
        ("[models.A]\nengine = 'x'\n", ["my.toml, line 2", "models.A.engine"]),
        ("[models.A]\nfile = 'a.gguf'\n", ["my.toml, line 2", "models.A.file", "absolute path"]),
        ("[models.A]\nfile = '/a.gguf'\nengine = 'ollama'\n", ["my.toml, line 2", "its own store"]),
        (
            "[engines.v]\ncommand = ['v', '{modle}', '--port', '{port}']\n",
            ["my.toml, line 2", "engines.v.command[1]", "{modle}", "did you mean {model}?"],
        ),
        ("[engines.v]\ncommand = ['v', '{model}']\n", ["my.toml, line 2", "has no {port}"]),
        ("[engines.v]\ncommand = ['v', '{port}']\n", ["my.toml, line 2", "neither {model} nor {file}"]),
        ("[engines.v]\ncommand = ['bin/v', '{model}', '{port}']\n", ["my.toml, line 2", "'bin/v'", "absolute path"]),
        ("[engines.v]\nurl = 'x:1'\n", ["my.toml, line 2", "engines.v.url", "http://"]),
        ("[engines.v]\nkind = 'openai'\n", ["my.toml, line 1", "engines.v", "needs a command", "or a url"]),
        ("[engines.v]\nkind = 'tgi'\n", ["line 2", "one of: llama-server, openai"]),
        ("[engines.'a b']\nurl = 'http://x'\n", ["line 1", 'engines."a b"', "letters, digits"]),
        ("[engines.ollama]\nurl = 'http://x'\n", ["line 1", "set in [ollama]"]),
        ("[engines.llama-server]\nkind = 'openai'\nurl = 'http://x'\n", ["line 2", "built in, of kind 'llama-server'"]),
        ("[engines.v]\nurl = 'http://x'\nhealth = 'up'\n", ["line 3", "must begin with /"]),
        ("[engines.v]\nurl = 'http://x'\napi_key_env = 'a-b'\n", ["line 3", "name of a variable"]),
        (
            "[engines.v]\nurl = 'http://x'\n[[workers]]\nname = 'a'\nengine = 'v'\nport = 2000\n",
            ["line 6", "leave out port"],
        ),
        ("[[workers]]\nname = 'a'\nengine = 'llama-server'\nollama_url = 'http://x'\n", ["line 3", "one of them"]),
        ("[ollama]\nbase_port = 65530\n", ["ollama.base_port = 65530"]),
        ("[ollama]\nbase_port = 80\n", ["ollama.base_port = 80"]),
        ("[[workers]]\nname = 'a'\nport = 80\n", ["workers[0].port: 80", "from 1024"]),
        ("[worker]\nheartbeat_s = 10\n", ["heartbeat_stale_s"]),
        ("[scripts]\nx = 'ls'\n", ["line 2", "scripts.x: expected array, got str"]),
        ("[scripts]\nx = []\n", ["scripts.x: names no program"]),
        ("[scripts]\nx = ['tools/x']\n", ["scripts.x: 'tools/x' is relative", "absolute path"]),
        (
            "[scripts]\nx = ['/usr/bin/python3', '-u', 'x.py']\n",
            ["python would look for 'x.py' in the directory of each task"],
        ),
        ("[scripts.x]\ncommand = ['/bin/ls']\nenvs = []\n", ["line 3", "did you mean 'env'"]),
        ("[scripts.x]\nenv = ['A']\n", ["line 1", "'command' is missing"]),
        ("[scripts.x]\ncommand = ['/bin/ls']\nenv = ['A=B']\n", ["scripts.x.env[0]: expected the name of a variable"]),
        ("[scripts.x]\ncommand = ['/bin/ls']\nenv = ['SWARM_ROOT']\n", ["scripts.x.env: SWARM_ROOT"]),
        ("[scripts.x]\ncommand = ['/bin/ls']\ncwd = 'data'\n", ["scripts.x.cwd: 'data' must be an absolute path"]),
        ("[scripts.x]\ncommand = ['/bin/ls']\ncwd = '/a/../b'\n", ["without '..'"]),
        ("[brain\n", ["my.toml: is no valid TOML", "line 1"]),
    ],
)
def test_mistakes_in_the_file_are_named(text, said):
    message = refusal(text)
    for words in said:
        assert words in message, message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SWARM_BRAIN__TICKS", "1", "did you mean $SWARM_BRAIN__TICK_S?"),
        ("SWARM_BRAIN_TICK_S", "1", "did you mean $SWARM_BRAIN__TICK_S?"),
        ("SWARM_QWXZ__Y", "1", "no such setting"),
        ("SWARM_LLM__SLOTS", "many", "(llm.slots) = 'many': expected int, or one of: auto"),
        ("SWARM_LLM__SLOTS", "0", "expected int >= 1"),
        ("SWARM_OLLAMA__ENV", "{", "(ollama.env) = '{'"),
        ("SWARM_OLLAMA__ENV", "[]", "expected object, got array"),
    ],
)
def test_mistakes_in_the_environment_are_named(name, value, said):
    message = refusal("", {name: value})
    assert f"${name}" in message
    assert said in message


def test_all_mistakes_are_told_at_once():
    message = refusal("[brain]\ntick = 1\nmonitor_s = -1\n[x]\n", {"SWARM_LLM__SLOTS": "0"})
    assert len(message.splitlines()) == 4


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such"):
        load(Path("nowhere.toml"), {}, None)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path, {}, None)
    Path("latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(Path("latin.toml"), {}, None)


@given(
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=5), st.dictionaries(st.text(max_size=8), st.floats()))
    )
)
def test_no_document_gets_through_unchecked(document):
    """Whatever is written there, it is either a ``Settings`` or a ``ConfigError``."""
    env = {f"SWARM_{name}".replace("\0", ""): str(value).replace("\0", "") for name, value in document.items()}
    try:
        assert isinstance(load(None, env, None).settings, Settings)
    except ConfigError as refused:
        assert refused.message


def uncommented(marks: str) -> dict[str, object]:
    """The example with the lines marked ``# key = …`` (or ``## key = …``) in force."""
    lines = EXAMPLE.read_text().splitlines()
    pattern = re.compile(rf"^{marks}(?: ?)((?:\[\[?|\w+ = ).*)$")
    return tomllib.loads("\n".join(hit[1] if (hit := pattern.match(line)) else line for line in lines))


def test_the_example_changes_nothing_and_shows_every_key_with_its_default():
    assert load(EXAMPLE, {}, None).settings == load(None, {}, None).settings
    defaults = plain(Settings())
    free = {name: defaults.pop(name) for name in ("workers", "models", "engines", "scripts")}
    assert free == {"workers": [], "models": {}, "engines": {}, "scripts": {}}
    del defaults["metrics"]["port"], defaults["http"]["port"], defaults["ray"]["address"]  # have none
    assert uncommented("#") == defaults


def test_the_examples_of_what_has_no_default_are_right(tmp_path):
    document = uncommented("##")
    assert {"workers", "models", "engines", "scripts"} <= set(document)
    settings = msgspec.convert(document, Settings)
    assert [worker.name for worker in settings.workers] == ["worker-1", "big", "elsewhere", "box2-gpu0"]
    Path("ex.toml").write_text(re.sub(r"(?m)^## ?(?=\[|\w+ = )", "", EXAMPLE.read_text()))
    assert load(Path("ex.toml"), {}, None).settings.models["llama3.2:3b"].options == {"num_ctx": 8192}


# -- whose file it is ----------------------------------------------------------------------------------------------


def test_a_file_that_others_could_have_written_is_not_obeyed(tmp_path):
    Path("config").mkdir()
    file = Path("config/swarm.toml")
    file.write_text("[ollama]\nbinary = '/tmp/evil'\n")
    assert load(None, {}, None).found
    file.chmod(0o666)
    for config, env in ((None, {}), (file, {}), (None, {"SWARM_CONFIG": str(file)})):
        with pytest.raises(ConfigError) as caught:
            load(config, env, None)
        assert f"{file}: is refused" in caught.value.message
        assert f"{tmp_path}/config/swarm.toml can be written to by everybody" in caught.value.message
        assert f"chmod go-w {tmp_path}/config/swarm.toml" in (caught.value.hint or "")
    file.write_text("[ollama\n")
    with pytest.raises(ConfigError, match="is refused"):
        load(None, {}, None)


def test_one_that_sets_nothing_does_no_harm_whoever_wrote_it():
    Path("config").mkdir()
    Path("config/swarm.toml").write_text(EXAMPLE.read_text())
    Path("config/swarm.toml").chmod(0o666)
    assert (
        load(None, {}, None).settings
        == load(Path("/dev/../" + str(Path("config/swarm.toml").absolute())), {}, None).settings
    )


def test_it_is_told_whether_somebody_named_the_file():
    assert not load(None, {}, None).found
    Path("config").mkdir()
    Path("config/swarm.toml").write_text("[llm]\nslots = 2\n")
    assert load(None, {}, None).found
    assert not load(Path("config/swarm.toml"), {}, None).found
    assert not load(None, {"SWARM_CONFIG": "config/swarm.toml"}, None).found


def test_a_huge_file_is_none():
    Path("huge.toml").write_bytes(b"# " + b"x" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(Path("huge.toml"), {}, None)


# -- roots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "env", "said"),
    [
        ("[queue]\nroot = ''\n", {}, "my.toml, line 2: queue.root: is empty"),
        ('[queue]\nroot = "a\\u0000b"\n', {}, "my.toml, line 2: queue.root: holds a NUL character"),
        ('[scripts]\nx = ["/bin/a\\u0000b"]\n', {}, "holds a NUL character"),
        ("", {"SWARM_QUEUE__ROOT": ""}, "$SWARM_QUEUE__ROOT (queue.root) = '': queue.root: is empty"),
        ("", {"SWARM_BRAIN__TICK_S": "inf"}, "inf is no usable number"),
        ("", {"SWARM_OLLAMA__ENV": '{"\udcff": "b"}'}, "is not UTF-8"),
        ("", {"SWARM_METRICS__HOST": "a\udcff"}, "is not UTF-8"),
    ],
)
def test_what_can_be_no_path_is_refused(text, env, said):
    assert said in refusal(text, env)


def test_an_empty_variable_is_as_good_as_none(tmp_path):
    assert load(None, {"SWARM_ROOT": "", "SWARM_CONFIG": ""}, None).settings.queue.root == str(tmp_path / "queue")


def test_the_systems_own_directory_is_no_root():
    for root in ("/", "//", "/x/.."):
        with pytest.raises(ConfigError, match="cannot be a queue's root"):
            load(None, {}, Path(root))


def test_a_relative_root_in_a_directory_that_has_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="current directory has been deleted"):
        load(None, {}, None)
    assert load(None, {}, Path("/somewhere")).settings.queue.root == "/somewhere"
    monkeypatch.chdir(tmp_path)


def test_reading_the_configuration_is_quick():
    code = "import sys, swarm.config.load; print({'rich', 'typer', 'psutil', 'pynvml', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=EXAMPLE.parents[1])
    assert done.stdout.strip() == "set()"
