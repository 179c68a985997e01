"""Who gets in: tokens, hosts, origins, cookies, proxies; and in which form the others are refused."""

import time

import pytest
from starlette.testclient import TestClient

from swarm.core.access import Scope
from swarm.http.access.session import SESSION_S, session_value
from swarm.http.app import make_app
from swarm.queue.stores.tokens import TokenBook, revoke_token
from tests.helpers.http_access import HOST, gated, http_parts, new_token

COOKIE = "swarm_session_8080"


@pytest.fixture
def parts(tmp_path):
    return http_parts(tmp_path / "queue")


@pytest.fixture
def closed(tmp_path):
    """One that needs tokens."""
    return http_parts(tmp_path / "closed", tokens="always")


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_on_loopback_everybody_on_the_machine_may_do_everything(parts):
    assert gated(parts).post("/swarm/pause").json() == {"name": "local", "scope": "admin", "bytes": 0}


@pytest.mark.parametrize("key", ["sk-1234", "ollama", "x"])
def test_there_the_key_that_a_client_cannot_do_without_does_not_matter(parts, key):
    assert gated(parts).get("/", headers=bearer(key)).json()["name"] == "local"
    assert gated(parts).get("/", headers={"x-api-key": key}).json()["name"] == "local"


def test_but_a_token_of_ours_counts(parts):
    client = gated(parts)
    token = new_token(parts, "alice", "read")
    assert client.get("/", headers=bearer(token)).json() == {"name": "alice", "scope": "read", "bytes": 0}
    assert client.get("/", headers=bearer(token + "x")).status_code == 401
    revoke_token(parts.queue.layout, parts.queue.storage, "alice")
    assert client.get("/", headers=bearer(token)).status_code == 401


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip"])
def test_what_a_proxy_has_passed_on_does_not_come_from_this_machine(parts, header):
    client = gated(parts)
    assert client.get("/", headers={header: "10.0.0.1"}).status_code == 401
    token = new_token(parts, "alice")
    assert client.get("/", headers={header: "10.0.0.1", **bearer(token)}).json()["name"] == "alice"


@pytest.mark.parametrize("http", [{"tokens": "always"}, {"host": "0.0.0.0"}, {"hosts": ["swarm.example.org"]}])
def test_where_others_may_reach_it_a_token_is_needed(tmp_path, http):
    parts = http_parts(tmp_path, **http)
    client = gated(parts)
    token = new_token(parts, "alice", "read")
    assert client.get("/v1/models").status_code == 401
    for headers in ({"authorization": "Bearer"}, {"authorization": f"Basic {token}"}, bearer("sk-1"), {"x-api-key": "sk-1"}):
        assert client.get("/v1/models", headers=headers).status_code == 401
    for headers in (bearer(token), {"authorization": f"bearer  {token} "}, {"x-api-key": token}):
        assert client.get("/v1/models", headers=headers).json()["name"] == "alice"
    assert client.get("/healthz").status_code == 200


def test_a_token_is_valid_as_soon_as_it_is_made_and_no_longer_than_until_it_is_revoked(closed):
    client = gated(closed)
    assert client.get("/v1/models").status_code == 401
    first = new_token(closed, "alice")
    assert client.get("/v1/models", headers=bearer(first)).status_code == 200
    revoke_token(closed.queue.layout, closed.queue.storage, "alice")
    assert client.get("/v1/models", headers=bearer(first)).status_code == 401
    second = new_token(closed, "alice")
    assert client.get("/v1/models", headers=bearer(first)).status_code == 401
    assert client.get("/v1/models", headers=bearer(second)).status_code == 200


def test_a_file_of_tokens_that_is_damaged_or_open_to_others_lets_nobody_in(closed):
    client = gated(closed)
    token = new_token(closed, "alice")
    path = closed.queue.layout.tokens
    with open(path, "r+b") as file:
        whole = file.read()
        file.truncate(20)
    refused = client.get("/v1/models", headers=bearer(token))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "tokens_unreadable")
    with open(path, "wb") as file:
        file.write(whole)
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8080", True),
        ("127.0.0.1", True),
        ("localhost:9999", True),
        ("LOCALHOST", True),
        ("[::1]:8080", True),
        ("192.168.1.7:8080", True),  # no name, so nobody can have turned it here
        ("localhost.", True),
        ("evil.example.org:8080", False),
        ("localhost.evil.example.org", False),
        ("127.0.0.1.nip.io:8080", False),
        ("evil.example.org@127.0.0.1", False),
        ("127.0.0.1:8080/evil", False),
        ("", False),
        ("[::1", False),
        ("a b", False),
    ],
)
def test_only_hosts_of_this_server_are_answered(parts, host, allowed):
    answer = gated(parts).get("/", headers={"host": host})
    assert answer.status_code == (200 if allowed else 403 if host else 400)
    assert allowed or answer.json()["error"]["code"] == "host_not_allowed"


def test_a_host_that_the_configuration_names(tmp_path):
    client = gated(http_parts(tmp_path, hosts=["Swarm.example.org"]))
    assert client.get("/healthz", headers={"host": "swarm.EXAMPLE.org"}).status_code == 200
    assert client.get("/healthz", headers={"host": "other.example.org"}).status_code == 403


OWN = [f"http://{HOST}", f"https://{HOST}"]
FOREIGN = [
    "null",
    "http://evil.example.org",
    "http://127.0.0.1:3000",
    f"http://{HOST}.evil.example.org",
    "",
    f"http://x@{HOST}",
]


@pytest.mark.parametrize("origin", [*OWN, *FOREIGN])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_pages_of_others_are_refused(parts, origin, method):
    answer = gated(parts).request(method, "/", headers={"origin": origin})
    assert answer.status_code == (200 if origin in OWN else 403)


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)])
def test_a_browser_that_hides_the_origin_still_says_that_the_page_is_another_one(parts, site, status):
    assert gated(parts).post("/", headers={"sec-fetch-site": site}).status_code == status
    assert gated(parts).get("/", headers={"sec-fetch-site": site}).status_code == 200  # a link that leads here


def test_pages_that_the_configuration_names_may_read_answers_and_refusals(tmp_path):
    page = "https://chat.example.org"
    client = TestClient(make_app(http_parts(tmp_path, origins=[page], tokens="always")), base_url=f"http://{HOST}")
    asks = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "authorization,x-a"}
    ahead = client.options("/v1/chat/completions", headers=asks)
    assert ahead.status_code == 200
    assert ahead.headers["access-control-allow-origin"] == page
    assert "authorization" in ahead.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in ahead.headers
    for path, status in (("/healthz", 200), ("/v1/models", 401)):
        answer = client.get(path, headers={"origin": page})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, page)
    other = client.get("/healthz", headers={"origin": "https://evil.example.org"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers
    assert client.options("/", headers={**asks, "origin": "https://evil.example.org"}).status_code == 400


def test_a_header_that_says_two_things_is_refused(parts):
    for name in ("host", "origin", "authorization"):
        answer = gated(parts).get("/", headers=[("host", HOST), (name, "a"), (name, "b")])
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, f"the header {name} is there twice")


def sign_in(client, token, **form):
    return client.post("/login", data={"token": token, **form}, headers={"origin": f"http://{HOST}"})


@pytest.fixture
def browser(closed):
    with TestClient(make_app(closed), base_url=f"http://{HOST}", follow_redirects=False) as client:
        yield client


def test_signing_in_and_out(closed, browser):
    to_login = browser.get("/swarm/x", headers={"accept": "text/html"})
    assert (to_login.status_code, to_login.headers["location"]) == (303, "/login?next=/swarm/x")
    assert browser.get("/swarm/x").status_code == 401
    assert "Sign in" in browser.get("/login?next=/swarm/x").text
    token = new_token(closed, "alice", "read")
    assert sign_in(browser, "swarm_wrong").status_code == 401
    assert COOKIE not in browser.cookies
    done = sign_in(browser, f" {token}\n", next="/swarm/x")
    assert (done.status_code, done.headers["location"]) == (303, "/swarm/x")
    said = done.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=strict" in said
    assert token not in said
    assert browser.get("/swarm/x").status_code == 404
    out = browser.post("/logout", headers={"origin": f"http://{HOST}"})
    assert (out.status_code, out.headers["location"]) == (303, "/login")
    assert browser.get("/swarm/x").status_code == 401


@pytest.mark.parametrize("place", ["//evil.example.org", "/\\evil", "https://evil.example.org", "evil", "", "/a\nb"])
def test_signing_in_leads_nowhere_else(closed, browser, place):
    done = sign_in(browser, new_token(closed, "alice"), next=place)
    assert done.headers["location"] == "/"
    page = browser.get("/login", params={"next": place}).text
    assert 'name="next" value="/"' in page


def test_a_form_that_is_no_form_or_too_large(browser):
    assert browser.post("/login", content=b"\xff\xfe=&&", headers={"origin": f"http://{HOST}"}).status_code == 401
    assert browser.post("/login", content=b"a" * 9000, headers={"origin": f"http://{HOST}"}).status_code == 413


def test_a_cookie_serves_its_own_page_only_and_ends_with_its_token_and_time(closed):
    client = gated(closed)
    new_token(closed, "alice", "submit")
    book = TokenBook(closed.queue.layout)
    record = book.named("alice")
    good = session_value(record, time.time())

    def asked(value, method="GET", **headers):
        cookie = f"a=b; {COOKIE}={value}; c".encode()
        return client.request(method, "/v1/files", headers={"cookie": cookie, **headers}).status_code

    assert asked(good) == 200
    assert asked(good, "POST", origin=f"http://{HOST}") == 200
    assert asked(good, "POST", **{"sec-fetch-site": "same-origin"}) == 200
    assert asked(good, "POST") == 403
    assert asked(good, "POST", origin="http://evil.example.org") == 403
    assert asked(session_value(record, time.time() - SESSION_S - 1)) == 401
    name, ends_s, signature = good.split(".")
    for bad in (f"bob.{ends_s}.{signature}", f"{name}.{int(ends_s) + 1}.{signature}", f"{name}.{ends_s}.0", "", "..."):
        assert asked(bad) == 401
    for bad in (f"{name}.٣.x", f"{name}.{ends_s}.é", f"é.{ends_s}.0"):
        assert asked(bad) == 401
    revoke_token(closed.queue.layout, closed.queue.storage, "alice")
    new_token(closed, "alice", "admin")
    assert asked(good) == 401


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/api/chat", {"error": str}),
        ("/v1/chat/completions", {"error": dict}),
        ("/swarm/status", {"error": dict}),
    ],
)
def test_each_api_is_refused_in_its_own_form(closed, path, form):
    answer = gated(closed).post(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    error = answer.json()["error"]
    assert isinstance(error, form["error"])
    if isinstance(error, dict):
        assert (error["type"], error["code"]) == ("authentication_error", "missing_api_key")


def test_scopes_that_are_too_small_are_named(closed):
    token = new_token(closed, "alice", Scope.READ)
    error = gated(closed).post("/v1/batches", headers=bearer(token)).json()["error"]
    assert (error["code"], error["message"]) == (
        "insufficient_scope",
        "this needs the scope submit; the token alice has read",
    )
