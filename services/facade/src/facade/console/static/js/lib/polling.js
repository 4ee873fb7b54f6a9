/**
 * What a view asks for again and again, while somebody sees it.
 * @module
 */

import { Problem } from "./api.js";
import { useEffect, useState } from "./preact.js";

/** After so long without an answer it is asked for again: the connection may have broken without a word. */
const ANSWER_MS = 20_000;

/** What is asked may take that long, although the facade answers everything else. */
function tooLate() {
  const detail = `The facade gave no answer within ${ANSWER_MS / 1000} s. It is asked again.`;
  return new Problem({ status: 0, code: "late", detail, outcome: "not_applied" });
}

/**
 * The newest answer, and what went wrong since. It is never asked for twice at once: while a facade hangs, nothing piles up.
 * @template T
 * @param {(signal: AbortSignal) => Promise<T>} ask @param {number} everyMs From an answer to the next question.
 * @param {unknown[]} inputs When one of them changes, something else is asked for.
 * @param {boolean} [keeps] Whether the answer of before is shown until then.
 * @returns {{found: T | null, error: unknown}}
 */
export function usePolled(ask, everyMs, inputs, keeps = false) {
  const [found, setFound] = useState(/** @type {T | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  useEffect(() => {
    let ended = false;
    /** @type {AbortController | null} */
    let asking = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const once = async () => {
      const controller = (asking = new AbortController());
      const late = setTimeout(() => controller.abort(), ANSWER_MS);
      try {
        const answer = await ask(controller.signal);
        if (ended) return;
        setFound(answer);
        setError(null);
      } catch (failed) {
        if (!ended) setError(controller.signal.aborted ? tooLate() : failed);
      } finally {
        clearTimeout(late);
      }
    };
    const look = async () => {
      if (!document.hidden) await once();
      if (!ended) timer = setTimeout(look, everyMs);
    };
    if (!keeps) setFound(null);
    setError(null);
    look();
    return () => {
      ended = true;
      asking?.abort();
      clearTimeout(timer);
    };
  }, inputs);
  return { found, error };
}
