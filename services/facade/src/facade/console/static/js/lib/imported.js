/**
 * What a file that is taken in says, line by line, before anything of it is written. A line is an entry, or what the first or the
 * last line of an export is; whatever else it is, is told with its number and the reason: nothing is left out without a word.
 * @module
 */

/** @typedef {{line: number, why: string}} Left A line that was not taken, by its number from 1, and why. */
/** @typedef {{op: "put", key?: string, key64?: string, value: string, encoding?: string, content_type?: string, content_encoding?: string, ttl?: string}} Put */
/** @typedef {{line: number, put: Put}} Entry */
/** @typedef {Record<string, any>} Members */

const FIRST = "dougdb_export";
const MEMBERS = ["key", "key64", "value", "encoding", "revision", "content_type", "content_encoding", "expires_at"];
const VALUE_BYTES_MAX = 1 << 20;
const NAMED = 5;

/** @param {string} line @returns {any} Undefined if it is no JSON. */
export function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** @param {string} text However long it is: a pattern for all of it would keep a place for each four letters. */
function isBase64(text) {
  const end = text.indexOf("=");
  return text.length % 4 === 0 && !/[^\w+/=]|_/.test(text) && (end < 0 || /^==?$/.test(text.slice(end)));
}

/** @param {string} value @param {boolean} packed Whether it is base64. */
function bytesIn(value, packed) {
  if (packed) return (value.length / 4) * 3 - (value.endsWith("==") ? 2 : value.endsWith("=") ? 1 : 0);
  return value.length > VALUE_BYTES_MAX ? value.length : new TextEncoder().encode(value).length;
}

/** @param {Members} entry @returns {string} Why it is none; empty if it is one. */
function wrongOf(entry) {
  const strange = Object.keys(entry).find((name) => !MEMBERS.includes(name));
  if (strange !== undefined) return `it has ${JSON.stringify(strange)}, which no entry has`;
  if (("key" in entry) === ("key64" in entry)) return 'an entry has either "key" or "key64"';
  if (!("value" in entry)) return "it has no value";
  const texts = ["key", "key64", "value", ...["content_type", "content_encoding", "expires_at"].filter((name) => (entry[name] ?? null) !== null)];
  const noText = texts.find((name) => name in entry && typeof entry[name] !== "string");
  if (noText !== undefined) return `its ${noText} is no text`;
  if (texts.some((name) => /\p{Surrogate}/u.test(entry[name] ?? ""))) return "half of a surrogate pair is no text";
  if (!["utf-8", "base64"].includes(entry.encoding ?? "utf-8")) return "its encoding is neither utf-8 nor base64";
  if (entry.encoding === "base64" && !isBase64(entry.value)) return "its value is no base64";
  if (bytesIn(entry.value, entry.encoding === "base64") > VALUE_BYTES_MAX) return "its value has more than 1 MiB";
  if (!/^[\w-]*$/.test(entry.key64 ?? "") || entry.key64?.length % 4 === 1) return "its key64 is no base64url";
  if ((entry.expires_at ?? null) !== null && Number.isNaN(Date.parse(entry.expires_at))) return "its expires_at is no time";
  return "";
}

/** @param {Members} entry @param {number} now @returns {Put | null} Null if its time has passed. */
function putOf(entry, now) {
  const { key, key64, value, encoding, content_type, content_encoding, expires_at } = entry;
  const lasts = expires_at ? Date.parse(expires_at) - now : null;
  if (lasts !== null && lasts <= 0) return null;
  return {
    op: "put",
    ...(key64 === undefined ? { key } : { key64 }),
    value,
    encoding: encoding ?? "utf-8",
    ...(content_type && { content_type }),
    ...(content_encoding && { content_encoding }),
    ...(lasts !== null && { ttl: `${Math.ceil(lasts)}ms` }),
  };
}

/**
 * @param {string} text The file. @param {number} now Milliseconds since the epoch, as the facade has it.
 * @returns {{entries: Entry[], expired: Left[], wrong: Left[]}} With a `wrong` line nothing of it should be written.
 */
export function readLines(text, now) {
  const found = { entries: /** @type {Entry[]} */ ([]), expired: /** @type {Left[]} */ ([]), wrong: /** @type {Left[]} */ ([]) };
  /** Where an export began whose last line did not come yet; and the entries since the one before. */
  let begun = 0;
  let count = 0;
  text.replace(/^\ufeff/, "").split("\n").forEach((each, place) => {
    if (!each.trim()) return;
    const line = place + 1;
    const document = parsed(each);
    const refuse = (/** @type {string} */ why) => found.wrong.push({ line, why });
    if (document === undefined) refuse("it is no JSON");
    else if (document === null || typeof document !== "object" || Array.isArray(document)) refuse("it is no JSON object");
    else if (FIRST in document) begun = line;
    else if ("complete" in document && !("key" in document) && !("key64" in document)) {
      if (document.complete !== true) refuse("it says that the export broke off");
      else if (document.count !== undefined && document.count !== count) refuse(`it counts ${document.count} entries, and ${count} are before it`);
      begun = count = 0;
    } else {
      count++;
      const why = wrongOf(document);
      const put = why ? null : putOf(document, now);
      if (why) refuse(why);
      else if (put) found.entries.push({ line, put });
      else found.expired.push({ line, why: "it had expired" });
    }
  });
  if (begun) found.wrong.push({ line: begun, why: "the export that begins there has no last line: it broke off" });
  return found;
}

/** @param {Left[]} left @param {number} total So many there are; the first few of them are named, with their reasons. */
export function naming(left, total) {
  const named = left.slice(0, NAMED).map(({ line, why }) => `line ${line}: ${why.replace(/\.$/, "")}`);
  return `${named.join("; ")}${total > named.length ? `; and ${total - named.length} more` : ""}.`;
}
