// The console's wiring: the form, the open job with its connection, and the list of the last jobs.

import { Answer } from "./answer.js";
import { apiKey, call, newKey, Problem } from "./api.js";
import { openStream } from "./stream.js";
import { AnswerView, bringIntoView, element, jobItem, markField, note, resetNote, showProblem } from "./view.js";

const AUTO_RESUME_MS = 1500;
const REFRESH_MS = 250;
const LISTED_JOBS = 20;
const MODELS = {
  scripted: "demo",
  openai: "gpt-4o-mini",
  anthropic: "claude-haiku-4-5-20251001",
  langchain: "openai:gpt-4o-mini",
};
/** Which field of the page holds which field of the request. */
const FIELD_IDS = {
  prompt: "prompt", messages: "prompt", provider: "provider", model: "model", system: "system",
  on_interrupt: "on-interrupt", params: "params",
};
/** The connection's states: what is said, and which buttons make sense. */
const LINKS = {
  idle: { text: "not connected" },
  connecting: { text: "connecting …", cut: true },
  live: { text: "connected", cut: true },
  retrying: { text: "connection lost; reconnecting by itself …", cut: true },
  cut: { text: "cut here; the answer goes on without us", resume: "Resume" },
  closed: { text: "closed by the node for good", resume: "Reconnect" },
  ended: { text: "ended; connection closed" },
};

const byId = (id) => document.getElementById(id);
const view = new AnswerView();
/** The open job: {id, answer, stream, opens, timer}. `timer` resumes a cut connection. */
let current = null;

// -- the open job and its connection

function openJob(id) {
  closeJob();
  current = { id, answer: new Answer(), stream: null, opens: 0, timer: 0 };
  byId("job").textContent = id;
  document.title = `${id.slice(-6)} · Tailrace console`;
  showRefusal(null);
  view.attach(current.answer);
  connect();
  bringIntoView();
  void refreshJobs();
}

function closeJob() {
  if (current) {
    clearTimeout(current.timer);
    current.stream?.close();
  }
  current = null;
  byId("job").textContent = "";
  document.title = "Tailrace console";
  view.attach(null);
  setLink("idle");
}

function connect() {
  const job = current;
  clearTimeout(job.timer);
  const from = job.answer.cursor;
  showProblem("stream-error", null);
  setLink("connecting");
  job.stream = openStream(job.id, {
    cursor: from,
    key: apiKey.get(),
    on: {
      open: () => opened(job),
      event: (type, id, data) => take(job, type, id, data),
      retry: () => lostConnection(job),
      closed: (problem) => void closedForGood(job, problem),
    },
  });
}

function opened(job) {
  job.opens += 1;
  setLink("live");
  if (job.opens === 1) return note("connected from the start");
  byId("resumes").textContent = String(job.opens - 1);
  const from = job.answer.cursor || "the start";
  view.seam(`resumed from ${from}`);
  note(`resumed from ${from}`, "good");
}

function take(job, type, id, data) {
  const isNew = job.answer.take(type, id, data);
  if (isNew && type === "reset") note(resetNote(data), "warn");
  if (isNew && job.answer.ended) ended(job);
  if (!["token", "reasoning", "tool_call"].includes(type)) refreshSoon();
  view.touch();
}

/** EventSource would come back after the end and be told 204; we know already. */
function ended(job) {
  job.stream.close();
  setLink("ended");
  const { status, lost, doubled } = job.answer;
  note(`${status}: ${lost} lost, ${doubled} doubled`, status === "done" ? "good" : "warn");
}

function lostConnection(job) {
  if (byId("connection").dataset.link !== "retrying") note(`connection lost at ${job.answer.cursor || "the start"}`, "warn");
  setLink("retrying");
}

/** The browser does not say why it gave up; the job's own page may. */
async function closedForGood(job, problem) {
  setLink("closed");
  note("the node closed the connection for good", "bad");
  const why = problem ?? (await call("GET", `/jobs/${encodeURIComponent(job.id)}`).catch((error) => error));
  if (job === current && why instanceof Problem) showProblem("stream-error", why);
}

function cut() {
  const job = current;
  job.stream.close();
  view.flush();
  setLink("cut");
  note(`cut at ${job.answer.cursor || "the start"}`, "warn");
  if (byId("auto-resume").checked) job.timer = setTimeout(connect, AUTO_RESUME_MS);
}

async function cancel() {
  try {
    await call("POST", `/jobs/${encodeURIComponent(current.id)}/cancel`);
    if (!byId("resume").disabled) connect();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    showProblem("stream-error", problem);
  }
}

function setLink(state) {
  const link = LINKS[state];
  const line = byId("connection");
  line.textContent = link.text;
  line.dataset.link = state;
  byId("answer").setAttribute("aria-busy", String(Boolean(link.cut)));
  const focused = document.activeElement;
  byId("cut").disabled = !link.cut;
  byId("resume").disabled = !link.resume;
  byId("resume").textContent = link.resume ?? "Resume";
  byId("cancel").disabled = !current || state === "ended";
  if (state === "idle") byId("resumes").textContent = "0";
  // Whoever works by keyboard stays where the next step is.
  if (focused === byId("cut") && link.resume) byId("resume").focus();
  if (focused === byId("resume") && link.cut) byId("cut").focus();
}

// -- the form

/** The last POST that nobody answered. The same body again is the same intent: it goes under the same key. */
let unanswered = { body: "", key: "" };

async function submit() {
  const button = byId("submit");
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    const job = await post(requestBody());
    location.hash = `job=${job.id}`;
    openJob(job.id);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    showRefusal(problem);
  } finally {
    button.ariaBusy = "false";
  }
}

/** Show why the form was not taken; null: it was. */
function showRefusal(problem) {
  showProblem("error", problem);
  markField(problem?.status === 401 ? "api-key" : FIELD_IDS[problem?.field.split(".")[0]]);
}

async function post(request) {
  const body = JSON.stringify(request);
  if (unanswered.body !== body) unanswered = { body, key: newKey() };
  const headers = { "Content-Type": "application/json", "Idempotency-Key": unanswered.key };
  try {
    const job = await call("POST", "/jobs", { body, headers });
    unanswered = { body: "", key: "" };
    return job;
  } catch (problem) {
    if (problem.status) unanswered = { body: "", key: "" };
    throw problem;
  }
}

function requestBody() {
  const provider = byId("provider").value;
  const body = { provider, model: byId("model").value.trim(), prompt: byId("prompt").value };
  if (byId("system").value.trim()) body.system = byId("system").value;
  if (byId("on-interrupt").value !== "restart") body.on_interrupt = byId("on-interrupt").value;
  const params = { ...(provider === "scripted" ? scriptedParams() : {}), ...extraParams() };
  if (Object.keys(params).length > 0) body.params = params;
  return body;
}

function scriptedParams() {
  const given = Object.entries({ tokens: byId("tokens"), tokens_per_s: byId("rate") });
  return Object.fromEntries(given.filter(([, field]) => field.value).map(([name, field]) => [name, Number(field.value)]));
}

function extraParams() {
  const text = byId("params").value.trim();
  try {
    const params = JSON.parse(text || "{}");
    if (Object.prototype.toString.call(params) === "[object Object]") return params;
  } catch {
    // Told below, as any other value that is not an object.
  }
  throw new Problem({ title: "The parameters are not a JSON object", detail: "Mend the field, or empty it.", field: "params" });
}

const modelOf = { ...MODELS };
let shownProvider = byId("provider").value;

/** Each provider keeps the model that was last typed for it. */
function changeProvider() {
  modelOf[shownProvider] = byId("model").value;
  shownProvider = byId("provider").value;
  byId("model").value = modelOf[shownProvider];
  showScripted();
}

function showScripted() {
  byId("scripted").hidden = byId("provider").value !== "scripted";
}

// -- the list of the last jobs

let refreshTimer = 0;
let listing = 0;

function refreshSoon() {
  clearTimeout(refreshTimer);
  refreshTimer = setTimeout(() => void refreshJobs(), REFRESH_MS);
}

async function refreshJobs() {
  const line = byId("jobs-note");
  const mine = ++listing;
  try {
    const { data } = await call("GET", `/jobs?limit=${LISTED_JOBS}`);
    if (mine !== listing) return; // A later look has overtaken this one.
    showJobs(data);
    line.textContent = "No jobs yet.";
    line.hidden = data.length > 0;
  } catch (problem) {
    line.replaceChildren(element("span", `The list cannot be read: ${problem.title}. ${problem.message}`));
    line.hidden = false;
  }
}

/** Fill the list; the link that has the focus keeps it. */
function showJobs(jobs) {
  const focused = document.activeElement?.closest("#jobs a")?.hash;
  byId("jobs").replaceChildren(...jobs.map((job) => jobItem(job, current?.id)));
  if (focused) document.querySelector(`#jobs a[href="${CSS.escape(focused)}"]`)?.focus();
}

// -- the page

/** `#job=…` names the open job, so that a reload or a link comes back to it. */
function followHash() {
  const id = /^#job=([\w-]{1,64})$/.exec(location.hash)?.[1];
  if (id && id !== current?.id) openJob(id);
  if (!id && current) closeJob();
}

function changeKey() {
  const field = byId("api-key");
  if (!field.reportValidity()) return;
  apiKey.set(field.value);
  if (current) openJob(current.id);
  else void refreshJobs();
}

function start() {
  byId("api-key").value = apiKey.get();
  byId("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    void submit();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void submit();
  });
  byId("provider").addEventListener("change", changeProvider);
  byId("cut").addEventListener("click", cut);
  byId("resume").addEventListener("click", connect);
  byId("cancel").addEventListener("click", () => void cancel());
  byId("refresh").addEventListener("click", () => void refreshJobs());
  byId("api-key").addEventListener("change", changeKey);
  window.addEventListener("hashchange", followHash);
  // The browser may give a reloaded form its values back after the script has run.
  window.addEventListener("pageshow", () => {
    shownProvider = byId("provider").value;
    showScripted();
  });
  followHash();
  if (!current) void refreshJobs();
}

start();
