/**
 * What was typed and neither sent nor given up, by what it is for: whoever follows a link, or closes a dialog, comes back to it.
 * @module
 */

import { onStranger } from "./rights.js";

/** @type {Map<string, object>} */
const drafts = new Map();
const DRAFTS_MAX = 20;

// Whoever comes back after a session ended finds what they typed; whoever else comes does not.
onStranger(() => drafts.clear());
addEventListener("beforeunload", (event) => drafts.size > 0 && event.preventDefault());

/** @param {string} id @returns {any} What was kept last, or undefined. */
export function draftOf(id) {
  return drafts.get(id);
}

/** @param {string} id @param {object} draft */
export function keepDraft(id, draft) {
  drafts.delete(id);
  drafts.set(id, draft);
  for (const oldest of [...drafts.keys()].slice(0, -DRAFTS_MAX)) drafts.delete(oldest);
}

/** @param {string} id @param {object} [draft] Only this one, if one is named: what was typed since is kept. */
export function dropDraft(id, draft) {
  if (draft === undefined || drafts.get(id) === draft) drafts.delete(id);
}
