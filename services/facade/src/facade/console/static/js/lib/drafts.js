/**
 * What was typed and neither sent nor given up, by what it is for: whoever follows a link, or closes a dialog, comes back to it.
 * @module
 */

import { onStranger } from "./rights.js";
import { note } from "./ui.js";

/** @typedef {{name: string}} Named What is typed for which key, as that is shown. */
/** @type {Map<string, Named>} */
const drafts = new Map();
const DRAFTS_MAX = 20;

// Whoever comes back after a session ended finds what they typed; whoever else comes does not.
onStranger(() => drafts.clear());
addEventListener("beforeunload", (event) => drafts.size > 0 && event.preventDefault());

/** @param {string} id @returns {any} What was kept last, or undefined. */
export function draftOf(id) {
  return drafts.get(id);
}

/** @param {string} id @param {Named} draft The oldest of too many is dropped, and whoever typed it is told. */
export function keepDraft(id, draft) {
  drafts.delete(id);
  drafts.set(id, draft);
  for (const [oldest, { name }] of [...drafts].slice(0, -DRAFTS_MAX)) {
    drafts.delete(oldest);
    note(`What you typed for ${name || "a new key"} and did not save is kept no longer: the page keeps the newest ${DRAFTS_MAX}.`, "bad");
  }
}

/** @param {string} id @param {Named} [draft] Only this one, if one is named: what was typed since is kept. */
export function dropDraft(id, draft) {
  if (draft === undefined || drafts.get(id) === draft) drafts.delete(id);
}
