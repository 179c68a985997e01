"""Tokens of the HTTP server on disk: shown once, kept hashed, for nobody else to read; and the commands."""

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from swarm.core.access import Scope
from swarm.errors import ConfigError, InputError, QueueError
from swarm.queue.stores.tokens import TokenBook, check_entry, create_token, read_tokens, revoke_token
from tests.helpers.cli import in_process
from tests.helpers.http_access import http_parts


@pytest.fixture
def made(queue):
    """Makes and revokes tokens of one queue."""

    class Made:
        layout = queue.layout

        def new(self, name, scope=Scope.SUBMIT):
            return create_token(queue.layout, queue.storage, name, scope)

        def revoke(self, name):
            return revoke_token(queue.layout, queue.storage, name)

    return Made()


def test_only_a_hash_is_kept_where_only_the_owner_can_read(made):
    before = os.umask(0)
    try:
        token = made.new("alice")
    finally:
        os.umask(before)
    path = made.layout.tokens
    assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    text = Path(path).read_text()
    assert token not in text
    assert hashlib.sha256(token.encode()).hexdigest() in text
    assert len(token) == len("swarm_") + 43  # 256 bits
    assert TokenBook(made.layout).find(token).name == "alice"


def test_tokens_differ_and_names_are_taken_once(made):
    assert made.new("a") != made.new("b")
    with pytest.raises(InputError, match="there is a token called a"):
        made.new("a")


@pytest.mark.parametrize("name", ["", "local", "a b", "-a", "a" * 33, "a\n", "ä", "../a"])
def test_names_that_are_none(made, name):
    with pytest.raises(InputError, match="cannot be the name of a token"):
        made.new(name)


def test_an_unknown_name_is_answered_with_the_nearest(made):
    made.new("alice")
    with pytest.raises(InputError) as refused:
        made.revoke("alcie")
    assert refused.value.hint == "did you mean alice?"


def test_all_made_at_once_are_kept(made):
    threads = [threading.Thread(target=made.new, args=(f"n{n}",)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(one.name for one in read_tokens(made.layout)) == [f"n{n}" for n in range(8)]


def test_a_book_sees_each_change(made):
    book = TokenBook(made.layout)
    assert book.find("swarm_x") is None
    for _ in range(20):
        token = made.new("alice")
        assert book.find(token) is not None
        made.revoke("alice")
        assert book.find(token) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_read_or_write_is_not_trusted(made, mode):
    token = made.new("alice")
    book = TokenBook(made.layout)
    assert book.find(token) is not None
    os.chmod(made.layout.tokens, mode)
    for ask in (lambda: book.find(token), lambda: read_tokens(made.layout), lambda: made.new("bob")):
        with pytest.raises(QueueError) as refused:
            ask()
        assert refused.value.hint == f"chmod 600 {made.layout.tokens}"
    os.chmod(made.layout.tokens, 0o600)
    assert book.find(token) is not None


GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"tokens": 7}',
    b'{"tokens": [{"name": "a", "scope": "root", "sha256": "00", "created_at": ""}]}',
    b'{"tokens": [{"name": "a", "scope": "admin", "sha256": "00", "created_at": ""}]}',
    b'{"tokens": [{"name": "a", "scope": "admin", "sha256": "zz", "created_at": ""}]}',
    b'{"tokens": [{"name": "a b", "scope": "admin", "sha256": "%s", "created_at": ""}]}' % (b"0" * 64),
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", GARBAGE)
def test_a_damaged_file_lets_nobody_in_and_says_so(made, data):
    token = made.new("alice")
    with open(made.layout.tokens, "wb") as file:
        file.write(data)
    for ask in (lambda: TokenBook(made.layout).find(token), lambda: made.new("bob")):
        with pytest.raises(QueueError, match="is damaged, so no token is valid"):
            ask()


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_what_is_no_file_is_not_followed(made, tmp_path, kind):
    token = made.new("alice")
    path = made.layout.tokens
    os.rename(path, tmp_path / "elsewhere.json")
    match kind:
        case "link":
            os.symlink(tmp_path / "elsewhere.json", path)
        case "directory":
            os.mkdir(path, 0o700)
        case "fifo":
            os.mkfifo(path, 0o600)
    with pytest.raises(QueueError):
        TokenBook(made.layout).find(token)


def test_a_server_that_others_reach_does_not_start_without_a_token(tmp_path, made):
    for n, http in enumerate(({"host": "0.0.0.0"}, {"tokens": "always"}, {"hosts": ["a.example.org"]})):
        parts = http_parts(tmp_path / str(n), **http)
        with pytest.raises(ConfigError) as refused:
            check_entry(parts.queue.layout, parts.settings)
        assert "`swarm token create NAME`" in refused.value.hint
        create_token(parts.queue.layout, parts.queue.storage, "alice", Scope.READ)
        check_entry(parts.queue.layout, parts.settings)
    parts = http_parts(tmp_path / "loopback")
    check_entry(parts.queue.layout, parts.settings)


def test_the_commands(tmp_path):
    root = str(tmp_path / "queue")
    code, said = in_process("token", "create", "alice", "--root", root)
    assert code == 0
    token = said.splitlines()[0]
    assert token.startswith("swarm_")
    code, said = in_process("token", "create", "bob", "--scope", "reed", "--root", root)
    assert code == 2
    assert "--scope 'reed': there is no such scope" in said
    assert in_process("token", "create", "bob", "--scope", "admin", "--root", root)[0] == 0
    code, said = in_process("token", "list", "--root", root)
    assert (code, "alice" in said, "admin" in said, token in said) == (0, True, True, False)
    assert in_process("token", "revoke", "alice", "--root", root)[0] == 0
    code, said = in_process("token", "list", "--json", "--root", root)
    assert '"bob"' in said
    assert "alice" not in said
    code, said = in_process("token", "revoke", "alice", "--root", root)
    assert (code, "there is no token called alice" in said) == (2, True)
