// The page's calls to the node: JSON in, JSON or a Problem out, with the API key where one is set.

const KEY = "tailrace.api-key";

/** The API key of this tab; empty where there is none. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** Why a call was refused, as `application/problem+json` tells it. */
export class Problem extends Error {
  constructor({ title, detail, code, field } = {}, status = 0) {
    super(detail ?? "");
    this.title = title ?? (status ? `The node answered ${status}` : "The node cannot be reached");
    this.code = code ?? "";
    this.field = field ?? "";
    this.status = status;
  }
}

/** The headers that carry the key. */
export function credentials(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The problem that a refused response tells of. */
export async function problemOf(response) {
  const body = await response.json().catch(() => null);
  return new Problem(body ?? {}, response.status);
}

/** Call the node. A Problem without status: nobody answered. */
export async function call(method, path, { body, headers } = {}) {
  const response = await fetch(path, {
    method,
    headers: { Accept: "application/json", ...credentials(apiKey.get()), ...headers },
    body,
  }).catch(() => {
    throw new Problem({ detail: "Check the connection and try again." });
  });
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** A name for one intent. (crypto.randomUUID is missing where the page is not served from a secure origin.) */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
