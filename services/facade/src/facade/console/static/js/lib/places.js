/**
 * Places within the page: `#/view/part?name=value`.
 * @module
 */

/** @typedef {{view: string, parts: string[], query: URLSearchParams}} Place */

/** @param {string} text What stands there, if it is not what an address may have. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string} hash @returns {Place} */
export function parse(hash) {
  const text = hash.replace(/^#\/?/, "");
  // A key may have a question mark, which few who make a link by hand write as an escape.
  const end = text.includes("?") ? text.indexOf("?") : text.length;
  const [view, ...parts] = text.slice(0, end).split("/").map(decoded);
  return { view: view || "cluster", parts, query: new URLSearchParams(text.slice(end + 1)) };
}

/** @param {string[]} parts @param {Record<string, string>} [query] */
export function link(parts, query = {}) {
  const filled = Object.fromEntries(Object.entries(query).filter(([, value]) => value !== ""));
  const text = new URLSearchParams(filled).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** @param {string} hash */
export function go(hash) {
  location.hash = hash;
}
