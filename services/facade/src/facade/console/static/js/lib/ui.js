/**
 * Small parts that several views use: dialogs, notes, badges, buttons that copy.
 * @module
 */

import { isSignedIn, Problem, send } from "./api.js";
import { Listeners, useListeners } from "./listeners.js";
import { html, useEffect, useRef, useState } from "./preact.js";

/** @typedef {{id: number, text: string, kind: "info" | "good" | "bad", of: string}} Note */

let noteNumber = 0;
/** @type {Note[]} */
let notes = [];
const noteListeners = new Listeners();
const NOTES_MAX = 4;

/**
 * @param {string} text @param {"info" | "good" | "bad"} [kind]
 * @param {string} [of] What it is about, if what was told of that before is over now.
 */
export function note(text, kind = "info", of = "") {
  const made = { id: ++noteNumber, text, kind, of };
  notes = [...notes.filter((each) => of === "" || each.of !== of), made].slice(-NOTES_MAX);
  noteListeners.tell();
  setTimeout(() => dropNote(made.id), kind === "bad" ? 12_000 : 6000);
}

/** @param {number} id */
function dropNote(id) {
  notes = notes.filter((each) => each.id !== id);
  noteListeners.tell();
}

export function Notes() {
  useListeners(noteListeners);
  return html`<div class="notes" role="status" aria-live="polite">
    ${notes.map(
      (each) => html`<div key=${each.id} class="note ${each.kind}">
        <span>${each.text}</span>
        <button type="button" class="plain" aria-label="Dismiss" onClick=${() => dropNote(each.id)}>×</button>
      </div>`,
    )}
  </div>`;
}

/** @param {unknown} error What went wrong, in a sentence, with what is known of the outcome. */
export function explain(error) {
  if (!(error instanceof Problem)) return error instanceof Error && error.name === "Error" ? error.message : String(error);
  const known = error.outcome === "unknown" ? " It may have been applied all the same." : "";
  return `${error.detail}${known}`;
}

/** Problems that are no answers of the facade. */
const UNANSWERED = ["unreachable", "late"];

/** @param {{error: unknown, onRetry?: () => void, lost?: boolean}} properties With `lost` the page says already that there is no connection to the facade. */
export function Trouble({ error, onRetry, lost = false }) {
  const problem = error instanceof Problem ? error : null;
  if (!error || (lost && problem && UNANSWERED.includes(problem.code))) return null;
  return html`<div class="trouble" role="alert">
    <p>${explain(error)}</p>
    ${problem && html`<p class="quiet">${problem.status ? `${problem.status} ` : ""}${problem.code}</p>`}
    ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
  </div>`;
}

/** @param {{title: string, onClose: () => void, children?: any, wide?: boolean}} properties */
export function Dialog({ title, onClose, children, wide }) {
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    const dialog = element.current;
    if (dialog && !dialog.open) dialog.showModal();
    // What is to be filled in, or the way back: not the button that copies a line.
    /** @type {HTMLElement | null | undefined} */ (dialog?.querySelector("input, textarea, select, .row.end button"))?.focus();
    return () => {
      // Whatever is behind an open dialog takes no focus.
      dialog?.close();
      before?.focus?.();
    };
  }, []);
  return html`<dialog
    ref=${element}
    class=${wide ? "wide" : ""}
    aria-labelledby="dialog-title"
    onCancel=${(/** @type {Event} */ event) => {
      // A choice of files that was given up is told by an event of the same name.
      if (event.target !== event.currentTarget) return;
      event.preventDefault();
      onClose();
    }}
  >
    <h2 id="dialog-title">${title}</h2>
    ${children}
  </dialog>`;
}

/**
 * Asks before something is done, does it, and shows what came of it.
 * @param {{title: string, children?: any, verb: string, danger?: boolean, typed?: string, ready?: boolean,
 *   onDo: () => Promise<any>, onDone?: (done: any) => void, onClose: () => void}} properties `typed` has to be typed in first.
 *   `onDone` goes on with what was done, unless somebody has closed this meanwhile and does something else.
 */
export function Confirm({ title, children, verb, danger, typed, ready = true, onDo, onDone, onClose }) {
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [busy, setBusy] = useState(false);
  const [text, setText] = useState("");
  const ended = useRef(false);
  useEffect(() => () => {
    ended.current = true;
  }, []);
  const act = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const done = await onDo();
      if (ended.current) return;
      onDone?.(done);
      onClose();
    } catch (failed) {
      // It goes on when somebody closes this, who is told all the same.
      if (ended.current) note(`${title} ${explain(failed)}`, "bad");
      setError(failed);
      setBusy(false);
    }
  };
  const allowed = ready && !busy && (typed === undefined || text === typed);
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <form onSubmit=${act}>
      ${children}
      ${typed !== undefined &&
      html`<label>
        Type <strong>${typed}</strong> to confirm
        <input value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} autocomplete="off" />
      </label>`}
      <${Trouble} error=${error} />
      <div class="row end">
        <button type="button" onClick=${onClose}>Cancel</button>
        <button type="submit" class=${danger ? "danger" : "primary"} disabled=${!allowed}>${busy ? "…" : verb}</button>
      </div>
    </form>
  <//>`;
}

/** @param {{text: string, label?: string}} properties */
export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone(true);
      setTimeout(() => setDone(false), 1500);
    } catch {
      note("This browser does not allow copying here: select the text instead.", "bad");
    }
  };
  return html`<button type="button" class="small" onClick=${copy}>${done ? "Copied" : label}</button>`;
}

/** @param {{text: string}} properties A line for a terminal. */
export function Command({ text }) {
  return html`<div class="command"><code>${text}</code><${Copy} text=${text} /></div>`;
}

const SIGNS = /** @type {Record<string, string>} */ ({
  leader: "★",
  follower: "●",
  candidate: "?",
  "pre-candidate": "?",
  learner: "○",
  waiting: "…",
  unreachable: "✕",
});

/** @param {{role: string}} properties Colour is never the only sign. */
export function Role({ role }) {
  return html`<span class="role ${role}"><span aria-hidden="true">${SIGNS[role] ?? "?"}</span> ${role}</span>`;
}

/** @param {string} role */
export function signOf(role) {
  return SIGNS[role] ?? "?";
}

/**
 * A button that says what it does, or why it cannot be pressed, if it cannot.
 * @param {{why?: string, title?: string, onClick: () => void, children?: any, class?: string, pressed?: boolean}} properties
 */
export function Act({ why = "", title, onClick, children, class: name = "small", pressed }) {
  return html`<button type="button" class=${name} disabled=${why !== ""} title=${why || title} aria-pressed=${pressed} onClick=${onClick}>${children}${why && html`<span class="hidden"> (not allowed: ${why})</span>`}</button>`;
}

/**
 * Begins a download. A link cannot say the word of a session: then the answer is fetched, and saved once it is whole.
 * @param {{path: string, name: string, why?: string, children?: any}} properties
 */
export function Download({ path, name, why = "", children }) {
  const [busy, setBusy] = useState(false);
  if (!isSignedIn() && !why) return html`<a class="button small" href=${path} download=${name}>${children}</a>`;
  const fetched = async () => {
    if (busy) return;
    setBusy(true);
    try {
      save(await (await send("GET", path, { headers: { accept: "*/*" } })).blob(), name);
    } catch (failed) {
      note(explain(failed), "bad");
    }
    setBusy(false);
  };
  return html`<${Act} why=${why} onClick=${fetched}>${busy ? "Fetching…" : children}<//>`;
}

/** @param {{title: string, children?: any, tools?: any, class?: string}} properties */
export function Card({ title, children, tools, class: name = "" }) {
  return html`<section class="card ${name}">
    <header><h2>${title}</h2>${tools && html`<div class="row">${tools}</div>`}</header>
    ${children}
  </section>`;
}

/** @param {{label: string, children?: any}} properties A table that may be wider than the screen. */
export function Wide({ label, children }) {
  return html`<div class="scroll" role="region" aria-label=${label} tabindex="0">${children}</div>`;
}

/** Begins a download. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
