// What a person sees of one answer: text, reasoning, tool calls, the facts, and notes on what happened to it.

const BLOCK = 8192;
const MOST_NOTES = 50;
const BOTTOM_PX = 12;

const byId = (id) => document.getElementById(id);

/** An element with text in it; a server's words come in by this way only. */
export function element(tag, text = "", className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

/** Milliseconds for people. */
export function duration(ms) {
  if (ms == null) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

function put(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

/** A box that a text grows in, in blocks cut at line ends, so that a token lays out its block and not the whole. */
class TextBox {
  #box;
  #block = null;
  #size = 0;

  constructor(box) {
    this.#box = box;
  }

  show({ text, rewritten }) {
    if (!text && !rewritten) return;
    const follow = this.#atBottom();
    if (rewritten) this.clear();
    this.#append(text);
    if (follow) this.#box.scrollTop = this.#box.scrollHeight;
  }

  clear() {
    this.#box.replaceChildren();
    this.#block = null;
  }

  /** Mark the place where a connection ended and the next one took over. */
  seam(title) {
    if (this.#block === null) return;
    const mark = element("i", "", "seam");
    mark.title = title;
    this.#block.append(mark);
  }

  #atBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    return scrollHeight - scrollTop - clientHeight < BOTTOM_PX;
  }

  #append(text) {
    let rest = text;
    while (rest) {
      if (this.#block === null) this.#open();
      const lineEnd = rest.indexOf("\n", Math.max(0, BLOCK - this.#size)) + 1;
      const piece = lineEnd > 0 ? rest.slice(0, lineEnd) : rest;
      this.#block.append(piece);
      this.#size += piece.length;
      if (lineEnd > 0) this.#block = null;
      rest = rest.slice(piece.length);
    }
  }

  #open() {
    this.#block = element("div");
    this.#size = 0;
    this.#box.append(this.#block);
  }
}

/** Shows an answer, at most once a frame however fast its events come. */
export class AnswerView {
  #answer = null;
  #frame = 0;
  #text = new TextBox(byId("answer"));
  #reasoning = new TextBox(byId("reasoning"));

  /** Show this answer from its beginning; null: none. */
  attach(answer) {
    this.#answer = answer;
    this.#text.clear();
    this.#reasoning.clear();
    byId("notes").replaceChildren();
    this.flush();
  }

  /** Something has changed. */
  touch() {
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Show what has changed now. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const answer = this.#answer;
    if (answer) {
      this.#text.show(answer.text.drain());
      this.#reasoning.show(answer.reasoning.drain());
    }
    byId("reasoning-box").hidden = byId("reasoning").childNodes.length === 0;
    showTools(answer?.tools ?? new Map());
    showFacts(answer);
    showOutcome(answer);
  }

  /** Mark in the text where the reading was broken off and taken up again. */
  seam(title) {
    this.flush();
    this.#text.seam(title);
  }
}

function showTools(tools) {
  const calls = [...tools].sort(([one], [other]) => one - other).map(([, call]) => call);
  const lines = calls.map((call) => `${call.name}(${call.arguments})`);
  const shown = Array.from(byId("tools").children, (item) => item.textContent);
  if (lines.join("\0") !== shown.join("\0")) {
    byId("tools").replaceChildren(...lines.map((line) => element("li", line, "mono")));
  }
  byId("tools-box").hidden = lines.length === 0;
}

function showFacts(answer) {
  const timings = answer?.timings ?? {};
  put("attempt", String(answer?.attempt ?? "–"));
  put("queue", duration(timings.queue_ms));
  put("ttft", duration(timings.ttft_ms));
  put("latency", duration(timings.latency_ms));
  put("speed", timings.tokens_per_s?.toFixed(1) ?? "–");
  put("token-count", String(answer ? (answer.tokens ?? "–") : "–"));
  put("cursor", answer?.cursor || "–");
  for (const name of ["lost", "doubled"]) {
    put(name, String(answer?.[name] ?? 0));
    byId(name).dataset.count = byId(name).textContent;
  }
  showStatus(answer?.status ?? "idle");
}

function showStatus(status) {
  put("status", status);
  byId("status").dataset.status = status;
  byId("answer").dataset.placeholder = {
    idle: "Submit a prompt, or open one of the last jobs.",
    opening: "Opening …",
    queued: "Waiting for a worker …",
    running: "Waiting for the first token …",
  }[status] ?? "No text.";
}

/** A job that failed or was cancelled: why, and whether trying again may help. */
function showOutcome(answer) {
  const box = byId("failure");
  const lines = outcomeLines(answer?.status, answer?.outcome);
  box.hidden = lines.length === 0;
  if (box.childNodes.length !== lines.length) box.replaceChildren(...lines);
}

function outcomeLines(status, outcome) {
  if (status === "cancelled") return [element("strong", `Cancelled: ${outcome.reason}`)];
  if (status !== "failed") return [];
  const advice = outcome.retryable ? "Trying again may help." : "Trying again will not help as it is.";
  return [element("strong", `Failed: ${outcome.code}`), element("p", outcome.message), element("p", advice)];
}

/** Note what happened; `kind` colours it. The oldest notes go. */
export function note(text, kind = "") {
  const list = byId("notes");
  const item = element("li", "", kind);
  item.append(element("time", new Date().toLocaleTimeString()), " ", element("span", text));
  list.append(item);
  while (list.children.length > MOST_NOTES) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}

/** What a `reset` did, in words. */
export function resetNote({ attempt, keep, reason, snapshot }) {
  if (snapshot) return `snapshot: the log no longer holds the cursor (${reason}); the text was set anew`;
  const what = keep === 0 ? "started afresh" : `went on after ${keep} characters`;
  return `attempt ${attempt}: ${what}: ${reason}`;
}

/** Show in this box why a call was refused; null: there is no reason any more. */
export function showProblem(boxId, problem) {
  const box = byId(boxId);
  box.hidden = problem === null;
  box.replaceChildren();
  if (problem === null) return;
  box.append(element("strong", problem.title));
  if (problem.message) box.append(element("p", problem.message));
  const facts = [problem.field && `field: ${problem.field}`, problem.code && `code: ${problem.code}`];
  box.append(element("p", facts.filter(Boolean).join(" · "), "hint mono"));
}

/** Mark the field at fault, and no other; null: none is. */
export function markField(id) {
  for (const marked of document.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
  if (id) byId(id).setAttribute("aria-invalid", "true");
}

/** Bring the answer to where it is seen: on a phone it stands below the form and above the list. */
export function bringIntoView() {
  const { top } = byId("panel").getBoundingClientRect();
  if (top < 0 || top > window.innerHeight / 2) byId("panel").scrollIntoView();
}

/** One line of the list of jobs: a link that opens it. */
export function jobItem(job, current) {
  const item = element("li");
  const link = element("a");
  link.href = `#job=${job.id}`;
  if (job.id === current) link.setAttribute("aria-current", "true");
  const chip = element("span", job.status, "chip");
  chip.dataset.status = job.status;
  const made = element("time", new Date(job.created_at).toLocaleTimeString());
  made.dateTime = job.created_at;
  link.append(chip, element("span", job.model, "model"), made, element("span", jobTimings(job), "hint"));
  item.append(link);
  return item;
}

function jobTimings({ provider, attempt, timings, error }) {
  const { queue_ms, ttft_ms, latency_ms } = timings ?? {};
  const known = [["queue", queue_ms], ["first token", ttft_ms], ["whole", latency_ms]].filter(([, ms]) => ms != null);
  const spans = known.map(([name, ms]) => `${name} ${duration(ms)}`);
  return [provider, ...spans, attempt > 1 && `attempt ${attempt}`, error?.code].filter(Boolean).join(" · ");
}
