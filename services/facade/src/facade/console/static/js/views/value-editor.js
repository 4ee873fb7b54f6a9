/**
 * Changing a value. It is saved only if it is still what was read; if not, both versions are shown.
 * @module
 */

import { onSession, Problem, randomKey } from "../lib/api.js";
import { jsonOf, pretty } from "../lib/json.js";
import { base64url } from "../lib/keys.js";
import { html, useState } from "../lib/preact.js";
import { putLine } from "../lib/shell.js";
import { Command, note, Trouble } from "../lib/ui.js";
import { readValue, textOf, writeValue } from "../lib/values.js";

/** @typedef {import("../lib/values.js").Value} Value */

const TEXT_MAX = 1 << 20;

/**
 * What was typed and neither saved nor cancelled, by key, with what was read before: whoever follows a link comes back to it.
 * @type {Map<string, {value: Value, text: string}>}
 */
const drafts = new Map();
const DRAFTS_MAX = 20;

onSession(() => drafts.clear());
addEventListener("beforeunload", (event) => drafts.size > 0 && event.preventDefault());

/** @param {string} id @param {Value} value @param {string} text */
function keepDraft(id, value, text) {
  drafts.delete(id);
  drafts.set(id, { value, text });
  for (const oldest of [...drafts.keys()].slice(0, -DRAFTS_MAX)) drafts.delete(oldest);
}

/** @param {string} text How its lines end: `LF` where there is no carriage return. */
function endsOf(text) {
  if (!text.includes("\r")) return "LF";
  return /(^|[^\r])\n|\r(?!\n)/.test(text) ? "mixed" : "CRLF";
}

/** @param {{mine: string, theirs: Value | null, onMine: () => void, onTheirs: () => void}} properties */
function Conflict({ mine, theirs, onMine, onTheirs }) {
  const text = theirs === null ? null : textOf(theirs.data);
  return html`<div class="conflict" role="alert">
    <p><b>Somebody else changed this key meanwhile.</b> ${theirs === null ? "It is not there any more." : `It is at revision ${theirs.revision} now.`} Nothing was saved.</p>
    <div class="versions">
      <div><h3>Yours</h3><pre class="value" tabindex="0">${mine}</pre></div>
      <div><h3>What is there now</h3>${theirs === null ? html`<p class="quiet">no such key</p>` : html`<pre class="value" tabindex="0">${text ?? "(not text)"}</pre>`}</div>
    </div>
    <div class="row end">
      <button type="button" onClick=${onTheirs}>Take what is there</button>
      <button type="button" class="danger" onClick=${onMine}>Save mine over it</button>
    </div>
  </div>`;
}

/** @param {{name: import("../lib/keys.js").Key, value: Value, onDone: () => void, onClose: () => void}} properties */
export function ValueEditor({ name, value: read, onDone, onClose }) {
  const id = base64url(name);
  const [draft] = useState(drafts.get(id));
  // It is saved under the revision of what was seen when it was begun.
  const [value] = useState(draft?.value ?? read);
  const readable = value.data.length <= TEXT_MAX && !value.contentEncoding ? textOf(value.data) : null;
  const [text, setText] = useState(draft?.text ?? readable ?? "");
  const type = (/** @type {string} */ typed) => {
    setText(typed);
    keepDraft(id, value, typed);
  };
  const leave = (/** @type {() => void} */ then) => {
    drafts.delete(id);
    then();
  };
  const ends = endsOf(readable ?? "");
  // A field of text makes all ends of lines the same: what was read is written again.
  const written = ends === "CRLF" ? text.replace(/\r?\n/g, "\r\n") : text;
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const [contentType, setContentType] = useState(value.contentType);
  const [expiry, setExpiry] = useState(value.expiresAt ? "keep" : "");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [conflict, setConflict] = useState(/** @type {{theirs: Value | null} | null} */ (null));
  // A repetition of what nobody knows the outcome of is the same request, so that it happens once.
  const [attempt, setAttempt] = useState({ key: randomKey(), of: "" });
  const save = async (/** @type {{revision?: string, create?: boolean}} */ condition) => {
    setBusy(true);
    setError(null);
    const of = JSON.stringify([text, file?.name, contentType, expiry, condition]);
    const key = attempt.of === of ? attempt.key : randomKey();
    setAttempt({ key, of });
    try {
      const ttl = expiry.trim();
      const revision = await writeValue(name, file ?? written, { contentType, ttl, idempotencyKey: key, ...condition });
      note(`Saved as revision ${revision}.`, "good");
      leave(onDone);
      return;
    } catch (failed) {
      if (failed instanceof Problem && failed.status === 412) {
        try {
          setConflict({ theirs: await readValue(name) });
        } catch (gone) {
          if (gone instanceof Problem && gone.status === 404) setConflict({ theirs: null });
          else setError(gone);
        }
      } else {
        setError(failed);
      }
    }
    setBusy(false);
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    save({ revision: value.revision });
  };
  const isJson = contentType.split(";")[0].trim().endsWith("json");
  const wrong = isJson && !file && text !== "" && jsonOf(text) === undefined;
  return html`<form class="editor" onSubmit=${submit}>
    ${readable === null
      ? html`<p class="quiet">This value is not text that can be edited here: choose a file to put in its place.</p>`
      : html`<label><span class="hidden">Value</span><textarea class="code" value=${text} disabled=${file !== null} spellcheck=${false} onInput=${(/** @type {any} */ event) => type(event.target.value)}></textarea></label>`}
    ${draft && html`<p class="quiet">What you typed before is here again; it began with revision ${value.revision}.</p>`}
    <div class="row fields">
      <label class="grow">Content type <input value=${contentType} onInput=${(/** @type {any} */ event) => setContentType(event.target.value)} spellcheck=${false} /></label>
      <label class="grow">Expires in <input value=${expiry} placeholder="never; or 30s, 10m, keep" onInput=${(/** @type {any} */ event) => setExpiry(event.target.value)} autocomplete="off" /></label>
      <label class="grow">Or a file <input type="file" onChange=${(/** @type {any} */ event) => setFile(event.target.files[0] ?? null)} /></label>
    </div>
    ${ends === "mixed" && !file && html`<p class="warn-text">Its lines end in more than one way; once you change it here, all end in LF.</p>`}
    ${wrong && html`<p class="warn-text">This is not valid JSON. It can be saved all the same.</p>`}
    <${Trouble} error=${error} />
    ${!conflict && html`<${Command} text=${putLine(name, file || readable === null ? null : written, { contentType, revision: value.revision, ttl: expiry.trim() })} />`}
    ${conflict &&
    html`<${Conflict} mine=${file ? file.name : text} theirs=${conflict.theirs} onTheirs=${() => leave(onDone)}
      onMine=${() => { const { theirs } = conflict; setConflict(null); save(theirs ? { revision: theirs.revision } : { create: true }); }} />`}
    <div class="row end">
      ${isJson && !wrong && !file && text !== "" && html`<button type="button" onClick=${() => type(pretty(text))}>Format</button>`}
      ${conflict ? html`<span class="grow"></span>` : html`<span class="grow quiet">Saved only if revision ${value.revision} is still there.</span>`}
      <button type="button" onClick=${() => leave(onClose)}>Cancel</button>
      ${!conflict && html`<button type="submit" class="primary" disabled=${busy || (readable === null && !file)}>${busy ? "…" : "Save"}</button>`}
    </div>
  </form>`;
}

