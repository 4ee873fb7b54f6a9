/**
 * Dialogs that make, rename and delete a key.
 * @module
 */

import { ask, facadeNow, Problem } from "../lib/api.js";
import { shown, textKey, toBase64 } from "../lib/keys.js";
import { html, useState } from "../lib/preact.js";
import { deleteLine, putLine } from "../lib/shell.js";
import { Command, Confirm, note } from "../lib/ui.js";
import { removeValue, writeValue } from "../lib/values.js";

/** @typedef {import("../lib/keys.js").Key} Key */
/** @typedef {import("../lib/values.js").Value} Value */

/**
 * Does something under a condition, and says in words what it means that it does not hold.
 * @template T @param {string} detail @param {Promise<T>} done @returns {Promise<T>}
 */
async function unless(detail, done) {
  try {
    return await done;
  } catch (failed) {
    if (!(failed instanceof Problem) || failed.status !== 412) throw failed;
    throw new Problem({ status: failed.status, code: failed.code, detail, outcome: failed.outcome });
  }
}

/** @param {{prefix: string, onClose: () => void, onMade: (key: Key) => void}} properties */
export function NewKey({ prefix, onClose, onMade }) {
  const [name, setName] = useState(prefix);
  const [text, setText] = useState("");
  const [contentType, setContentType] = useState("text/plain");
  const [ttl, setTtl] = useState("");
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const choose = (/** @type {File | undefined} */ chosen) => {
    setFile(chosen ?? null);
    if (!chosen) return;
    setContentType(chosen.type || "application/octet-stream");
    if (name === prefix) setName(prefix + chosen.name);
  };
  const make = async () => {
    const made = writeValue(textKey(name), file ?? text, { contentType, ttl: ttl.trim(), create: true });
    const revision = await unless("This key is there already. Nothing was changed.", made);
    note(`Made as revision ${revision}.`, "good");
    onMade(textKey(name));
  };
  const field = (/** @type {(text: string) => void} */ set) => (/** @type {any} */ event) => set(event.target.value);
  return html`<${Confirm} title="New key" verb="Create" ready=${name !== ""} onDo=${make} onClose=${onClose}>
    <label>Key <input class="mono" value=${name} onInput=${field(setName)} autocomplete="off" spellcheck=${false} /></label>
    <label>Value <textarea class="code" value=${text} disabled=${file !== null} onInput=${field(setText)} spellcheck=${false}></textarea></label>
    <label>Or a file <input type="file" onChange=${(/** @type {any} */ event) => choose(event.target.files[0])} /></label>
    <div class="row fields">
      <label class="grow">Content type <input value=${contentType} onInput=${field(setContentType)} spellcheck=${false} /></label>
      <label class="grow">Expires in <input value=${ttl} placeholder="never; or 30s, 10m, 24h" onInput=${field(setTtl)} autocomplete="off" /></label>
    </div>
    <p class="quiet">If the key is there already, nothing is changed.</p>
    ${name !== "" && html`<${Command} text=${putLine(textKey(name), file ? null : text, { contentType, ttl: ttl.trim() })} />`}
  <//>`;
}

/** @param {Key} key A key as the operations of a transaction name it. */
function named(key) {
  return "text" in key ? { key: key.text } : { key64: key.b64 };
}

/** @param {Value} value For how long it still is there, as a time to live; empty if it does not expire. */
function lastsFor(value) {
  return value.expiresAt ? `${Math.max(1, Date.parse(value.expiresAt) - facadeNow())}ms` : "";
}

/** Writes a value to a key that is not there, with all that belongs to it. @param {Key} to @param {Value} value */
function copy(to, value) {
  const { contentType, contentEncoding } = value;
  const written = writeValue(to, new Blob([/** @type {BlobPart} */ (value.raw)]), { contentType, contentEncoding, create: true, ttl: lastsFor(value) });
  return unless("The new key is there already. Nothing was changed.", written);
}

/**
 * Moves a value to another key: at once where one shard owns both, else the new key first and then the old one.
 * @param {Key} from @param {Key} to @param {Value} value
 */
export async function rename(from, to, value) {
  const put = {
    op: "put",
    ...named(to),
    value: toBase64(value.raw),
    encoding: "base64",
    content_type: value.contentType,
    ...(value.contentEncoding && { content_encoding: value.contentEncoding }),
  };
  const lasts = lastsFor(value);
  try {
    const done = await ask("POST", "/v1/txn", {
      compare: [{ ...named(from), revision: value.revision }, { ...named(to), absent: true }],
      success: [{ ...put, ...(lasts && { ttl: lasts }) }, { op: "delete", ...named(from) }],
      failure: [],
    });
    if (!done.succeeded) {
      throw new Problem({ status: 409, code: "conflict", detail: "The new key exists, or the old one was changed meanwhile.", outcome: "not_applied" });
    }
    return "at once";
  } catch (error) {
    if (!(error instanceof Problem) || error.code !== "cross_shard") throw error;
  }
  await copy(to, value);
  await unless("The new key is made. The old one was changed meanwhile, and is there too.", removeValue(from, value.revision));
  return "in two steps, since two shards own them";
}

/** @param {{name: Key, value: Value, onClose: () => void, onMoved: (key: Key) => void}} properties */
export function RenameKey({ name, value, onClose, onMoved }) {
  const [text, setText] = useState("text" in name ? name.text : "");
  const [copies, setCopies] = useState(false);
  const move = async () => {
    const to = textKey(text);
    if (copies) {
      await copy(to, value);
      note(`Copied to ${shown(to)}.`, "good");
    } else {
      note(`Renamed to ${shown(to)}, ${await rename(name, to, value)}.`, "good");
    }
    onMoved(to);
  };
  const same = "text" in name && name.text === text;
  return html`<${Confirm} title="Rename or copy" verb=${copies ? "Copy" : "Rename"} ready=${text !== "" && !same} onDo=${move} onClose=${onClose}>
    <p class="mono key-name">${shown(name)}</p>
    <label>New key <input class="mono" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} autocomplete="off" spellcheck=${false} /></label>
    <label class="inline"><input type="checkbox" checked=${copies} onChange=${(/** @type {any} */ event) => setCopies(event.target.checked)} /> copy, and keep this key</label>
  <//>`;
}

/** @param {{name: Key, value: Value, onClose: () => void, onGone: () => void}} properties */
export function DeleteKey({ name, value, onClose, onGone }) {
  const remove = async () => {
    await unless("Somebody changed this key meanwhile. It was not deleted: read it again.", removeValue(name, value.revision));
    note(`${shown(name)} is deleted.`, "good");
    onGone();
  };
  return html`<${Confirm} title="Delete this key?" verb="Delete" danger onDo=${remove} onClose=${onClose}>
    <p class="mono key-name">${shown(name)}</p>
    <p>It is deleted only if revision ${value.revision} is still there.</p>
    <${Command} text=${deleteLine(name, value.revision)} />
  <//>`;
}

