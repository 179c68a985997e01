"""What every page has: values escaped, a policy that lets nothing in, its own files and no others."""

import re
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from swarm.http.page import rendering
from swarm.http.page.routes import static
from swarm.http.parts import Client, Scope


def request(client=None):
    return SimpleNamespace(
        state=SimpleNamespace(client=client) if client else SimpleNamespace(), url=SimpleNamespace(path="/")
    )


def test_values_are_escaped_and_control_characters_written_out():
    answer = rendering.render_page(request(), "login.html", message="<script>\u202e\x1b[31m", next='/"><b>\udcff')
    text = answer.body.decode()
    assert r"&lt;script&gt;\u202e\x1b[31m" in text
    assert "<script>" not in text
    assert r"/&#34;&gt;&lt;b&gt;\udcff" in text


def test_the_policy_lets_in_nothing_from_outside_and_no_inline_script():
    answer = rendering.render_page(request(), "login.html", message="", next="/")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    text = answer.body.decode()
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:|(?:src|href)=.(?:https?:|//)", text)


def test_actions_are_shown_to_those_who_may():
    allowed = [scope for scope in Scope if rendering._may(Client("a", scope), "submit")]
    assert allowed == [Scope.SUBMIT, Scope.ADMIN]
    assert not rendering._may(None, "read")


@pytest.mark.parametrize("name", sorted(rendering.KINDS))
def test_static_files_are_kept_by_their_mark(name):
    client = TestClient(Starlette(routes=[Route("/static/{name}", static)]))
    marked = client.get(rendering.static_url(name))
    assert marked.status_code == 200
    assert "immutable" in marked.headers["Cache-Control"]
    assert marked.headers["Content-Type"].startswith(rendering.KINDS[name])
    assert "no-cache" in client.get(f"/static/{name}?v=other").headers["Cache-Control"]


@pytest.mark.parametrize("name", ["..%2frouting.py", "base.html", "%2e%2e%2ftemplates%2fbase.html"])
def test_nothing_else_is_given_out(name):
    assert TestClient(Starlette(routes=[Route("/static/{name}", static)])).get(f"/static/{name}").status_code == 404


def test_times_are_relative_with_the_absolute_in_the_title():
    iso = "2026-02-07T21:05:50.123+01:00"
    assert rendering.moment(iso, 1770494750.123 + 192) == f'<time datetime="{iso}" title="{iso}">3m12s ago</time>'
    assert rendering.moment(iso, 1770494750.123 - 60) == f'<time datetime="{iso}" title="{iso}">in 1m00s</time>'
    assert rendering.moment("<b>") == "<b>", "no time: as it is, and still to be escaped"
    assert rendering.moment(None) == "–"


def test_commands_in_a_text_are_set_as_code_and_nothing_else_is():
    assert rendering._commands("try `swarm <up>` now\u202e") == "try <code>swarm &lt;up&gt;</code> now\\u202e"
    assert rendering._commands("one ` <b> alone") == "one ` &lt;b&gt; alone"
