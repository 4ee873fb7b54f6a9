/**
 * Lines for a terminal: the same request as the console sends, for a shell and curl.
 * @module
 */

import { isSignedIn } from "./api.js";
import { parameter, pathOf } from "./keys.js";

/** @typedef {import("./keys.js").Key} Key */

/** What is longer is put into a file first. */
const BODY_MAX = 500;
/**
 * What goes into no line: a zero, which no argument can have, other control characters, which a terminal takes for keys when
 * they are pasted, and half a surrogate. Whoever stored the value may have meant the terminal.
 */
const UNFIT = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]|\p{Surrogate}/u;

/** @param {string} text As one word of a shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {string} data What is sent: as it is, or as what a file has, which somebody has to name. */
function bodyOf(data) {
  return data.length > BODY_MAX || UNFIT.test(data) ? ["--data-binary", "@FILE"] : ["--data-raw", quoted(data)];
}

/**
 * The same request for a terminal. The line runs as it stands; with a session, the variable DOUGDB_TOKEN is the token.
 * @param {string} method @param {string} path @param {Record<string, string>} [headers]
 * @param {string | null} [data] Null where a file is sent.
 */
export function curl(method, path, headers = {}, data) {
  const words = ["curl"];
  if (isSignedIn()) words.push("-H", '"Authorization: Bearer $DOUGDB_TOKEN"');
  if (method !== "GET") words.push("-X", method);
  for (const [name, value] of Object.entries(headers)) words.push("-H", quoted(`${name}: ${value}`));
  if (data === null) words.push("--data-binary", "@FILE");
  else if (data !== undefined) words.push(...bodyOf(data));
  // curl would take a part `.` or `..` of a path for a folder, and ask for another key.
  const readable = path.replaceAll("%2F", "/");
  const folders = readable.split("?")[0].split("/").some((part) => part === "." || part === "..");
  words.push(quoted(`${location.origin}${folders ? path : readable}`));
  return words.join(" ");
}

/**
 * A write of a value, under the condition under which the console would do it.
 * @param {Key} key @param {string | null} text Null where it is no text.
 * @param {{contentType?: string, revision?: string, ttl?: string}} options Without a revision the key must not be there.
 */
export function putLine(key, text, { contentType, revision, ttl }) {
  const path = pathOf(key);
  const headers = {
    "content-type": contentType || "application/octet-stream",
    ...(revision ? { "if-match": `"${revision}"` } : { "if-none-match": "*" }),
  };
  const query = ttl ? `${path.includes("?") ? "&" : "?"}ttl=${encodeURIComponent(ttl)}` : "";
  return curl("PUT", path + query, headers, text);
}

/** @param {Key} key @param {string} revision The one that must still be there. */
export function deleteLine(key, revision) {
  return curl("DELETE", pathOf(key), { "if-match": `"${revision}"` });
}

/** @param {string} method @param {Key} prefix @param {string[]} query @param {Record<string, string>} [headers] Something with all keys that begin so. */
export function rangeLine(method, prefix, query, headers) {
  const all = "text" in prefix && prefix.text === "";
  const parts = [...(all ? [] : [parameter("prefix", prefix)]), ...query];
  return curl(method, `/v1/kv${parts.length ? `?${parts.join("&")}` : ""}`, headers);
}
