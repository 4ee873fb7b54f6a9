/**
 * Changing a value. It is saved only if it is still what was read; if not, both versions are shown.
 * @module
 */

import { Problem } from "../lib/api.js";
import { draftOf, dropDraft, keepDraft } from "../lib/drafts.js";
import { bytes } from "../lib/format.js";
import { jsonOf, pretty } from "../lib/json.js";
import { base64url, shown } from "../lib/keys.js";
import { useOnce } from "../lib/once.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { putLine } from "../lib/shell.js";
import { Command, explain, note, Trouble } from "../lib/ui.js";
import { readValue, textOf, writeValue } from "../lib/values.js";
import { Twice } from "./value-shapes.js";

/** @typedef {import("../lib/values.js").Value} Value */

const TEXT_MAX = 1 << 20;

/** @typedef {{name: string, value: Value, text: string, contentType: string, expiry: string}} Draft What was typed, with what was read before. */

/** @param {import("../lib/keys.js").Key} name What is typed of its value is kept under this. */
export const draftId = (name) => `edit ${base64url(name)}`;

/** @param {Value} value Why it cannot be edited here as text. */
function unreadable(value) {
  if (value.contentEncoding) return `This value is stored packed (${value.contentEncoding})`;
  return value.data.length > TEXT_MAX ? `This value has more than ${bytes(TEXT_MAX)}` : "This value is no text";
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
  const id = draftId(name);
  const [draft] = useState(/** @type {Draft | undefined} */ (draftOf(id)));
  // It is saved under the revision of what was seen when it was begun.
  const [value] = useState(draft?.value ?? read);
  const readable = value.data.length <= TEXT_MAX && !value.contentEncoding ? textOf(value.data) : null;
  const [text, setText] = useState(draft?.text ?? readable ?? "");
  const leave = (/** @type {() => void} */ then) => {
    dropDraft(id);
    then();
  };
  const ends = endsOf(readable ?? "");
  // A field of text makes all ends of lines the same: what was read is written again.
  const written = ends === "CRLF" ? text.replace(/\r?\n/g, "\r\n") : text;
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const [contentType, setContentType] = useState(draft?.contentType ?? value.contentType);
  const [expiry, setExpiry] = useState(draft?.expiry ?? (value.expiresAt ? "keep" : ""));
  const newest = useRef(/** @type {Draft | undefined} */ (draft));
  const type = (/** @type {Partial<Draft>} */ typed) => {
    newest.current = { name: shown(name), value, text, contentType, expiry, ...typed };
    keepDraft(id, newest.current);
    setText(newest.current.text);
    setContentType(newest.current.contentType);
    setExpiry(newest.current.expiry);
  };
  const ended = useRef(false);
  useEffect(() => () => {
    ended.current = true;
  }, []);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [conflict, setConflict] = useState(/** @type {{theirs: Value | null} | null} */ (null));
  const once = useOnce();
  const save = async (/** @type {{revision?: string, create?: boolean}} */ condition) => {
    setBusy(true);
    setError(null);
    try {
      const ttl = expiry.trim();
      const revision = await once([file ?? written, contentType, ttl, condition.revision, condition.create], (attempt) =>
        writeValue(name, file ?? written, { contentType, ttl, idempotencyKey: attempt.key, ...condition }));
      note(ended.current ? `${shown(name)} is saved as revision ${revision}.` : `Saved as revision ${revision}.`, "good");
      dropDraft(id, newest.current);
      if (!ended.current) onDone();
      return;
    } catch (failed) {
      // It goes on when somebody leaves the key, who is told all the same; what they typed is kept.
      const known = !(failed instanceof Problem && failed.outcome === "unknown");
      if (ended.current) note(`${shown(name)} ${known ? "was not saved" : "may not be saved"}: ${explain(failed)}`, "bad");
      else if (failed instanceof Problem && failed.status === 412) {
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
  const document = useMemo(() => (isJson && !file && text !== "" ? jsonOf(text) : undefined), [isJson, file, text]);
  const wrong = isJson && !file && text !== "" && document === undefined;
  return html`<form class="editor" onSubmit=${submit}>
    ${readable === null
      ? html`<p class="quiet">${unreadable(value)}, and cannot be edited here: choose a file to put in its place.</p>`
      : html`<label><span class="hidden">Value</span><textarea class="code" value=${text} disabled=${file !== null} spellcheck=${false} readonly=${busy} onInput=${(/** @type {any} */ event) => type({ text: event.target.value })}></textarea></label>`}
    ${draft && html`<p class="quiet">What you typed before is here again; it began with revision ${value.revision}.</p>`}
    <div class="row fields">
      <label class="grow">Content type <input value=${contentType} readonly=${busy} onInput=${(/** @type {any} */ event) => type({ contentType: event.target.value })} spellcheck=${false} /></label>
      <label class="grow">Expires in <input value=${expiry} placeholder="never; or 30s, 10m, keep" readonly=${busy} onInput=${(/** @type {any} */ event) => type({ expiry: event.target.value })} autocomplete="off" /></label>
      <label class="grow">Or a file <input type="file" onChange=${(/** @type {any} */ event) => setFile(event.target.files[0] ?? null)} /></label>
    </div>
    ${ends === "mixed" && !file && html`<p class="warn-text">Its lines end in more than one way; once you change it here, all end in LF.</p>`}
    ${wrong && html`<p class="warn-text">This is not valid JSON. It can be saved all the same.</p>`}
    <${Twice} document=${document} />
    <${Trouble} error=${error} />
    ${!conflict && html`<${Command} text=${putLine(name, file || readable === null ? null : written, { contentType, revision: value.revision, ttl: expiry.trim() })} />`}
    ${conflict &&
    html`<${Conflict} mine=${file ? file.name : text} theirs=${conflict.theirs} onTheirs=${() => leave(onDone)}
      onMine=${() => { const { theirs } = conflict; setConflict(null); save(theirs ? { revision: theirs.revision } : { create: true }); }} />`}
    <div class="row end">
      ${isJson && !wrong && !file && text !== "" && html`<button type="button" onClick=${() => type({ text: pretty(text) })}>Format</button>`}
      ${conflict ? html`<span class="grow"></span>` : html`<span class="grow quiet">Saved only if revision ${value.revision} is still there.</span>`}
      <button type="button" onClick=${() => leave(onClose)}>Cancel</button>
      ${!conflict && html`<button type="submit" class="primary" disabled=${busy || (readable === null && !file)}>${busy ? "…" : "Save"}</button>`}
    </div>
  </form>`;
}

