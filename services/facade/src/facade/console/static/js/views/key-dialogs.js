/**
 * Dialogs that make, rename and delete a key.
 * @module
 */

import { ask, facadeNow, Problem } from "../lib/api.js";
import { draftOf, dropDraft, keepDraft } from "../lib/drafts.js";
import { plural } from "../lib/format.js";
import { bytesOf, keyTyped, same, shown, toBase64 } from "../lib/keys.js";
import { useOnce } from "../lib/once.js";
import { html, useState } from "../lib/preact.js";
import { deleteLine, putLine } from "../lib/shell.js";
import { Command, Confirm, note } from "../lib/ui.js";
import { removeValue, writeValue } from "../lib/values.js";

/** @typedef {import("../lib/keys.js").Key} Key */
/** @typedef {import("../lib/values.js").Value} Value */
/** @typedef {import("../lib/once.js").Attempt} Attempt */

/** What is typed of a key that is not made yet. */
const NEW = "new";

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

/** @param {{typed: string}} properties What is said of a key whose name is not what was typed. */
function Meant({ typed }) {
  const key = keyTyped(typed);
  if ("text" in key && key.text === typed) return null;
  return html`<p class="quiet">An escape such as <code>\\u200b</code> is one letter here, and what follows <code>b64:</code> is base64url: this key has ${plural(bytesOf(key).length, "byte")}.</p>`;
}

/** @param {{prefix: string, onClose: () => void, onMade: (key: Key) => void}} properties `prefix` is as `shown` shows it. */
export function NewKey({ prefix, onClose, onMade }) {
  const empty = { name: prefix, text: "", contentType: "text/plain", ttl: "" };
  const [draft] = useState(draftOf(NEW));
  const [fields, setFields] = useState(/** @type {typeof empty} */ (draft ?? empty));
  const { name, text, contentType, ttl } = fields;
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const type = (/** @type {Partial<typeof empty>} */ typed) => {
    const next = { ...fields, ...typed };
    setFields(next);
    // A dialog is closed by one key: what was typed is there again when it is opened again.
    if (next.text) keepDraft(NEW, next);
    else dropDraft(NEW);
  };
  const choose = (/** @type {File | undefined} */ chosen) => {
    setFile(chosen ?? null);
    if (chosen) type({ contentType: chosen.type || "application/octet-stream", ...(name === prefix && { name: prefix + chosen.name }) });
  };
  const once = useOnce();
  const make = async () => {
    const key = keyTyped(name);
    const lasts = ttl.trim();
    const made = once([name, file ?? text, contentType, lasts], (attempt) => writeValue(key, file ?? text, { contentType, ttl: lasts, create: true, idempotencyKey: attempt.key }));
    const revision = await unless("This key is there already. Nothing was changed.", made);
    note(`${shown(key)} is made, as revision ${revision}.`, "good");
    dropDraft(NEW);
    return key;
  };
  const field = (/** @type {string} */ which) => (/** @type {any} */ event) => type({ [which]: event.target.value });
  return html`<${Confirm} title="New key" verb="Create" ready=${name !== ""} onDo=${make} onDone=${onMade} onClose=${onClose}>
    ${draft && fields === draft && html`<p class="quiet">What you typed before is here again. <button type="button" class="small" onClick=${() => type(empty)}>Begin anew</button></p>`}
    <label>Key <input class="mono" value=${name} onInput=${field("name")} autocomplete="off" spellcheck=${false} /></label>
    <${Meant} typed=${name} />
    <label>Value <textarea class="code" value=${text} disabled=${file !== null} onInput=${field("text")} spellcheck=${false}></textarea></label>
    <label>Or a file <input type="file" onChange=${(/** @type {any} */ event) => choose(event.target.files[0])} /></label>
    <div class="row fields">
      <label class="grow">Content type <input value=${contentType} onInput=${field("contentType")} spellcheck=${false} /></label>
      <label class="grow">Expires in <input value=${ttl} placeholder="never; or 30s, 10m, 24h" onInput=${field("ttl")} autocomplete="off" /></label>
    </div>
    <p class="quiet">If the key is there already, nothing is changed.</p>
    ${name !== "" && html`<${Command} text=${putLine(keyTyped(name), file ? null : text, { contentType, ttl: ttl.trim() })} />`}
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

/** Writes a value to a key that is not there, with all that belongs to it. @param {Key} to @param {Value} value @param {Attempt} attempt */
function copy(to, value, attempt) {
  const { contentType, contentEncoding } = value;
  const options = { contentType, contentEncoding, create: true, ttl: attempt.ttl, idempotencyKey: `${attempt.key}-copy` };
  const written = writeValue(to, new Blob([/** @type {BlobPart} */ (value.raw)]), options);
  return unless("The new key is there already. Nothing was changed.", written);
}

/**
 * Moves a value to another key: at once where one shard owns both, else the new key first and then the old one.
 * @param {Key} from @param {Key} to @param {Value} value @param {Attempt} attempt
 */
async function rename(from, to, value, attempt) {
  const put = {
    op: "put",
    ...named(to),
    value: toBase64(value.raw),
    encoding: "base64",
    content_type: value.contentType,
    ...(value.contentEncoding && { content_encoding: value.contentEncoding }),
  };
  const moved = {
    compare: [{ ...named(from), revision: value.revision }, { ...named(to), absent: true }],
    success: [{ ...put, ...(attempt.ttl && { ttl: attempt.ttl }) }, { op: "delete", ...named(from) }],
    failure: [],
  };
  try {
    const done = await ask("POST", "/v1/txn", moved, { "idempotency-key": attempt.key });
    if (!done.succeeded) {
      throw new Problem({ status: 409, code: "conflict", detail: "The new key exists, or the old one was changed meanwhile.", outcome: "not_applied" });
    }
    return "at once";
  } catch (error) {
    if (!(error instanceof Problem) || error.code !== "cross_shard") throw error;
  }
  await copy(to, value, attempt);
  const removed = removeValue(from, value.revision, `${attempt.key}-remove`);
  await unless("The new key is made. The old one was changed meanwhile, and is there too.", removed);
  return "in two steps, since two shards own them";
}

/** @param {{name: Key, value: Value, onClose: () => void, onMoved: (key: Key) => void}} properties */
export function RenameKey({ name, value, onClose, onMoved }) {
  const [text, setText] = useState(shown(name));
  const [copies, setCopies] = useState(false);
  const once = useOnce();
  const to = keyTyped(text);
  const move = async () => {
    const how = await once([text, copies, value.raw], (attempt) => {
      // Told in the same way again, also when it has less time left by then.
      attempt.ttl ??= lastsFor(value);
      return copies ? copy(to, value, attempt) : rename(name, to, value, attempt);
    });
    note(copies ? `Copied to ${shown(to)}.` : `Renamed to ${shown(to)}, ${how}.`, "good");
    return to;
  };
  return html`<${Confirm} title="Rename or copy" verb=${copies ? "Copy" : "Rename"} ready=${text !== "" && !same(name, to)} onDo=${move} onDone=${onMoved} onClose=${onClose}>
    <p class="mono key-name">${shown(name)}</p>
    <label>New key <input class="mono" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} autocomplete="off" spellcheck=${false} /></label>
    <${Meant} typed=${text} />
    <label class="inline"><input type="checkbox" checked=${copies} onChange=${(/** @type {any} */ event) => setCopies(event.target.checked)} /> copy, and keep this key</label>
  <//>`;
}

/** @param {{name: Key, value: Value, onClose: () => void, onGone: () => void}} properties */
export function DeleteKey({ name, value, onClose, onGone }) {
  const once = useOnce();
  const remove = async () => {
    const removed = once([value.revision], (attempt) => removeValue(name, value.revision, attempt.key));
    await unless("Somebody changed this key meanwhile. It was not deleted: read it again.", removed);
    note(`${shown(name)} is deleted.`, "good");
  };
  return html`<${Confirm} title="Delete this key?" verb="Delete" danger onDo=${remove} onDone=${onGone} onClose=${onClose}>
    <p class="mono key-name">${shown(name)}</p>
    <p>It is deleted only if revision ${value.revision} is still there.</p>
    <${Command} text=${deleteLine(name, value.revision)} />
  <//>`;
}

