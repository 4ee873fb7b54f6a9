/**
 * Keys as the API names them: text, or base64url when they are not UTF-8.
 * @module
 */

/** @typedef {{text: string} | {b64: string}} Key */

const UTF8 = new TextEncoder();
/** What begins the name of a key that is no text. */
const BYTES = "b64:";

/** @param {string} text @returns {Key} */
export const textKey = (text) => ({ text });

/** @param {{key?: string, key64?: string}} entry @returns {Key} */
export function keyOf(entry) {
  return entry.key64 === undefined ? { text: entry.key ?? "" } : { b64: entry.key64 };
}

/** @param {Uint8Array} data @returns {Key} */
export function keyOfBytes(data) {
  try {
    return { text: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data) };
  } catch {
    return { b64: urlSafe(data) };
  }
}

/** @param {string | {prefix64: string}} prefix @returns {Key} */
export function prefixOf(prefix) {
  return typeof prefix === "string" ? { text: prefix } : { b64: prefix.prefix64 };
}

/** @param {Uint8Array} data */
export function toBase64(data) {
  let text = "";
  for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
  return btoa(text);
}

/** @param {Uint8Array} data */
function urlSafe(data) {
  return toBase64(data).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}

/** @param {Key} key @returns {Uint8Array} */
export function bytesOf(key) {
  return "text" in key ? UTF8.encode(key.text) : fromBase64(key.b64);
}

/** @param {Key} key */
export function base64url(key) {
  return "b64" in key ? key.b64 : urlSafe(UTF8.encode(key.text));
}

/**
 * The path of a key. A browser would take a key `.` or `..` for a folder, so those are named in base64url.
 * @param {Key} key
 */
export function pathOf(key) {
  if ("b64" in key || key.text === "." || key.text === "..") return `/v1/kv?key64=${base64url(key)}`;
  return `/v1/kv/${encodeURIComponent(key.text)}`;
}

/** Whatever is not seen as what it is: controls, marks of direction, fillers, other spaces; and what would be an escape. */
const HIDDEN = /\\(?=u(?:[0-9a-fA-F]{4}|\{[0-9a-fA-F]{1,6}\}))|[\p{C}\p{Zl}\p{Zp}\p{DI}]|(?! )\p{Zs}/gu;
/** What may be another way to write a letter: marks and parts that are put together; and letters that stand for another one. */
const PARTS = /[\p{M}\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]|[^\0-\x7f]/gu;
const PART = /[\p{M}\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]/u;
const ESCAPE = /\\u(?:([0-9a-fA-F]{4})|\{([0-9a-fA-F]{1,6})\})/g;

/** @param {string} letter */
function escaped(letter) {
  const point = /** @type {number} */ (letter.codePointAt(0)).toString(16);
  return point.length > 4 ? `\\u{${point}}` : `\\u${point.padStart(4, "0")}`;
}

/** @param {Key} key As people read it: no two keys are shown by the same letters. `keyTyped` makes the key of it again. */
export function shown(key) {
  if ("b64" in key || key.text.startsWith(BYTES)) return keyForLink(key);
  const text = key.text.replace(HIDDEN, escaped);
  if (text === text.normalize()) return text;
  return text.replace(PARTS, (letter) => (PART.test(letter) || letter !== letter.normalize() ? escaped(letter) : letter));
}

/** @param {string} typed A key as `shown` shows it: text, with `\u200b` and the like for what is not seen, or `b64:` and base64url. */
export function keyTyped(typed) {
  if (typed.startsWith(BYTES)) return keyFromLink(typed);
  return textKey(
    typed.replace(ESCAPE, (escape, four, more) => {
      const point = Number.parseInt(four ?? more, 16);
      return point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff) ? escape : String.fromCodePoint(point);
    }),
  );
}

/** @param {Key} one @param {Key} other */
export function same(one, other) {
  return base64url(one) === base64url(other);
}

/** @param {string} name @param {Key} key The parameter of a query that names a key or a prefix. */
export function parameter(name, key) {
  return "text" in key ? `${name}=${encodeURIComponent(key.text)}` : `${name}64=${key.b64}`;
}

/**
 * What a link names: `b64:` and base64url, or text. Anybody can make a link: whatever is no base64url is text.
 * @param {string} text @returns {Key}
 */
export function keyFromLink(text) {
  const named = text.slice(BYTES.length);
  if (!text.startsWith(BYTES) || !/^[\w-]*$/.test(named) || named.length % 4 === 1) return textKey(text);
  return keyOfBytes(fromBase64(named));
}

/** @param {Key} key */
export function keyForLink(key) {
  return "text" in key && !key.text.startsWith(BYTES) ? key.text : `${BYTES}${base64url(key)}`;
}
