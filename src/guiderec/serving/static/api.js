/** The HTTP interface of the server, and its errors as sentences. Addresses are relative, so a path prefix does not matter. */

const KEY = "guiderec-api-key";
const TRIES = 4;
const LONGEST_WAIT = 10;

/** What a request failed with. `status` is 0 where no answer came; `hint` may say what to do. */
export class RequestError extends Error {
  constructor(message, { status = 0, hint = null } = {}) {
    super(message);
    this.status = status;
    this.hint = hint;
  }

  /** The server asks for an API key. */
  get needsKey() {
    return this.status === 401 || this.status === 403;
  }
}

/** The API key of this tab; it is forgotten when the tab is closed. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export const getModel = () => request("model");
export const getCategories = () => request("categories");
export const getPeople = (limit = 50) => request(`people?${new URLSearchParams({ limit })}`);
export const searchPeople = (text, { signal, limit = 12 }) =>
  request(`people?${new URLSearchParams({ search: text, limit })}`, { signal });
export const searchItems = (text, { signal, limit = 12 }) =>
  request(`items?${new URLSearchParams({ search: text, limit })}`, { signal });
export const sendFeedback = (feedback) => request("feedback", { body: feedback });
export const recommend = (wanted, { signal, onWait } = {}) => request("recommend", { body: wanted, signal, onWait });

/**
 * The JSON of one answer. A busy server (503) is asked again after as many seconds as it says, up to four times in all;
 * `onWait(seconds)` is told of every wait.
 */
async function request(path, { body, signal, onWait } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await send(path, body, signal);
    if (response.ok) return response.json();
    const error = await errorOf(response);
    if (response.status !== 503 || attempt === TRIES) throw error;
    const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
    onWait?.(seconds);
    await pause(seconds, signal);
  }
}

async function send(path, body, signal) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers["X-API-Key"] = key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The server cannot be reached.", { hint: "See whether it is still running." });
  }
}

async function errorOf(response) {
  const { status } = response;
  let said = {};
  try {
    said = await response.json();
  } catch {
    // A proxy in between may answer with a page of its own: the status has to do.
  }
  return new RequestError(sentence(said.detail) ?? fallback(status), { status, hint: said.hint ?? null });
}

function sentence(detail) {
  if (typeof detail === "string" && detail) return detail;
  if (Array.isArray(detail) && detail.length) return detail.map((one) => one.msg ?? String(one)).join(" ");
  return null;
}

function fallback(status) {
  return status === 503 ? "The server is busy." : `The server answered with status ${status}.`;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("superseded", "AbortError"));
    });
  });
}
