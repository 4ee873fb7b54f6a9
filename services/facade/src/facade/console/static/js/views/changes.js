/**
 * Changes of keys as they happen: one watch for the prefix that is shown, while that is asked for and seen.
 * @module
 */

import { onSession } from "../lib/api.js";
import { base64url, keyOf, parameter, shown } from "../lib/keys.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { follow } from "../lib/sse.js";
import { Trouble } from "../lib/ui.js";

/** @typedef {import("../lib/keys.js").Key} Key */
/** @typedef {{what: string, key?: string, key64?: string, revision: string, number: number}} Change */

const SILENT_MS = 30_000;
const RETRY_MIN_MS = 1000;
const RETRY_MAX_MS = 5000;
/** After a refusal, which asking again does not change. */
const REFUSED_MAX_MS = 30_000;
const KEPT = 50;
const LISTED = 8;
/** Of so many keys it is remembered that they changed. */
const REVISIONS_MAX = 20_000;
const TOGETHER_MS = 1000;

/**
 * @param {Key} prefix @param {boolean} wanted @param {() => void} onChange Called a little after changes came, once for many.
 */
export function useChanges(prefix, wanted, onChange) {
  const [changes, setChanges] = useState(/** @type {Change[]} */ ([]));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const revisions = useRef(/** @type {Map<string, string>} */ (new Map()));
  const query = "text" in prefix && prefix.text === "" ? "" : `&${parameter("prefix", prefix)}`;
  useEffect(() => {
    setChanges([]);
    setError(null);
    revisions.current = new Map();
    if (!wanted) return undefined;
    /** @type {AbortController | null} */
    let open = null;
    let newest = "";
    let number = 0;
    let retryMs = RETRY_MIN_MS;
    let missed = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let together;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let again;
    const take = (/** @type {import("../lib/sse.js").ServerEvent[]} */ events) => {
      if (events.length === 0) return;
      setError(null);
      retryMs = RETRY_MIN_MS;
      newest = events.findLast((event) => event.id)?.id ?? newest;
      const told = events
        .filter((event) => ["put", "delete", "expire"].includes(event.name))
        .map((event) => ({ ...JSON.parse(event.data), what: event.name, number: ++number }));
      if (told.length === 0 && !missed) return;
      missed = false;
      told.forEach((change) => revisions.current.set(base64url(keyOf(change)), change.revision));
      if (revisions.current.size > REVISIONS_MAX) revisions.current = new Map([...revisions.current].slice(-REVISIONS_MAX / 2));
      setChanges((before) => [...told.reverse(), ...before].slice(0, KEPT));
      // The first one of many says when: where changes never end, they are shown all the same.
      together ??= setTimeout(() => {
        together = undefined;
        onChange();
      }, TOGETHER_MS);
    };
    const begin = () => {
      if (document.hidden || open !== null) return;
      const controller = (open = new AbortController());
      const from = newest ? `&from=${encodeURIComponent(newest)}` : "";
      follow(`/v1/watch?values=false${query}${from}`, controller.signal, take, SILENT_MS).catch((failed) => {
        if (open !== controller) return;
        open = null;
        if (failed?.status >= 400) {
          // It begins anew: what changed meanwhile is told by nobody.
          missed = true;
          newest = "";
          setError(failed);
        }
        again = setTimeout(begin, retryMs);
        retryMs = Math.min(2 * retryMs, failed?.status >= 400 ? REFUSED_MAX_MS : RETRY_MAX_MS);
      });
    };
    const look = () => {
      if (!document.hidden) return begin();
      open?.abort();
      open = null;
      return undefined;
    };
    begin();
    document.addEventListener("visibilitychange", look);
    const endSession = onSession((what) => {
      if (what !== "in") return;
      clearTimeout(again);
      retryMs = RETRY_MIN_MS;
      begin();
    });
    return () => {
      endSession();
      document.removeEventListener("visibilitychange", look);
      clearTimeout(together);
      clearTimeout(again);
      const ended = open;
      open = null;
      ended?.abort();
    };
  }, [query, wanted]);
  /** @param {Key} key The revision of its newest change; also where many others came since. */
  const revisionOf = (key) => revisions.current.get(base64url(key)) ?? "";
  return { changes, error, revisionOf };
}

/** @param {{changes: Change[], error: unknown, onSelect: (key: Key) => void}} properties */
export function Changes({ changes, error, onSelect }) {
  return html`<div class="changes">
    <${Trouble} error=${error} />
    ${changes.length === 0 && !error && html`<p class="quiet">Watching: changes of these keys are shown as they happen.</p>`}
    <ul>
      ${changes.slice(0, LISTED).map((change) => html`<li key=${change.number}>
        <span class="badge">${change.what}</span> <button type="button" class="plain mono" onClick=${() => onSelect(keyOf(change))}>${shown(keyOf(change))}</button> <span class="quiet">revision ${change.revision}</span>
      </li>`)}
    </ul>
  </div>`;
}
