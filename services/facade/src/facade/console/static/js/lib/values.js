/**
 * Reading and writing values, with the receipt of each answer.
 * @module
 */

import { Problem, seenHeaders, send } from "./api.js";
import { fromBase64, pathOf } from "./keys.js";

/** @typedef {import("./keys.js").Key} Key */
/** @typedef {{mode: string, node: string, shard: string, term: string, index: string, stale: string | null, tookMs: number}} Receipt */
/** @typedef {{data: Uint8Array, raw: Uint8Array, contentType: string, contentEncoding: string, revision: string, expiresAt: string | null, receipt: Receipt}} Value */


/** A value that is packed is shown unpacked, unless it is larger than this. */
const UNPACKED_BYTES_MAX = 32 << 20;
const UNPACKED = ["gzip", "deflate"];
/** How old a bounded read may be. */
const MAX_STALENESS = "2s";
export const CONSISTENCIES = ["linearizable", "session", "bounded", "eventual"];

/** @param {Headers} headers @param {number} tookMs @returns {Receipt} */
function receiptOf(headers, tookMs) {
  const found = (/** @type {string} */ name) => headers.get(name) ?? "–";
  return {
    mode: found("doug-consistency-used"),
    node: found("doug-served-by"),
    shard: found("doug-shard"),
    term: found("doug-term"),
    index: found("doug-applied-index"),
    stale: headers.get("doug-staleness-ms"),
    tookMs,
  };
}

/** @param {Headers} headers */
function revisionOf(headers) {
  return (headers.get("etag") ?? "").replace(/^W\/|"/g, "");
}

/** @param {Key} key @param {string} consistency */
export function readPath(key, consistency) {
  const path = pathOf(key);
  if (consistency === "linearizable") return path;
  const bound = consistency === "bounded" ? `&max_staleness=${MAX_STALENESS}` : "";
  return `${path}${path.includes("?") ? "&" : "?"}consistency=${consistency}${bound}`;
}

/** @param {string} consistency @returns {Record<string, string>} What a read of this mode sends along. */
export function readHeaders(consistency) {
  return consistency === "session" ? seenHeaders() : {};
}

/** @param {Key} key @param {string} [consistency] @param {AbortSignal} [signal] @returns {Promise<Value>} */
export async function readValue(key, consistency = "linearizable", signal) {
  const started = performance.now();
  let response;
  try {
    response = await send("GET", readPath(key, consistency), { headers: { accept: "*/*", ...readHeaders(consistency) }, signal });
  } catch (failed) {
    // A browser that cannot unpack an answer says no more than that there was none.
    if (failed instanceof Problem && failed.code === "unreachable") return readPacked(key, consistency, signal);
    throw failed;
  }
  const { headers } = response;
  if (headers.get("content-encoding")) {
    // The browser would unpack it, or fail to, so that nobody could write the same bytes again.
    response.body?.cancel().catch(() => {});
    return readPacked(key, consistency, signal);
  }
  const data = new Uint8Array(await response.arrayBuffer());
  return {
    data,
    raw: data,
    contentType: headers.get("content-type") ?? "application/octet-stream",
    contentEncoding: "",
    revision: revisionOf(headers),
    expiresAt: headers.get("doug-expires-at"),
    receipt: receiptOf(headers, performance.now() - started),
  };
}

/** @param {Key} key @param {string} consistency @param {AbortSignal} [signal] @returns {Promise<Value>} */
async function readPacked(key, consistency, signal) {
  const started = performance.now();
  const headers = { accept: "application/json", ...readHeaders(consistency) };
  const response = await send("GET", readPath(key, consistency), { headers, signal });
  const found = await response.json();
  const raw = found.encoding === "base64" ? fromBase64(found.value) : new TextEncoder().encode(found.value);
  return {
    data: await unpacked(raw, found.content_encoding ?? ""),
    raw,
    contentType: found.content_type,
    contentEncoding: found.content_encoding ?? "",
    revision: revisionOf(response.headers),
    expiresAt: found.expires_at ?? null,
    receipt: receiptOf(response.headers, performance.now() - started),
  };
}

/** @param {Uint8Array} raw @param {string} encoding What is shown of it: as it is, if it cannot be unpacked here. */
async function unpacked(raw, encoding) {
  if (!UNPACKED.includes(encoding)) return raw;
  const parts = [];
  let size = 0;
  try {
    const stream = new Blob([/** @type {BlobPart} */ (raw)]).stream();
    const reader = stream.pipeThrough(new DecompressionStream(/** @type {CompressionFormat} */ (encoding))).getReader();
    for (let step = await reader.read(); !step.done; step = await reader.read()) {
      parts.push(step.value);
      size += step.value.length;
      if (size > UNPACKED_BYTES_MAX) {
        await reader.cancel();
        return raw;
      }
    }
  } catch {
    return raw;
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/**
 * Writes a value. Sent twice with one idempotency key, it happens once.
 * @param {Key} key @param {BodyInit} body
 * @param {{contentType?: string, contentEncoding?: string, revision?: string, create?: boolean, ttl?: string, idempotencyKey: string}} options
 *   `revision` is the one that must still be there; `create` says that the key must not be there.
 * @returns {Promise<string>} The revision.
 */
export async function writeValue(key, body, options) {
  const path = pathOf(key);
  const headers = {
    "content-type": options.contentType || "application/octet-stream",
    ...(options.contentEncoding && { "content-encoding": options.contentEncoding }),
    "idempotency-key": options.idempotencyKey,
    ...(options.revision && { "if-match": `"${options.revision}"` }),
    ...(options.create && { "if-none-match": "*" }),
  };
  const query = options.ttl ? `${path.includes("?") ? "&" : "?"}ttl=${encodeURIComponent(options.ttl)}` : "";
  const response = await send("PUT", path + query, { headers, body });
  return revisionOf(response.headers);
}

/** @param {Key} key @param {string} revision The one that must still be there. @param {string} idempotencyKey */
export async function removeValue(key, revision, idempotencyKey) {
  const headers = { "idempotency-key": idempotencyKey, ...(revision && { "if-match": `"${revision}"` }) };
  await send("DELETE", pathOf(key), { headers });
}

/** @param {Uint8Array} data @returns {string | null} Null when it is not UTF-8. */
export function textOf(data) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
  } catch {
    return null;
  }
}

