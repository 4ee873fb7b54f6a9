/**
 * Who one is, and what one may do: what is not allowed is shown so before it is tried. The facade judges all the same.
 * @module
 */

import { onSession, read } from "./api.js";
import { bytesOf, keyOfBytes, shown } from "./keys.js";
import { Listeners, useListeners } from "./listeners.js";

/** @typedef {import("./keys.js").Key} Key */
/** @typedef {{verb: string, prefix: Uint8Array}} Grant `prefix` is empty for the verbs that are about no keys. */

const KEYED = ["read", "write", "watch"];
const UTF8 = new TextEncoder();
const AGAIN_MS = 15_000;

/** @param {string} text @returns {Grant} `write:app/`, `read:*`, `admin:members`; in a prefix, %XX is one byte. */
export function grantOf(text) {
  const at = text.indexOf(":");
  const verb = text.slice(0, at);
  if (at < 0 || !KEYED.includes(verb)) return { verb: text, prefix: new Uint8Array() };
  const prefix = text.slice(at + 1);
  if (prefix === "*") return { verb, prefix: new Uint8Array() };
  const data = prefix.split(/(%[0-9A-Fa-f]{2})/).map((part) => (/^%[0-9A-Fa-f]{2}$/.test(part) ? [Number.parseInt(part.slice(1), 16)] : [...UTF8.encode(part)]));
  return { verb, prefix: Uint8Array.from(data.flat()) };
}

export class Rights {
  /** @param {{principal: string, mode: string[], allow: string[]} | null} told Null while nobody knows. */
  constructor(told) {
    this.principal = told?.principal ?? "";
    this.guarded = told !== null && !told.mode.includes("none");
    this.known = told !== null;
    this.grants = (told?.allow ?? []).map(grantOf);
  }

  /**
   * Why something may not be done; empty when it may, or when that is not known yet.
   * @param {string} verb
   * @param {Key} [key] With this key, or with all keys that begin so.
   */
  lacks(verb, key) {
    if (!this.known || !this.guarded) return "";
    const data = key === undefined ? null : bytesOf(key);
    const may = this.grants.some((grant) => grant.verb === verb && (data === null || startsWith(data, grant.prefix)));
    return may ? "" : `${this.principal} does not have the right ${verb}${key === undefined ? "" : ` for ${shown(key) || "all keys"}`}.`;
  }

  /** @param {string} verb @returns {Key[]} The prefixes of keys with which this may be done. */
  prefixes(verb) {
    return this.grants.filter((grant) => grant.verb === verb).map((grant) => keyOfBytes(grant.prefix));
  }

  /** @param {string[]} verbs One of them is enough. */
  lacksAll(verbs) {
    return verbs.every((verb) => this.lacks(verb)) ? `${this.principal} does not have the right ${verbs.join(" or ")}.` : "";
  }
}

/** @param {Uint8Array} data @param {Uint8Array} prefix */
function startsWith(data, prefix) {
  return data.length >= prefix.length && prefix.every((byte, at) => data[at] === byte);
}

let rights = new Rights(null);
const listeners = new Listeners();
let turn = 0;

/** @type {Set<() => void>} */
const strangerListeners = new Set();
/** Who it was that used this page last. */
let last = "";

/** @param {() => void} listener Called when somebody else uses this page, or nobody any more: what was seen and typed is not theirs. */
export function onStranger(listener) {
  strangerListeners.add(listener);
  return () => {
    strangerListeners.delete(listener);
  };
}

/** @param {Rights} next */
function tell(next) {
  rights = next;
  if (next.principal !== "") {
    if (last !== "" && last !== next.principal) strangerListeners.forEach((listener) => listener());
    last = next.principal;
  }
  listeners.tell();
}

/** Asks anew what one may do. */
export async function loadRights() {
  const mine = ++turn;
  let next;
  try {
    next = new Rights(await read("/v1/auth/whoami"));
  } catch {
    next = new Rights(null); // Whoever is nobody is told so by what they ask for.
  }
  if (mine === turn) tell(next);
}

export function useRights() {
  useListeners(listeners);
  return rights;
}

/** Begins, and goes on for as long as the page is there: rights may be given and taken meanwhile. */
export function startRights() {
  onSession((what) => {
    if (what === "out") {
      last = "";
      strangerListeners.forEach((listener) => listener());
    }
    loadRights();
  });
  loadRights();
  setInterval(() => {
    if (rights.guarded && !document.hidden) loadRights();
  }, AGAIN_MS);
}
