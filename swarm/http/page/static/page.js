// The page's only script: keeps what is shown fresh, sends the verbs, uploads a batch, streams an answer.
// It writes text of others as text, never as HTML, and asks this server alone.
"use strict";

const notice = document.getElementById("notice");

/** Show a line under the head; an empty one hides it. */
function tell(text, bad = false) {
  notice.hidden = !text;
  notice.classList.toggle("bad", bad);
  if (notice.textContent !== text) notice.textContent = text;
}

// ---- Freshness: the same page is asked for again, and what differs is put in place.

const REFRESH_MS = Number(document.body.dataset.refreshMs || 0);
const SLOWEST_MS = 30000;
const UNATTENDED_MS = 600000;
let timer = 0;
let asking = null;
let failures = 0;
let seenAt = new Date();
let touchedAt = Date.now();

/** Make `old` like `fresh`, keeping every node that can stay: focus, selection, open details and scroll survive. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || (old.id || "") !== (fresh.id || "")) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.hasAttribute("data-keep")) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const followed = old.hasAttribute("data-follow") && old.scrollTop + old.clientHeight >= old.scrollHeight - 8;
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, i) => (i < before.length ? morph(before[i], node) : old.append(node)));
  before.slice(after.length).forEach((node) => node.remove());
  if (followed) old.scrollTop = old.scrollHeight;
}

class Refused extends Error {}

async function refresh() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = new AbortController();
  const limit = setTimeout(() => asking.abort(), 15000);
  try {
    const answer = await fetch(location.href, { signal: asking.signal, headers: { Accept: "text/html" } });
    if (answer.status === 401 || answer.redirected) {
      tell("You are signed out. Reload the page to sign in.", true);
      return;
    }
    const text = await answer.text();
    if (!answer.ok && answer.status !== 404) throw new Refused(answer.status);
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const id of ["state", "main"]) {
      const fresh = page.getElementById(id);
      if (fresh) morph(document.getElementById(id), document.adoptNode(fresh));
    }
    if (document.title !== page.title) document.title = page.title;
    if (failures) tell("");
    failures = 0;
    seenAt = new Date();
  } catch (problem) {
    failures += 1;
    const how = problem instanceof Refused ? `answers with status ${problem.message}` : "does not answer";
    const what = problem instanceof Refused ? "`swarm logs http` says why." : "`swarm up --http` starts it.";
    if (failures > 1) tell(`The HTTP server ${how}; what is shown is from ${seenAt.toLocaleTimeString()}. ${what}`, true);
  } finally {
    clearTimeout(limit);
    asking = null;
    document.body.classList.toggle("unseen", failures > 1);
    again();
  }
}

function again() {
  const unattended = Date.now() - touchedAt > UNATTENDED_MS;
  const wait = failures ? Math.min(SLOWEST_MS, REFRESH_MS * 2 ** failures) : REFRESH_MS * (unattended ? 5 : 1);
  clearTimeout(timer);
  timer = setTimeout(refresh, wait);
}

if (REFRESH_MS) {
  for (const kind of ["pointerdown", "keydown", "wheel"]) {
    addEventListener(kind, () => (touchedAt = Date.now()), { passive: true });
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  again();
}
for (const box of document.querySelectorAll("[data-follow]")) box.scrollTop = box.scrollHeight;

// ---- Answers of the API

/** The document of an answer; throws what its error says. */
async function documentOf(answer) {
  const text = await answer.text();
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    // no JSON: the status says it
  }
  if (answer.ok) return found;
  throw new Error(reason(found, answer.status));
}

function reason(found, status) {
  const error = found && found.error;
  if (!error) return `The server answered with status ${status}.`;
  if (typeof error === "string") return error;
  return [error.message, error.hint].filter(Boolean).join(" – ");
}

// ---- Verbs: a form with data-verb is sent without leaving the page.

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.hasAttribute("data-verb")) return;
  event.preventDefault();
  if (form.dataset.confirm && !confirm(form.dataset.confirm)) return;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const sent = { method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: "{}" };
    await documentOf(await fetch(form.action, sent));
    tell(`${form.dataset.verb}: done.`);
  } catch (error) {
    tell(`${form.dataset.verb}: ${error.message}`, true);
  }
  button.disabled = false;
  refresh();
});

// ---- A batch from a file

const upload = document.getElementById("upload");
if (upload) {
  const said = document.getElementById("upload-said");
  const bar = document.getElementById("upload-progress");
  const problems = document.getElementById("upload-problems");

  upload.elements.file.addEventListener("change", async () => {
    const [file] = upload.elements.file.files;
    problems.replaceChildren();
    said.textContent = "";
    if (!file) return;
    try {
      const head = await file.slice(0, 262144).text();
      const { url } = JSON.parse(head.split("\n", 1)[0]);
      if ([...upload.elements.endpoint.options].some((option) => option.value === url)) upload.elements.endpoint.value = url;
    } catch {
      // a long or broken first line: the server says so, with its number
    }
  });

  upload.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = upload.querySelector("button");
    button.disabled = true;
    problems.replaceChildren();
    try {
      const [file] = upload.elements.file.files;
      said.textContent = "Uploading …";
      bar.hidden = false;
      const stored = await send(file);
      said.textContent = "Starting the batch …";
      await start(stored.id);
    } catch (error) {
      said.textContent = error.message;
      said.className = "said bad";
    }
    bar.hidden = true;
    button.disabled = false;
  });

  /** XMLHttpRequest, for fetch does not tell how much was sent. */
  function send(file) {
    const body = new FormData();
    body.append("purpose", "batch");
    body.append("file", file);
    said.className = "said";
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", "/v1/files");
      request.responseType = "json";
      request.upload.onprogress = (event) => {
        if (event.lengthComputable) bar.value = event.loaded / event.total;
      };
      request.onerror = () => reject(new Error("The connection was lost; nothing was started."));
      request.onload = () =>
        request.status < 300 ? resolve(request.response) : reject(new Error(reason(request.response, request.status)));
      request.send(body);
    });
  }

  async function start(fileId) {
    const wanted = { input_file_id: fileId, endpoint: upload.elements.endpoint.value, completion_window: "24h" };
    const headers = { "Content-Type": "application/json" };
    let batch = await documentOf(await fetch("/v1/batches", { method: "POST", headers, body: JSON.stringify(wanted) }));
    while (batch.status === "validating") {
      said.textContent = "Checking its lines …";
      await new Promise((resolve) => setTimeout(resolve, 500));
      batch = await documentOf(await fetch(`/v1/batches/${encodeURIComponent(batch.id)}`));
    }
    const found = (batch.errors && batch.errors.data) || [];
    if (batch.status !== "failed") {
      location.assign(`/batches/${encodeURIComponent(batch.id)}`);
      return;
    }
    for (const one of found) {
      const item = document.createElement("li");
      item.textContent = `${one.line ? `line ${one.line}: ` : ""}${one.message || one.code}`;
      problems.append(item);
    }
    throw new Error("Nothing was started: the file has errors.");
  }
}

// ---- A prompt, answered while one watches

const attempt = document.getElementById("try");
if (attempt) {
  const output = document.getElementById("try-answer");
  const said = document.getElementById("try-said");
  const stop = document.getElementById("try-stop");
  let running = null;

  // What no worker holds or waits for can be asked too: it is loaded then.
  fetch("/v1/models")
    .then(documentOf)
    .then(({ data }) => {
      const list = document.getElementById("models");
      const known = new Set([...list.options].map((option) => option.value));
      for (const { id } of data) {
        if (known.has(id)) continue;
        const option = document.createElement("option");
        option.value = id;
        list.append(option);
      }
      if (!attempt.elements.model.value && list.options.length) attempt.elements.model.value = list.options[0].value;
    })
    .catch((error) => tell(`The models are not known: ${error.message}`, true));

  stop.addEventListener("click", () => running && running.abort());
  attempt.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) attempt.requestSubmit();
  });
  attempt.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    stop.hidden = false;
    output.textContent = "";
    output.hidden = false;
    said.className = "said";
    said.textContent = "Waiting for a card …";
    const began = performance.now();
    try {
      const sum = await answer(began);
      const rest = sum.tokens && sum.last > sum.first ? `, ${((sum.tokens / (sum.last - sum.first)) * 1000).toFixed(1)} tokens/s` : "";
      const tokens = sum.tokens ? `${sum.tokens} tokens, ` : "";
      said.textContent = `${tokens}first after ${((sum.first - began) / 1000).toFixed(2)} s${rest}${sum.end === "length" ? "; cut at the limit" : ""}`;
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "Stopped." : error.message;
      said.className = error.name === "AbortError" ? "said" : "said bad";
    }
    running = null;
    stop.hidden = true;
  });

  async function answer(began) {
    const { model, system, prompt, limit } = attempt.elements;
    const messages = [{ role: "user", content: prompt.value }];
    if (system.value) messages.unshift({ role: "system", content: system.value });
    const wanted = { model: model.value, messages, stream: true, stream_options: { include_usage: true } };
    if (limit.value) wanted.max_tokens = Number(limit.value);
    const headers = { "Content-Type": "application/json" };
    const sent = { method: "POST", headers, body: JSON.stringify(wanted), signal: running.signal };
    const reply = await fetch("/v1/chat/completions", sent);
    if (!reply.ok) await documentOf(reply);
    const sum = { first: began, last: began, tokens: 0, end: "" };
    for await (const piece of events(reply.body)) {
      if (piece.error) throw new Error(reason(piece, 502));
      const choice = (piece.choices || [])[0];
      const text = choice && choice.delta && choice.delta.content;
      if (text) {
        if (sum.first === began) {
          sum.first = performance.now();
          said.textContent = "";
        }
        sum.last = performance.now();
        output.append(text);
      }
      if (choice && choice.finish_reason) sum.end = choice.finish_reason;
      if (piece.usage) sum.tokens = piece.usage.completion_tokens;
    }
    return sum;
  }
}

/** The documents of a stream of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
