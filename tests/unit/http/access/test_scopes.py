"""Which scope each route of the application needs: all of them are in the table, and the gate keeps to it."""

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from swarm.core.access import Scope
from swarm.http.access.scopes import UNLISTED, rule_for
from swarm.http.app import make_app
from swarm.http.openapi import PATH
from tests.helpers.http_access import HOST, gated, http_parts, new_token

OPEN = {("GET", "/healthz"), ("GET", "/login"), ("POST", "/login"), ("POST", "/logout"), ("GET", "/static/x")}


def routes(parts) -> list[tuple[str, str]]:
    """Method and path of every route, with ``x`` for each parameter."""
    found = []
    for route in make_app(parts).routes:
        assert isinstance(route, Route), f"{route}: a mount would hide what is below it"
        path = "".join(part if n % 2 == 0 else "x" for n, part in enumerate(route.path.replace("}", "{").split("{")))
        found += [(method, path) for method in sorted(route.methods or {"GET"}) if method != "HEAD"]
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return http_parts(tmp_path_factory.mktemp("scopes") / "queue", tokens="always")


@pytest.fixture(scope="module")
def tokens(parts):
    return {scope: new_token(parts, f"a-{scope}", scope) for scope in Scope}


def test_every_route_is_in_the_table(parts):
    assert [route for route in routes(parts) if rule_for(*route) is UNLISTED] == []


def test_the_openapi_document_says_the_same(parts, tokens):
    client = TestClient(
        make_app(parts), base_url=f"http://{HOST}", headers={"authorization": f"Bearer {tokens[Scope.READ]}"}
    )
    documented = client.get(PATH).json()["paths"]
    said = {(method.upper(), path): one["x-scope"] for path, each in documented.items() for method, one in each.items()}
    assert len(said) > 20
    assert {route: str(rule_for(*route).scope) for route in said} == said


def test_what_is_open_to_everybody_is_this_and_no_more(parts):
    assert {route for route in routes(parts) if rule_for(*route).scope is None} <= OPEN


def test_every_scope_on_every_route(parts, tokens):
    client = gated(parts)
    for method, path in routes(parts):
        needed = rule_for(method, path).scope
        for scope in (None, *Scope):
            headers = {} if scope is None else {"authorization": f"Bearer {tokens[scope]}"}
            status = client.request(method, path, headers=headers).status_code
            allowed = needed is None or (scope is not None and scope.covers(needed))
            wanted = 200 if allowed else 401 if scope is None else 403
            assert status == wanted, (method, path, scope, status)


def test_scopes_include_one_another():
    assert [[one.covers(other) for other in Scope] for one in Scope] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/files/file-1/content", Scope.READ),
        ("HEAD", "/v1/files/file-1", Scope.READ),
        ("PUT", "/v1/files/file-1", Scope.ADMIN),
        ("GET", "/v1/filesystem", Scope.ADMIN),
        ("POST", "/swarm/pause", Scope.ADMIN),
        ("GET", "//healthz", Scope.ADMIN),
        ("GET", "/healthz/", Scope.ADMIN),
        ("GET", "", Scope.ADMIN),
    ],
)
def test_the_nearest_entry_counts_and_what_has_none_needs_admin(method, path, scope):
    assert rule_for(method, path).scope == scope
