/**
 * JSON as it was written: numbers that JavaScript would round, and names that an object has twice, are kept.
 * @module
 */

const INDENTED_MAX = 40;
/** What ends a number or a word. */
const BEHIND_WORD = /[\s{}[\]:,"]|$/g;

/**
 * @typedef {{kind: "object", members: [string, Json][]}} JsonObject
 * @typedef {{kind: "array", items: Json[]}} JsonArray
 * @typedef {JsonObject | JsonArray | {kind: "string" | "number" | "boolean" | "null", text: string}} Json `text` is what was written.
 */

/** @param {string} text */
export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** @param {string} text @param {number} start Where a string begins. */
function endOfString(text, start) {
  for (let at = text.indexOf('"', start + 1); ; at = text.indexOf('"', at + 1)) {
    let first = at;
    while (text[first - 1] === "\\") first--;
    if ((at - first) % 2 === 0) return at + 1;
  }
}

/** @param {string} text Requires: it is JSON. However long a string in it is, nothing here goes deep. */
function tokensOf(text) {
  const tokens = [];
  for (let at = 0; at < text.length; ) {
    const letter = text[at];
    let end = at + 1;
    if (letter === '"') end = endOfString(text, at);
    else if (!"{}[]:,".includes(letter)) {
      BEHIND_WORD.lastIndex = at;
      end = /** @type {RegExpExecArray} */ (BEHIND_WORD.exec(text)).index;
      if (end === at) {
        at++;
        continue;
      }
    }
    tokens.push(text.slice(at, end));
    at = end;
  }
  return tokens;
}

/** @param {string} token @returns {Json} */
function leafOf(token) {
  const kind = token[0] === '"' ? "string" : token === "null" ? "null" : token === "true" || token === "false" ? "boolean" : "number";
  return { kind, text: token };
}

/** @param {string} text @returns {Json | undefined} Undefined when it is no JSON. */
export function jsonOf(text) {
  if (!isJson(text)) return undefined;
  /** @type {JsonArray} */
  const root = { kind: "array", items: [] };
  /** @type {(JsonObject | JsonArray)[]} */
  const around = [];
  /** @type {JsonObject | JsonArray} */
  let into = root;
  /** @type {string | null} */
  let name = null;
  for (const token of tokensOf(text)) {
    if (token === ":" || token === ",") continue;
    if (token === "}" || token === "]") {
      into = around.pop() ?? root;
      continue;
    }
    if (into.kind === "object" && name === null) {
      name = JSON.parse(token);
      continue;
    }
    /** @type {Json} */
    const made = token === "{" ? { kind: "object", members: [] } : token === "[" ? { kind: "array", items: [] } : leafOf(token);
    if (into.kind === "array") into.items.push(made);
    else into.members.push([/** @type {string} */ (name), made]);
    name = null;
    if (made.kind === "object" || made.kind === "array") {
      around.push(into);
      into = made;
    }
  }
  return root.items[0];
}

/** @param {JsonObject} object The names that it has more than once. */
export function namesTwice(object) {
  const seen = new Set();
  return new Set(object.members.map(([name]) => name).filter((name) => seen.has(name) || !seen.add(name)));
}

/** @param {Json | undefined} document The names that an object anywhere in it has more than once. */
export function allNamesTwice(document) {
  /** @type {Set<string>} */
  const found = new Set();
  const left = document === undefined ? [] : [document];
  for (let node = left.pop(); node !== undefined; node = left.pop()) {
    if (node.kind === "array") for (const each of node.items) left.push(each);
    if (node.kind !== "object") continue;
    namesTwice(node).forEach((name) => found.add(name));
    for (const [, each] of node.members) left.push(each);
  }
  return [...found];
}

/**
 * The same document with a line for each value. Nothing but the space between its parts is changed.
 * @param {string} text Requires: it is JSON.
 */
export function pretty(text) {
  const tokens = tokensOf(text);
  const parts = [];
  let depth = 0;
  const line = () => `\n${"  ".repeat(Math.min(depth, INDENTED_MAX))}`;
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at];
    const next = tokens[at + 1];
    if (token === "{" || token === "[") {
      if (next === "}" || next === "]") {
        parts.push(token, next);
        at++;
      } else {
        depth++;
        parts.push(token, line());
      }
    } else if (token === "}" || token === "]") {
      depth--;
      parts.push(line(), token);
    } else if (token === ",") parts.push(token, line());
    else parts.push(token === ":" ? ": " : token);
  }
  return parts.join("");
}
