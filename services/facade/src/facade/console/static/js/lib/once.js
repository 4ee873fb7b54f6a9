/**
 * What is sent again because nobody knows whether it was done is the same request, so that it happens once.
 * @module
 */

import { Problem, randomKey } from "./api.js";
import { useRef } from "./preact.js";

/**
 * What is being tried: the key that makes it happen once, and what was told first of how long it is to last.
 * @typedef {{of: string, key: string, ttl?: string}} Attempt
 */

/** @type {WeakMap<object, number>} */
const numbers = new WeakMap();
let number = 0;

/** @param {unknown} each A file or a value is the same only if it is the very same: two of one name are not. */
function identityOf(each) {
  if (!(each instanceof Blob) && !(each instanceof Uint8Array)) return each ?? null;
  if (!numbers.has(each)) numbers.set(each, ++number);
  return `#${numbers.get(each)}`;
}

/**
 * Sends something; after an outcome that nobody knows, the same thing is sent with the same key.
 * @returns {<T>(what: unknown[], send: (attempt: Attempt) => Promise<T>) => Promise<T>} `what` tells it from other things.
 */
export function useOnce() {
  const open = useRef(/** @type {Attempt | null} */ (null));
  return async (what, send) => {
    const of = JSON.stringify(what.map(identityOf));
    const attempt = (open.current = open.current?.of === of ? open.current : { of, key: randomKey() });
    try {
      const done = await send(attempt);
      open.current = null;
      return done;
    } catch (failed) {
      if (!(failed instanceof Problem) || failed.outcome !== "unknown") open.current = null;
      throw failed;
    }
  };
}
