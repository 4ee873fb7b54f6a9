/**
 * Server-sent events, read by fetch: `EventSource` hides the status of an answer and cannot send a header.
 * @module
 */

import { ownHeaders, Problem, problemOf } from "./api.js";

/** @typedef {{name: string, id: string, data: string}} ServerEvent */

/** @param {string} block @returns {ServerEvent} */
export function eventOf(block) {
  const found = { name: "message", id: "", data: "" };
  for (const line of block.split("\n")) {
    const at = line.indexOf(": ");
    if (at <= 0) continue;
    const value = line.slice(at + 2);
    if (line.startsWith("event: ")) found.name = value;
    else if (line.startsWith("id: ")) found.id = value;
    else if (line.startsWith("data: ")) found.data += value;
  }
  return found;
}

/**
 * Follows a stream until it ends or breaks.
 * @param {string} path @param {AbortSignal} signal @param {(events: ServerEvent[]) => void} onEvents What came at once.
 * @param {number} silentMs After so long without a byte the stream counts as broken.
 */
export async function follow(path, signal, onEvents, silentMs) {
  const ended = new AbortController();
  const end = () => ended.abort();
  signal.addEventListener("abort", end);
  if (signal.aborted) end();
  // A connection that broke without a word would look like a cluster in which nothing happens; one without an answer, too.
  let silence = setTimeout(end, silentMs);
  let text = "";
  try {
    const headers = { accept: "text/event-stream", ...ownHeaders() };
    const response = await fetch(path, { headers, signal: ended.signal, cache: "no-store" });
    if (!response.ok || response.body === null) throw await problemOf(response, headers);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      clearTimeout(silence);
      silence = setTimeout(end, silentMs);
      const { value, done } = await reader.read();
      if (done) throw new Problem({ status: 0, code: "ended", detail: "The stream ended.", retryable: true });
      const parts = (text + value).split("\n\n");
      text = parts.pop() ?? "";
      onEvents(parts.map(eventOf).filter((event) => event.data !== ""));
    }
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", end);
    // Also when whoever is told of the events fails: nobody reads it any more.
    end();
  }
}
