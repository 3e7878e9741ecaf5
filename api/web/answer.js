// What the page knows of one answer: the fold of its events, and the proof that none was lost or doubled.

export const EVENT_TYPES = [
  "queued", "start", "token", "reasoning", "tool_call", "reset", "done", "failed", "cancelled",
];

/** The first `count` Unicode code points: an emoji is one of them and two UTF-16 units. */
function firstCodePoints(text, count) {
  let end = 0;
  for (let left = count; left > 0 && end < text.length; left--) end += text.codePointAt(end) > 0xffff ? 2 : 1;
  return text.slice(0, end);
}

/** A growing text that hands out what is new, so that showing it costs no more than its length. */
class Strand {
  #shown = "";
  #fresh = "";
  #rewritten = false;

  get whole() {
    return this.#shown + this.#fresh;
  }

  append(text) {
    this.#fresh += text;
  }

  rewrite(text) {
    this.#shown = "";
    this.#fresh = text;
    this.#rewritten = true;
  }

  /** What came since the last call; `rewritten`: it stands instead of everything before it. */
  drain() {
    const news = { text: this.#fresh, rewritten: this.#rewritten };
    this.#shown += this.#fresh;
    this.#fresh = "";
    this.#rewritten = false;
    return news;
  }
}

/** One answer, as its events tell it. `tokens` is null where a snapshot hid the count. */
export class Answer {
  text = new Strand();
  reasoning = new Strand();
  tools = new Map();
  status = "opening";
  attempt = null;
  tokens = 0;
  timings = {};
  outcome = null;
  cursor = "";
  lost = 0;
  doubled = 0;
  #seq = 0;

  get ended() {
    return this.outcome !== null;
  }

  /** Take one event in. False: it was here before, and is not shown twice. */
  take(type, id, data) {
    if (!this.#count(type, id, data)) return false;
    this[`_${type}`](data);
    return true;
  }

  /** Check the event's number against the one before: seq rises by one, a joined frame's by `n`. */
  #count(type, id, data) {
    // A log that is gone under its reader ends with a `failed` that has no id of its own.
    if (type === "failed" && id === this.cursor) return true;
    const seq = Number(id.split("-")[1]);
    const joined = data.n ?? 1;
    if (!data.snapshot) {
      if (seq <= this.#seq) {
        this.doubled += joined;
        return false;
      }
      const gap = seq - this.#seq - joined;
      if (gap > 0) this.lost += gap;
      else this.doubled -= gap;
    }
    this.#seq = seq;
    this.cursor = id;
    return true;
  }

  _queued() {
    this.status = "queued";
  }

  _start({ attempt, queue_ms }) {
    this.status = "running";
    this.attempt = attempt;
    this.tokens = 0;
    this.timings = { queue_ms };
  }

  _token(data) {
    this.text.append(data.text);
    if (this.tokens !== null) this.tokens += data.n ?? 1;
    this.#content(data);
  }

  _reasoning(data) {
    this.reasoning.append(data.text);
    this.#content(data);
  }

  _tool_call(data) {
    const call = this.tools.get(data.index) ?? { name: "", arguments: "" };
    this.tools.set(data.index, { name: call.name || data.name, arguments: call.arguments + data.arguments });
    this.#content(data);
  }

  _reset(data) {
    this.status = "running";
    this.attempt = data.attempt;
    this.text.rewrite(firstCodePoints(this.text.whole, data.keep) + (data.text ?? ""));
    this.reasoning.rewrite(data.reasoning ?? "");
    this.tools = new Map((data.tool_calls ?? []).map((call) => [call.index, call]));
    if (data.snapshot) this.tokens = null;
  }

  _done(data) {
    this.#end("done", data);
    this.tokens = data.tokens;
  }

  _failed(data) {
    this.#end("failed", data);
  }

  _cancelled(data) {
    this.#end("cancelled", data);
  }

  /** The first content event of an attempt says when it came. */
  #content({ at_ms }) {
    if (at_ms !== undefined) this.timings = { ...this.timings, ttft_ms: at_ms };
  }

  #end(status, data) {
    this.status = status;
    this.outcome = data;
    this.attempt = data.attempt ?? this.attempt;
    this.timings = { ...this.timings, ...data.timings };
  }
}
