"""The page in a real browser: a file becomes a batch, its result is downloaded, by keyboard; it stays fresh; it is safe."""

import json
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Error

from swarm.proc.ports import free_port
from tests.helpers.browser import Tab, started
from tests.helpers.cli import User, user
from tests.helpers.httpclients import jsonl, line
from tests.helpers.wait import wait_until

HOSTILE = "<img src=x onerror=alert(1)><script>document.title='owned'</script>\u202e"


class Swarm:
    """A swarm of one simulated card with its HTTP server, and a browser."""

    def __init__(self, person: User, port: int, browser) -> None:
        self.user = person
        self.url = f"http://127.0.0.1:{port}"
        self.new_context = browser.new_context

    def open(self, path: str, **context) -> Tab:
        tab = Tab(self.new_context(**context), self.url)
        tab.page.goto(f"{self.url}{path}")
        return tab


@pytest.fixture(scope="module")
def swarm(tmp_path_factory) -> Iterator[Swarm]:
    with started() as browser, user(tmp_path_factory.mktemp("page")) as person:
        port = free_port()
        person.ok("up", "--simulate", "1", "--http", str(port), "--detach", timeout_s=300)
        yield Swarm(person, port, browser)


@pytest.fixture
def tab(swarm, request) -> Iterator[Tab]:
    """Opened at the path that the test asks for; nothing untoward may have happened in the end."""
    opened = swarm.open(request.param)
    yield opened
    opened.context.close()
    assert opened.troubles == []


@pytest.mark.parametrize("tab", ["/new"], indirect=True)
def test_by_keyboard_alone_a_file_becomes_a_batch_and_its_result_is_downloaded(swarm, tab, tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_bytes(jsonl(*(line(f"item-{i}", HOSTILE) for i in range(20))))
    page = tab.page
    page.locator("input[type=file]").set_input_files(file)  # the dialog of the system is not the page's
    tab.tab_to("Upload and start")
    tab.press("Enter")
    page.wait_for_url("**/batches/batch_*")
    page.get_by_role("link", name="Output").wait_for()
    assert page.locator(".title .mark").inner_text() == "completed"
    tab.tab_to("Output")
    with page.expect_download() as begun:
        tab.press("Enter")
    rows = [json.loads(row) for row in begun.value.path().read_text().splitlines()]
    assert {row["custom_id"] for row in rows} == {f"item-{i}" for i in range(20)}
    assert all(row["response"]["status_code"] == 200 for row in rows)


@pytest.mark.parametrize("tab", ["/new"], indirect=True)
def test_the_errors_of_lines_are_shown_and_nothing_is_started(swarm, tab, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_bytes(jsonl(line("a"), line("b", url="/v1/nowhere")) + b"{broken\n")
    tab.page.locator("input[type=file]").set_input_files(file)
    tab.page.get_by_role("button", name="Upload and start").click()
    problems = tab.page.locator("#upload-problems li")
    problems.first.wait_for()
    found = problems.all_inner_texts()
    assert any(text.startswith("line 2:") for text in found), found
    assert any(text.startswith("line 3:") for text in found), found
    assert "Nothing was started" in tab.page.locator("#upload-said").inner_text()


@pytest.mark.parametrize("tab", ["/"], indirect=True)
def test_it_stays_fresh_and_what_others_wrote_is_text(swarm, tab):
    page = tab.page
    page.get_by_role("link", name="worker-1").wait_for()
    page.get_by_label("Find a task, batch or worker").fill("typed")
    prompts = swarm.user.folder / "odd <b>.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": HOSTILE, "id": f"{HOSTILE}{i}"}) + "\n" for i in range(3)))
    batch_id = swarm.user.json("submit", str(prompts), "--model", "llama3.2:3b")["batch_id"]
    page.get_by_role("link", name=batch_id).wait_for()
    assert page.get_by_label("Find a task, batch or worker").input_value() == "typed", "what is being typed stays"
    page.get_by_role("link", name=batch_id).click()
    page.locator(".title .mark", has_text="finished").wait_for()
    task_id = next(swarm.user.queue.batches().task_ids(batch_id))
    page.get_by_label("Find a task, batch or worker").fill(task_id)
    tab.press("Enter")
    page.wait_for_url("**/tasks/*")
    page.locator("details summary").first.click()
    assert HOSTILE[:28] in page.locator("details pre").first.inner_text()
    assert page.title() == f"completed {task_id} – swarm"


@pytest.mark.parametrize("tab", ["/batches"], indirect=True)
def test_a_batch_is_cancelled_and_what_was_is_retried(swarm, tab):
    page = tab.page
    batch_id = swarm.user.json("submit", str(swarm.user.prompts(4)), "--model", "llama3.2:3b", "--delay", "1h")["batch_id"]
    page.get_by_role("link", name=batch_id).click()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#notice", has_text="Cancel: done.").wait_for()
    page.get_by_role("button", name="Retry failed").click()
    page.locator("#notice", has_text="Retry failed: done.").wait_for()
    page.get_by_role("button", name="Cancel").wait_for()
    assert swarm.user.json("batch", "show", batch_id)["batch"]["left"] == 4


@pytest.mark.parametrize("tab", ["/new"], indirect=True)
def test_a_prompt_is_answered_while_one_watches(swarm, tab):
    page = tab.page
    page.wait_for_function("document.querySelector('#try input[name=model]').value")
    page.get_by_label("Model").fill("llama3.2:3b")
    page.get_by_label("Prompt", exact=True).fill("Why is the sky blue?")
    tab.press("Control+Enter")
    page.locator("#try-said", has_text="tokens, first after").wait_for()
    assert page.locator("#try-answer").inner_text().startswith("[simulated]")
    assert page.get_by_text("The model servers are simulated").is_visible()
    page.get_by_label("Model").fill("nobody-has-this")
    page.get_by_role("button", name="Ask").click()
    page.locator("#try-said.bad", has_text="nobody-has-this").wait_for()
    tab.troubles[:] = [trouble for trouble in tab.troubles if "404" not in trouble]  # what the browser says of an answer


@pytest.mark.parametrize("tab", ["/workers/worker-1"], indirect=True)
def test_a_server_that_does_not_answer_is_said_and_so_is_its_return(swarm, tab):
    page = tab.page
    tab.context.set_offline(True)
    notice = page.locator("#notice", has_text="does not answer")
    notice.wait_for()
    assert "swarm up --http" in notice.inner_text()
    tab.context.set_offline(False)
    notice.wait_for(state="hidden")
    tab.troubles[:] = [trouble for trouble in tab.troubles if "ERR_INTERNET_DISCONNECTED" not in trouble]


def test_on_a_phone_and_in_the_dark_nothing_is_wider_than_the_screen(swarm):
    tab = swarm.open("/", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme="dark")
    for path in ("/", "/batches", "/workers/worker-1", "/new"):
        tab.page.goto(f"{swarm.url}{path}")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390, path
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    tab.context.close()
    assert tab.troubles == []


def test_a_server_alone_says_what_is_missing_and_can_be_read_without_the_script(swarm):
    swarm.user.ok("down", "--now", timeout_s=120)
    port = free_port()
    with swarm.user.start("http", "--listen", str(port)) as server:
        try:
            tab = Tab(swarm.new_context(java_script_enabled=False), f"http://127.0.0.1:{port}")
            alarm = tab.page.locator(".alarms", has_text="nothing is running")
            wait_until(lambda: opened(tab, f"http://127.0.0.1:{port}/") and alarm.is_visible(), what="the server says so")
            assert tab.page.locator(".alarms code").first.inner_text() == "swarm up"
            assert tab.page.get_by_role("link", name="worker-1").is_visible(), "who was there last"
            tab.context.close()
        finally:
            server.send_signal(signal.SIGTERM)


def opened(tab: Tab, url: str) -> bool:
    try:
        return tab.page.goto(url) is not None
    except Error:
        return False
