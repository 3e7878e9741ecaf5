// npm's resumable-stream with ioredis behind plain node:http (R), as its README writes it, with explicit resumption.
//
// POST /chat {"model", "id"?, "hold_s"?, "detached"?} answers the stream with its id in X-Stream-Id, or, detached, {"id"}
// at once (the package's producer reads on by itself). GET /chat/{id}?skip=CHARACTERS resumes; 422: the stream is
// finished, which this package never gives out again. `hold_s` therefore keeps a stream open after its last token, so
// that replay and resumption can be measured at all.
//
// In its favour: the provider is read by a small raw parser, without a vendor's SDK, and tokens that came in one read
// are one chunk to the package; the first client is fed straight from the provider (the package's design), with no
// store on the way.
import http from "node:http";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

// CommonJS resolution, because the packages lie in a folder of their own and not above this file.
const require = createRequire(`${process.env.MODULES}/`);
const { createResumableStreamContext } = require("resumable-stream/ioredis");
const { Redis } = require("ioredis");

const LIFE_MS = 7_200_000; // a harness that was killed leaves nothing behind for ever
const PROVIDER = new URL(`${process.env.PROVIDER_URL}/chat/completions`);
const STORE = process.env.REDIS_URL.replace(/^unix:\/\//, ""); // ioredis names a socket by its bare path
const agent = new http.Agent({ keepAlive: true });
const connect = () => new Redis(STORE).on("error", (error) => console.error(`store: ${error.message}`));

const streams = createResumableStreamContext({
  waitUntil: (finished) => finished.catch(() => {}), // nothing freezes this process between requests
  publisher: connect(),
  subscriber: connect(),
});

/** The text of one of the provider's frames, or "" where it has none. */
const textOf = (frame) => (frame === "[DONE]" ? "" : (JSON.parse(frame).choices[0]?.delta.content ?? ""));

/** A stream of frames `data: {"text"}`, one a token, held open for `hold_s` seconds after the last. */
function generate({ model, prompt = "x", hold_s: holdS = 0 }) {
  return new ReadableStream({
    start(controller) {
      const headers = { "content-type": "application/json", authorization: "Bearer x" };
      const request = http.request(PROVIDER, { method: "POST", headers, agent }, (answer) => {
        let rest = "";
        answer.setEncoding("utf8");
        answer.on("data", (bytes) => {
          const frames = (rest + bytes).split("\n\n");
          rest = frames.pop();
          const texts = frames.map((frame) => textOf(frame.slice("data: ".length))).filter(Boolean);
          if (texts.length) controller.enqueue(texts.map((text) => `data: ${JSON.stringify({ text })}\n\n`).join(""));
        });
        answer.on("end", () => {
          controller.enqueue("data: [DONE]\n\n");
          setTimeout(() => controller.close(), holdS * 1000);
        });
        answer.on("error", (error) => controller.error(error));
      });
      request.on("error", (error) => controller.error(error));
      request.end(JSON.stringify({ model, messages: [{ role: "user", content: prompt }], stream: true }));
    },
  });
}

/** Write a stream of strings to a client, at its pace, until either ends. */
async function send(stream, response, headers = {}) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache", ...headers });
  response.flushHeaders();
  const reader = stream.getReader();
  response.on("close", () => reader.cancel().catch(() => {}));
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (part.value && !response.write(part.value)) await new Promise((resume) => response.once("drain", resume));
  }
  response.end();
}

async function create(request, response) {
  let body = "";
  for await (const part of request) body += part;
  const ask = JSON.parse(body);
  const id = ask.id ?? randomUUID();
  const stream = await streams.createNewResumableStream(id, () => generate(ask));
  if (!ask.detached) return send(stream, response, { "x-stream-id": id });
  await stream.cancel(); // nobody reads this end of it; the producer goes on for those who resume
  const answer = JSON.stringify({ id });
  response.writeHead(202, { "content-type": "application/json", "content-length": Buffer.byteLength(answer) }).end(answer);
}

async function resume(url, response) {
  const skip = Number(url.searchParams.get("skip") ?? 0);
  const stream = await streams.resumeExistingStream(decodeURIComponent(url.pathname.slice("/chat/".length)), skip);
  if (stream) return send(stream, response);
  response.writeHead(stream === null ? 422 : 404, { "content-length": 0 }).end();
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, "http://local");
  const handled = request.method === "POST" ? create(request, response) : resume(url, response);
  handled.catch((error) => {
    console.error(error);
    if (response.headersSent) response.destroy();
    else response.writeHead(500, { "content-length": 0 }).end();
  });
});
server.listen(Number(process.env.PORT), "127.0.0.1");
process.on("unhandledRejection", (error) => console.error(error)); // the package lets a provider's failure fall through
process.on("SIGTERM", () => process.exit(0));
setTimeout(() => process.exit(1), LIFE_MS);
