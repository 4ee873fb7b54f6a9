/**
 * What is done with all keys of a prefix: counting, deleting, sending them out and taking them in.
 * @module
 */

import { ask, facadeNow, Problem, read, send } from "../lib/api.js";
import { count, plural } from "../lib/format.js";
import { naming, parsed, readLines } from "../lib/imported.js";
import { parameter, shown } from "../lib/keys.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { useRights } from "../lib/rights.js";
import { rangeLine } from "../lib/shell.js";
import { Command, Confirm, Dialog, explain, note, save, Trouble } from "../lib/ui.js";
import { textOf } from "../lib/values.js";

/** @typedef {import("../lib/keys.js").Key} Key */
/** @typedef {import("../lib/imported.js").Entry} Entry */
/** @typedef {import("../lib/imported.js").Left} Left */

const LINES_AT_ONCE = 500;
const LINE_BYTES_AT_ONCE = 1 << 20;
/** The last line of an export has a revision for each shard. */
const LAST_LINE_BYTES_MAX = 1 << 20;
/** So many lines that were left out are kept, to be named. */
const LEFT_MAX = 20;

/** @param {string} text A sentence of it. */
const upper = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** @param {string} done @param {unknown} failed What went wrong half-way, behind what was done until then. */
function behind(done, failed) {
  if (!(failed instanceof Problem)) return new Error(`${done} ${explain(failed)}`);
  const { status, code, detail, outcome } = failed;
  return new Problem({ status, code, detail: `${done} ${detail}`, outcome });
}

/** @param {Key} prefix */
function rangeOf(prefix) {
  return "text" in prefix && prefix.text === "" ? "" : parameter("prefix", prefix);
}

/** @param {{prefix: Key, onChange: () => void}} properties */
export function PrefixTools({ prefix, onChange }) {
  const [what, setWhat] = useState(/** @type {"" | "delete" | "export" | "import" | "count"} */ (""));
  const [taken, setTaken] = useState(/** @type {Taken | null} */ (null));
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
    ${what === "import" && html`<${Import} onClose=${close} onChange=${onChange} onTaken=${(/** @type {Taken} */ each) => setTaken(each.left.length ? each : null)} />`}
    ${taken && html`<${LeftOut} taken=${taken} onClose=${() => setTaken(null)} />`}`;
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
    try {
      do {
        const step = await ask("DELETE", `/v1/kv?${range}${cursor && `&cursor=${cursor}`}`);
        total += step.deleted;
        setGone(total);
        cursor = step.next_cursor ?? "";
      } while (cursor && !ended.current);
    } catch (failed) {
      throw behind(`${plural(total, "key")} deleted; then it stopped:`, failed);
    } finally {
      onChange();
    }
    note(`${plural(total, "key")} deleted${cursor ? "; the rest was left" : ""}.`, cursor ? "bad" : "good");
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

/** @typedef {{taken: number, expired: number, refused: number, left: Left[]}} Taken What came of an import; `left` are the first of the lines that were left out. */

/**
 * Writes entries, some hundred at a time.
 * @param {Entry[]} entries @param {boolean} spares Whether keys that exist are left alone. @param {() => boolean} goesOn
 * @param {(written: number) => void} onStep
 * @returns {Promise<{written: number, kept: number, refused: number, left: Left[], done: number}>} `done` entries were dealt with.
 * @throws What stopped it, with what was written before.
 */
async function writeAll(entries, spares, goesOn, onStep) {
  const told = { written: 0, kept: 0, refused: 0, left: /** @type {Left[]} */ ([]), done: 0 };
  while (told.done < entries.length && goesOn()) {
    let size = 0;
    const part = /** @type {Entry[]} */ ([]);
    for (const entry of entries.slice(told.done, told.done + LINES_AT_ONCE)) {
      size += entry.put.value.length;
      if (part.length && size > LINE_BYTES_AT_ONCE) break;
      part.push(entry);
    }
    let stopped = null;
    try {
      const operations = part.map(({ put }) => (spares ? { ...put, if_absent: true } : put));
      const { results } = await ask("POST", "/v1/batch", { operations });
      results.forEach((/** @type {any} */ each, /** @type {number} */ at) => {
        if (each.status === 200) told.written++;
        else if (each.status === 412) told.kept++;
        else if (each.status < 500 && each.status !== 429) {
          told.refused++;
          if (told.left.length < LEFT_MAX) told.left.push({ line: part[at].line, why: each.detail ?? `${each.status}` });
        } else stopped ??= new Problem({ detail: `The answer was ${each.status}.`, code: "refused", ...each });
      });
    } catch (failed) {
      stopped = failed;
    }
    if (stopped) throw behind(`${plural(told.written, "key")} imported${told.refused ? `, ${plural(told.refused, "line")} refused` : ""}; then it stopped:`, stopped);
    told.done += part.length;
    onStep(told.written);
  }
  return told;
}

/** @param {{onClose: () => void, onChange: () => void, onTaken: (taken: Taken) => void}} properties */
function Import({ onClose, onChange, onTaken }) {
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
    const { entries, expired, wrong } = readLines(text, facadeNow());
    if (wrong.length) throw new Error(`Nothing was written: ${plural(wrong.length, "line is no entry", "lines are no entries")}. ${upper(naming(wrong, wrong.length))}`);
    if (entries.length + expired.length === 0) throw new Error("The file has no entries. Nothing was written.");
    let all;
    try {
      all = await writeAll(entries, spares, () => !ended.current, (written) => setTold(`${count(written)} of ${count(entries.length)} written`));
    } finally {
      onChange();
    }
    const { written, kept, refused, left, done } = all;
    const taken = { taken: written, expired: expired.length, refused, left: [...left, ...expired.slice(0, LEFT_MAX)] };
    const words = [
      `${plural(written, "key")} imported`,
      ...(kept ? [`${kept} were there already`] : []),
      ...(expired.length ? [`${count(expired.length)} had expired`] : []),
      ...(refused ? [`${refused} refused`] : []),
    ];
    const rest = done < entries.length;
    const kind = rest || refused ? "bad" : kept || expired.length ? "info" : "good";
    // Whoever has closed the dialog reads here which lines they were.
    const which = ended.current && taken.left.length ? ` ${upper(naming(taken.left, refused + expired.length))}` : "";
    note(`${words.join(", ")}${rest ? "; the rest was left" : ""}.${which}`, kind);
    return taken;
  };
  return html`<${Confirm} title="Import NDJSON" verb="Import" ready=${file !== null} onDo=${take} onDone=${onTaken} onClose=${onClose}>
    <p>Lines as an export has them: <code>{"key": …, "value": …, "encoding": "utf-8"}</code>. If one is none, nothing is written.</p>
    <label>File <input type="file" accept=".ndjson,.jsonl,.json,application/x-ndjson" onChange=${(/** @type {any} */ event) => setFile(event.target.files[0] ?? null)} /></label>
    <label class="inline"><input type="checkbox" checked=${spares} onChange=${(/** @type {any} */ event) => setSpares(event.target.checked)} /> leave keys alone that exist</label>
    <p class="quiet">Closing this stops behind the step that is under way. In a terminal:</p>
    <${Command} text=${`dougctl import ${spares ? "--if-absent " : ""}FILE`} />
    <p role="status">${told}</p>
  <//>`;
}

/** @param {{taken: Taken, onClose: () => void}} properties Which lines an import left out, and why. */
function LeftOut({ taken, onClose }) {
  const total = taken.expired + taken.refused;
  return html`<${Dialog} title=${`${plural(total, "line was", "lines were")} not imported`} onClose=${onClose}>
    <p role="status">${plural(taken.taken, "key")} imported. ${upper(naming(taken.left, total))}</p>
    <div class="row end"><button type="button" onClick=${onClose}>Close</button></div>
  <//>`;
}
