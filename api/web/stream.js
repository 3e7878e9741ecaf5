// How the page reads a job's events: the browser's EventSource, or an own reader where a header has to go along.

import { EVENT_TYPES } from "./answer.js";
import { credentials, problemOf } from "./api.js";

const FIRST_RETRY_MS = 1000;
const LAST_RETRY_MS = 15_000;

/**
 * Open the events of a job behind `cursor` (empty: from the start), and keep them open.
 *
 * `on.open()` — connected, also after each reconnect; `on.event(type, id, data)`; `on.retry()` — the connection broke and is
 * being made anew; `on.closed(problem)` — it will not be, the problem being null where the browser keeps it to itself.
 * After `close()` nothing is called any more.
 */
export function openStream(jobId, { cursor, key, on }) {
  const path = `/jobs/${encodeURIComponent(jobId)}/events`;
  return key ? new FetchSource(path, cursor, key, on) : openNative(path, cursor, on);
}

/** A fresh EventSource cannot set `Last-Event-ID`, so the cursor goes into the query; its own reconnects set it. */
function openNative(path, cursor, on) {
  const source = new EventSource(cursor ? `${path}?last_event_id=${encodeURIComponent(cursor)}` : path);
  source.onopen = () => on.open();
  source.onerror = () => (source.readyState === EventSource.CLOSED ? on.closed(null) : on.retry());
  for (const type of EVENT_TYPES) {
    source.addEventListener(type, (event) => on.event(type, event.lastEventId, JSON.parse(event.data)));
  }
  return source;
}

/** EventSource's manners on top of fetch: EventSource sends no `Authorization`. */
class FetchSource {
  #abort = new AbortController();
  #parser;
  #fails = 0;

  constructor(path, cursor, key, on) {
    this.#parser = new FrameParser(cursor, (type, id, data) => {
      if (this.#closed || !EVENT_TYPES.includes(type)) return;
      try {
        on.event(type, id, JSON.parse(data));
      } catch (error) {
        reportError(error); // As with EventSource: a listener's fault is not the connection's.
      }
    });
    void this.#run(path, key, on);
  }

  get #closed() {
    return this.#abort.signal.aborted;
  }

  close() {
    this.#abort.abort();
  }

  async #run(path, key, on) {
    while (!this.#closed) {
      const refused = await this.#read(path, key, on);
      if (this.#closed) return;
      if (refused) {
        this.close();
        on.closed(refused.problem);
        return;
      }
      on.retry();
      await this.#pause();
    }
  }

  /** One connection to its end. Answers {problem} where the node wants no further one. */
  async #read(path, key, on) {
    try {
      const headers = { Accept: "text/event-stream", ...credentials(key) };
      if (this.#parser.lastId) headers["Last-Event-ID"] = this.#parser.lastId;
      const response = await fetch(path, { headers, cache: "no-store", signal: this.#abort.signal });
      if (!isStream(response)) return { problem: response.ok ? null : await problemOf(response) };
      this.#fails = 0;
      on.open();
      await this.#parse(response.body.getReader());
    } catch {
      this.#fails += 1; // The network broke, or close() was called: the caller looks which.
    }
    return null;
  }

  async #parse(reader) {
    this.#parser.begin();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      this.#parser.push(decoder.decode(value, { stream: true }));
    }
  }

  /** Wait as long as the node asked, longer each time that nobody answers. */
  #pause() {
    const asked = this.#parser.retryMs ?? FIRST_RETRY_MS;
    const wait = Math.min(asked * 2 ** Math.max(0, this.#fails - 1), LAST_RETRY_MS);
    return new Promise((resolve) => setTimeout(resolve, wait * (0.8 + Math.random() * 0.4)));
  }
}

/** Anything else is final, as it is for EventSource; 204 says that nothing will follow. */
function isStream(response) {
  return response.status === 200 && (response.headers.get("content-type") ?? "").startsWith("text/event-stream");
}

/** Text of `text/event-stream` in, frames out. The last id outlives the connection. */
class FrameParser {
  lastId;
  retryMs = null;
  #emit;
  #rest = "";
  #type = "";
  #data = [];
  #id;

  constructor(cursor, emit) {
    this.lastId = cursor;
    this.#emit = emit;
  }

  /** A new connection: half a frame of the old one is not completed. */
  begin() {
    this.#rest = "";
    this.#type = "";
    this.#data = [];
    this.#id = this.lastId;
  }

  push(text) {
    // A CR at the very end may be half a CRLF: it waits for what follows.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#type = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
  }

  #dispatch() {
    this.lastId = this.#id;
    const [type, data] = [this.#type, this.#data];
    this.#type = "";
    this.#data = [];
    if (data.length > 0) this.#emit(type || "message", this.lastId, data.join("\n"));
  }
}
