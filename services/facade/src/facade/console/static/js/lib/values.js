/**
 * Reading and writing values, with the receipt of each answer.
 * @module
 */

import { randomKey, send } from "./api.js";
import { pathOf } from "./keys.js";

/** @typedef {import("./keys.js").Key} Key */
/** @typedef {{mode: string, node: string, shard: string, term: string, index: string, stale: string | null, tookMs: number}} Receipt */
/** @typedef {{data: Uint8Array, contentType: string, contentEncoding: string, revision: string, expiresAt: string | null, receipt: Receipt}} Value */


/** How old a bounded read may be. */
const MAX_STALENESS = "2s";
export const CONSISTENCIES = ["linearizable", "bounded", "eventual"];

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

/** @param {Key} key @param {string} [consistency] @param {AbortSignal} [signal] @returns {Promise<Value>} */
export async function readValue(key, consistency = "linearizable", signal) {
  const started = performance.now();
  const response = await send("GET", readPath(key, consistency), { headers: { accept: "*/*" }, signal });
  const data = new Uint8Array(await response.arrayBuffer());
  const { headers } = response;
  return {
    data,
    contentType: headers.get("content-type") ?? "application/octet-stream",
    contentEncoding: headers.get("content-encoding") ?? "",
    revision: revisionOf(headers),
    expiresAt: headers.get("doug-expires-at"),
    receipt: receiptOf(headers, performance.now() - started),
  };
}

/**
 * Writes a value. It has an idempotency key: sent twice, it happens once.
 * @param {Key} key @param {BodyInit} body
 * @param {{contentType?: string, revision?: string, create?: boolean, ttl?: string, idempotencyKey?: string}} options
 *   `revision` is the one that must still be there; `create` says that the key must not be there.
 * @returns {Promise<string>} The revision.
 */
export async function writeValue(key, body, options) {
  const path = pathOf(key);
  const headers = {
    "content-type": options.contentType || "application/octet-stream",
    "idempotency-key": options.idempotencyKey ?? randomKey(),
    ...(options.revision && { "if-match": `"${options.revision}"` }),
    ...(options.create && { "if-none-match": "*" }),
  };
  const query = options.ttl ? `${path.includes("?") ? "&" : "?"}ttl=${encodeURIComponent(options.ttl)}` : "";
  const response = await send("PUT", path + query, { headers, body });
  return revisionOf(response.headers);
}

/** @param {Key} key @param {string} [revision] */
export async function removeValue(key, revision) {
  const headers = { "idempotency-key": randomKey(), ...(revision && { "if-match": `"${revision}"` }) };
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

