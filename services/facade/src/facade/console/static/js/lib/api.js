/**
 * Requests to the facade. Whatever goes wrong is a `Problem`, which says what is known of it.
 * @module
 */

/** What is so of a request without an answer, whether the facade is away or only the connection broke. */
export const NO_ANSWER = "The facade gave no answer.";

/** What the facade answers instead of what was asked for (RFC 9457). */
export class Problem extends Error {
  /** @param {{status: number, code: string, detail: string, outcome?: string, retryable?: boolean, current_revision?: string | null}} document */
  constructor(document) {
    super(document.detail);
    this.status = document.status;
    this.code = document.code;
    this.detail = document.detail;
    this.outcome = document.outcome ?? "unknown";
    this.retryable = document.retryable ?? false;
    this.currentRevision = document.current_revision ?? null;
    /** The word of the session that was refused; null for none. @type {string | null} */
    this.csrf = null;
  }
}

/** @type {Set<(problem: Problem) => unknown>} */
const deniedListeners = new Set();

/** @param {(problem: Problem) => unknown} listener Told of each request that was refused for want of rights. */
export function onDenied(listener) {
  deniedListeners.add(listener);
  return () => deniedListeners.delete(listener);
}

/**
 * The word of the session. The browser keeps the session itself in a cookie that no script can read; neither is worth
 * anything without the other. All tabs of this origin share it.
 */
const CSRF = "dougdb.csrf";

/** Written when somebody signs out, so that other tabs tell that from a session that came to its end. */
const LEFT = "dougdb.left";

/** @typedef {"in" | "out" | "ended"} Session What became of it: a session that ended may be followed by another one of the same person. */
/** @type {Set<(what: Session) => void>} */
const sessionListeners = new Set();

/** @param {(what: Session) => void} listener Called when somebody has signed in or out, here or in another tab, or a session has ended. */
export function onSession(listener) {
  sessionListeners.add(listener);
  return () => {
    sessionListeners.delete(listener);
  };
}

/** @param {Session} what */
function tellSession(what) {
  sessionListeners.forEach((listener) => listener(what));
}

addEventListener("storage", (event) => {
  if (event.key === LEFT && event.newValue !== null) tellSession("out");
  if (event.key === CSRF) tellSession(event.newValue === null ? "ended" : "in");
});

/** Exchanges a token for a session, and forgets it. @param {string} token */
export async function signIn(token) {
  const response = await send("POST", "/v1/auth/session", { headers: { authorization: `Bearer ${token}` } });
  localStorage.setItem(CSRF, (await response.json()).csrf);
  tellSession("in");
}

export async function signOut() {
  try {
    await send("DELETE", "/v1/auth/session");
  } finally {
    localStorage.removeItem(CSRF);
    localStorage.setItem(LEFT, randomKey());
    localStorage.removeItem(LEFT);
    tellSession("out");
  }
}

export function isSignedIn() {
  return localStorage.getItem(CSRF) !== null;
}

/** @returns {Record<string, string>} The headers that go with every request; no form can send them. */
export function ownHeaders() {
  const csrf = localStorage.getItem(CSRF);
  return { "doug-client": "console", ...(csrf !== null && { "doug-csrf": csrf }) };
}

/** What this page has read and written, as the newest answer said it: the token of its session reads. */
let seen = "";

/** @param {Response} response Keeps its token, if it has one. */
export function keepSeen(response) {
  seen = response.headers.get("doug-session") ?? seen;
}

/** How much later it is at the facade than by the clock of this machine. */
let aheadMs = 0;
/** The facade tells whole seconds, and its answers take a while. */
const CLOCKS_AGREE_MS = 5000;

/** @param {Response} response Notes how late it is at the facade. */
function keepClock(response) {
  const ahead = Date.parse(response.headers.get("date") ?? "") - Date.now();
  if (!Number.isNaN(ahead)) aheadMs = Math.abs(ahead) < CLOCKS_AGREE_MS ? 0 : ahead;
}

/** Milliseconds since the epoch, as the facade has it: expiries are told by that, and this machine's clock may be wrong. */
export function facadeNow() {
  return Date.now() + aheadMs;
}

/** @returns {Record<string, string>} The header of a session read; none before there was an answer. */
export function seenHeaders() {
  return seen ? { "doug-session": seen } : {};
}

/** A request was refused for want of rights. @param {Problem} problem */
export function denied(problem) {
  // Another tab may have a new session by the time that the old one's end is told here.
  if (problem.status === 401 && isSignedIn() && problem.csrf === localStorage.getItem(CSRF)) {
    localStorage.removeItem(CSRF);
    tellSession("ended");
  }
  deniedListeners.forEach((listener) => listener(problem));
}

/** @param {Record<string, string>} named What somebody typed may be more than a header can say. */
function headersOf(named) {
  try {
    return new Headers(named);
  } catch {
    const detail = "A header cannot have the letters of this content type. Nothing was sent.";
    throw new Problem({ status: 0, code: "bad_header", detail, outcome: "not_applied" });
  }
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{headers?: Record<string, string>, body?: BodyInit | null, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
export async function send(method, path, options = {}) {
  let response;
  const own = ownHeaders();
  const headers = headersOf({ ...own, ...options.headers });
  try {
    response = await fetch(path, {
      method,
      headers,
      body: options.body,
      signal: options.signal,
      cache: "no-store",
      credentials: "same-origin",
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem({
      status: 0,
      code: "unreachable",
      detail: NO_ANSWER,
      outcome: method === "GET" ? "not_applied" : "unknown",
      retryable: true,
    });
  }
  keepSeen(response);
  keepClock(response);
  if (response.ok || response.status === 304) return response;
  const problem = await problemOf(response, own);
  if (problem.status === 401 || problem.code === "forbidden") denied(problem);
  throw problem;
}

/** @param {Response} response @param {Record<string, string>} sent The headers of the request, of which those of the session count. */
export async function problemOf(response, sent) {
  let problem;
  try {
    problem = new Problem(await response.json());
  } catch {
    problem = new Problem({ status: response.status, code: "unreadable", detail: `The answer was ${response.status}.` });
  }
  problem.csrf = sent["doug-csrf"] ?? null;
  return problem;
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function read(path, signal) {
  return (await send("GET", path, { signal })).json();
}

/** @param {string} method @param {string} path @param {unknown} [document] @param {Record<string, string>} [headers] @returns {Promise<any>} */
export async function ask(method, path, document, headers) {
  const body = document === undefined ? null : JSON.stringify(document);
  const response = await send(method, path, { body, headers: { "content-type": "application/json", ...headers } });
  return response.status === 204 ? null : response.json();
}

/** A random word, for Idempotency-Key: a request that is sent twice is applied once. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
