/**
 * JSON as it was written: what a number of JavaScript would round is kept as text.
 * @module
 */

const INDENTED_MAX = 40;
const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g;

/** A number that JavaScript cannot hold. */
export class ExactNumber {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/** @param {string} _ @param {unknown} value @param {{source?: string}} [context] Older browsers do not tell the source. */
function exact(_, value, context) {
  const source = context?.source;
  return typeof value === "number" && source !== undefined && String(value) !== source ? new ExactNumber(source) : value;
}

/** @param {string} text @returns {unknown} Undefined when it is no JSON. */
export function jsonOf(text) {
  try {
    return JSON.parse(text, exact);
  } catch {
    return undefined;
  }
}

/**
 * The same document with a line for each value. Nothing but the space between its parts is changed.
 * @param {string} text Requires: it is JSON.
 */
export function pretty(text) {
  const tokens = text.match(TOKEN) ?? [];
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
