/**
 * What is done with all keys of a prefix: counting, deleting, sending them out and taking them in.
 * @module
 */

import { ask, facadeNow, read, send } from "../lib/api.js";
import { count, plural } from "../lib/format.js";
import { parameter, shown } from "../lib/keys.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { useRights } from "../lib/rights.js";
import { rangeLine } from "../lib/shell.js";
import { Command, Confirm, Dialog, note, save, Trouble } from "../lib/ui.js";
import { textOf } from "../lib/values.js";

/** @typedef {import("../lib/keys.js").Key} Key */

const LINES_AT_ONCE = 500;
const LINE_BYTES_AT_ONCE = 1 << 20;
/** The last line of an export has a revision for each shard. */
const LAST_LINE_BYTES_MAX = 1 << 20;

/** @param {Key} prefix */
function rangeOf(prefix) {
  return "text" in prefix && prefix.text === "" ? "" : parameter("prefix", prefix);
}

/** @param {{prefix: Key, onChange: () => void}} properties */
export function PrefixTools({ prefix, onChange }) {
  const [what, setWhat] = useState(/** @type {"" | "delete" | "export" | "import" | "count"} */ (""));
  const close = () => setWhat("");
  const rights = useRights();
  const noRead = rights.lacks("read", prefix) !== "";
  return html`<select class="small" aria-label="Do with all of these" value="" onChange=${(/** @type {any} */ event) => { setWhat(event.target.value); event.target.value = ""; }}>
      <option value="">All of these…</option>
      <option value="count" disabled=${noRead}>Count</option>
      <option value="export" disabled=${noRead}>Export as NDJSON</option>
      <option value="import" disabled=${rights.lacks("write") !== ""}>Import NDJSON</option>
      <option value="delete" disabled=${noRead || rights.lacks("write", prefix) !== ""}>Delete</option>
    </select>
    ${what === "count" && html`<${CountKeys} prefix=${prefix} onClose=${close} />`}
    ${what === "delete" && html`<${DeletePrefix} prefix=${prefix} onClose=${close} onChange=${onChange} />`}
    ${what === "export" && html`<${ExportPrefix} prefix=${prefix} onClose=${close} />`}
    ${what === "import" && html`<${Import} onClose=${close} onChange=${onChange} />`}`;
}

/** @param {Key} prefix */
function useCount(prefix) {
  const [found, setFound] = useState(/** @type {number | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  useEffect(() => {
    const controller = new AbortController();
    read(`/v1/kv?count_only=true&${rangeOf(prefix)}`, controller.signal).then(
      (answer) => setFound(answer.count),
      (failed) => controller.signal.aborted || setError(failed),
    );
    return () => controller.abort();
  }, []);
  return { found, error };
}

/** @param {{prefix: Key}} properties */
function What({ prefix }) {
  return html`<p class="mono key-name">${shown(prefix) || "(all keys)"}</p>`;
}

/** @param {{prefix: Key, onClose: () => void}} properties */
function CountKeys({ prefix, onClose }) {
  const { found, error } = useCount(prefix);
  return html`<${Dialog} title="Keys with this prefix" onClose=${onClose}>
    <${What} prefix=${prefix} />
    <${Trouble} error=${error} />
    <p class="big" role="status">${found === null ? (error ? "" : "Counting…") : plural(found, "key")}</p>
    <${Command} text=${rangeLine("GET", prefix, ["count_only=true"])} />
    <div class="row end"><button type="button" onClick=${onClose}>Close</button></div>
  <//>`;
}

/** @param {{prefix: Key, onClose: () => void, onChange: () => void}} properties */
function DeletePrefix({ prefix, onClose, onChange }) {
  const { found, error } = useCount(prefix);
  const [gone, setGone] = useState(0);
  const ended = useRef(false);
  useEffect(() => () => {
    ended.current = true;
  }, []);
  const remove = async () => {
    const range = rangeOf(prefix) || "all=true";
    let cursor = "";
    let total = 0;
    do {
      const step = await ask("DELETE", `/v1/kv?${range}${cursor && `&cursor=${cursor}`}`);
      total += step.deleted;
      setGone(total);
      cursor = step.next_cursor ?? "";
    } while (cursor && !ended.current);
    note(`${plural(total, "key")} deleted${cursor ? "; the rest was left" : ""}.`, cursor ? "bad" : "good");
    onChange();
  };
  return html`<${Confirm} title="Delete all keys with this prefix?" verb="Delete them" danger ready=${found !== null && found > 0} typed=${found === null ? undefined : String(found)} onDo=${remove} onClose=${onClose}>
    <${What} prefix=${prefix} />
    <${Trouble} error=${error} />
    <p role="status">${found === null ? "Counting…" : found === 0 ? "There are none." : html`<b>${plural(found, "key")}</b> would go now.`}
    ${gone > 0 && ` ${count(gone)} are deleted.`}</p>
    <p class="quiet">Keys that come meanwhile go too. Closing this stops behind the step that is under way.</p>
    <p class="quiet">In a terminal, of many keys some at a time: while the answer names a <code>next_cursor</code>, send it again with <code>cursor=</code>.</p>
    <${Command} text=${rangeLine("DELETE", prefix, rangeOf(prefix) ? [] : ["all=true"])} />
  <//>`;
}

/** @param {{prefix: Key, onClose: () => void}} properties */
function ExportPrefix({ prefix, onClose }) {
  const { found, error } = useCount(prefix);
  const take = async () => {
    const response = await send("GET", `/v1/kv?${rangeOf(prefix)}`, { headers: { accept: "application/x-ndjson" } });
    const blob = await response.blob();
    const text = await blob.slice(-LAST_LINE_BYTES_MAX).text();
    const last = parsed(text.trim().split("\n").pop() ?? "");
    if (last?.complete !== true) throw new Error("The export broke off: not all keys are in it.");
    save(blob, `${shown(prefix).replace(/[^\w.-]+/g, "_") || "all"}.ndjson`);
    note(`Exported ${plural(last.count, "key")}.`, "good");
  };
  return html`<${Confirm} title="Export as NDJSON" verb="Export" ready=${found !== null} onDo=${take} onClose=${onClose}>
    <${What} prefix=${prefix} />
    <${Trouble} error=${error} />
    <p role="status">${found === null ? "Counting…" : plural(found, "key")}: one line each, with value, content type and expiry.</p>
    <p class="quiet">This goes through the browser's memory. In a terminal there may be any number:</p>
    <${Command} text=${rangeLine("GET", prefix, [], { accept: "application/x-ndjson" })} />
  <//>`;
}

/** @param {string} line @returns {any} Null if it is no JSON. */
function parsed(line) {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

/** @param {Record<string, any>} line A line of an export as an operation of a batch. */
function operation(line) {
  const { key, key64, value, encoding, content_type, content_encoding, expires_at } = line;
  const lasts = expires_at ? Date.parse(expires_at) - facadeNow() : null;
  if (lasts !== null && lasts <= 0) return null;
  return { op: "put", key, key64, value, encoding, content_type, content_encoding, ...(lasts !== null && { ttl: `${Math.ceil(lasts)}ms` }) };
}

/** @param {{onClose: () => void, onChange: () => void}} properties */
function Import({ onClose, onChange }) {
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const [spares, setSpares] = useState(true);
  const [told, setTold] = useState("");
  const ended = useRef(false);
  useEffect(() => () => {
    ended.current = true;
  }, []);
  const take = async () => {
    const text = textOf(new Uint8Array(await /** @type {File} */ (file).arrayBuffer()));
    if (text === null) throw new Error("The file is no UTF-8, as an export is. Nothing was written.");
    const lines = text.replace(/^\ufeff/, "").split("\n").filter((line) => line.trim());
    const operations = lines.map((line, place) => {
      const found = parsed(line);
      if (found === null || typeof found !== "object") throw new Error(`Line ${place + 1} is no JSON of an export. Nothing was written.`);
      if (found.value !== undefined && typeof found.value !== "string") throw new Error(`The value of line ${place + 1} is no text. Nothing was written.`);
      return found;
    }).filter((line) => line.value !== undefined).map(operation).filter((each) => each !== null);
    let written = 0;
    let kept = 0;
    let at = 0;
    while (at < operations.length && !ended.current) {
      let size = 0;
      const part = [];
      while (at < operations.length && part.length < LINES_AT_ONCE && (part.length === 0 || size < LINE_BYTES_AT_ONCE)) {
        const each = operations[at++];
        size += each?.value.length ?? 0;
        part.push(spares ? { ...each, if_absent: true } : each);
      }
      const { results } = await ask("POST", "/v1/batch", { operations: part });
      written += results.filter((/** @type {any} */ each) => each.status === 200).length;
      kept += results.filter((/** @type {any} */ each) => each.status === 412).length;
      const failed = results.find((/** @type {any} */ each) => each.status !== 200 && each.status !== 412);
      if (failed) throw new Error(`${written} written, then: ${failed.detail}`);
      setTold(`${written} of ${operations.length} written`);
    }
    const rest = at < operations.length;
    note(`${plural(written, "key")} imported${kept ? `, ${kept} were there already` : ""}${rest ? "; the rest was left" : ""}.`, rest ? "bad" : "good");
    onChange();
  };
  return html`<${Confirm} title="Import NDJSON" verb="Import" ready=${file !== null} onDo=${take} onClose=${onClose}>
    <p>Lines as an export has them: <code>{"key": …, "value": …, "encoding": "utf-8"}</code></p>
    <label>File <input type="file" accept=".ndjson,.jsonl,.json,application/x-ndjson" onChange=${(/** @type {any} */ event) => setFile(event.target.files[0] ?? null)} /></label>
    <label class="inline"><input type="checkbox" checked=${spares} onChange=${(/** @type {any} */ event) => setSpares(event.target.checked)} /> leave keys alone that exist</label>
    <p class="quiet">Closing this stops behind the step that is under way. In a terminal:</p>
    <${Command} text=${`dougctl import ${spares ? "--if-absent " : ""}FILE`} />
    <p role="status">${told}</p>
  <//>`;
}
