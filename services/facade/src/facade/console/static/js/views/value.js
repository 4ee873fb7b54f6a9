/**
 * One key: its value, what is known of it, and what can be done with it. It is read first, and edited as a second step.
 * @module
 */

import { facadeNow, onSession, Problem } from "../lib/api.js";
import { draftOf } from "../lib/drafts.js";
import { bytes, milliseconds, until } from "../lib/format.js";
import { pathOf, shown } from "../lib/keys.js";
import { html, useEffect, useState } from "../lib/preact.js";
import { useRights } from "../lib/rights.js";
import { curl } from "../lib/shell.js";
import { Act, Card, Command, Copy, Download, Trouble } from "../lib/ui.js";
import { CONSISTENCIES, readHeaders, readPath, readValue } from "../lib/values.js";
import { DeleteKey, RenameKey } from "./key-dialogs.js";
import { draftId, ValueEditor } from "./value-editor.js";
import { bestShape, HexShape, ImageShape, JsonShape, TextShape } from "./value-shapes.js";

/** @typedef {import("../lib/keys.js").Key} Key */
/** @typedef {import("../lib/values.js").Value} Value */

const SHAPES = /** @type {Record<string, {title: string, View: any}>} */ ({
  text: { title: "Text", View: TextShape },
  json: { title: "JSON", View: JsonShape },
  hex: { title: "Hex", View: HexShape },
  image: { title: "Image", View: ImageShape },
});

/** @param {{receipt: import("../lib/values.js").Receipt}} properties Who answered, and how new that is. */
function Receipt({ receipt }) {
  const stale = receipt.stale === null ? "" : Number(receipt.stale) === 0 ? ", up to date" : `, at most ${milliseconds(Number(receipt.stale))} old`;
  return html`<p class="quiet receipt">
    <b>${receipt.mode}</b> read, answered by <b>${receipt.node}</b> of shard ${receipt.shard} in term ${receipt.term} at
    index ${receipt.index}${stale}, in ${milliseconds(receipt.tookMs)}
  </p>`;
}

/** @param {{name: Key, consistency: string, change: string, onConsistency: (mode: string) => void, onMoved: (key: Key | null) => void, onClose: () => void}} properties */
export function ValueView({ name, consistency, change, onConsistency, onMoved, onClose }) {
  const [value, setValue] = useState(/** @type {Value | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [shape, setShape] = useState("");
  const [mode, setMode] = useState(/** @type {"" | "edit" | "rename" | "delete"} */ (""));
  const [turn, setTurn] = useState(0);
  const rests = mode === "";
  useEffect(() => {
    // What is being changed stays what was seen: it is saved under the revision of that, and of nothing newer.
    if (!rests) return undefined;
    const controller = new AbortController();
    setError(null);
    readValue(name, consistency, controller.signal).then(
      (found) => {
        setValue(found);
        setShape((before) => before || bestShape(found));
      },
      (failed) => {
        if (controller.signal.aborted) return;
        setError(failed);
        setValue(null);
      },
    );
    return () => controller.abort();
  }, [consistency, turn, change, rests]);
  const why = useRights().lacks("write", name);
  const again = () => setTurn((before) => before + 1);
  useEffect(() => onSession((what) => what === "in" && again()), []);
  const missing = error instanceof Problem && error.status === 404;
  // What was typed is not lost with the key for which it was.
  const typed = missing ? draftOf(draftId(name)) : undefined;
  const goOn = () => {
    setValue(typed.value);
    setMode("edit");
  };
  const View = (SHAPES[shape] ?? SHAPES.text).View;
  const title = html`<span class="mono key-name">${shown(name)}</span>`;
  const tools = html`<${Copy} text=${"text" in name ? name.text : shown(name)} label="Copy key" /><button type="button" class="small" onClick=${onClose} aria-label="Close this key">Close</button>`;
  return html`<${Card} title=${title} tools=${tools} class="one">
    <div class="row">
      <label class="inline">Read
        <select value=${consistency} disabled=${!rests} onChange=${(/** @type {any} */ event) => onConsistency(event.target.value)}>
          ${CONSISTENCIES.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
        </select>
      </label>
      <button type="button" class="small" disabled=${!rests} onClick=${again}>Read again</button>
      <span class="grow"></span>
      ${value &&
      rests &&
      html`<${Act} why=${why} onClick=${() => setMode("edit")}>Edit<//>
        <${Act} why=${why} onClick=${() => setMode("rename")}>Rename<//>
        <${Download} path=${pathOf(name)} name=${"text" in name ? name.text.split("/").pop() || "value" : "value"}>Download<//>
        <${Act} why=${why} onClick=${() => setMode("delete")}>Delete<//>`}
    </div>
    ${missing ? html`<p class="gone">There is no such key.</p>${typed && rests && html`<p>You typed something for it, which was not saved. <${Act} why=${why} onClick=${goOn}>Go on with what you typed<//></p>`}` : html`<${Trouble} error=${error} onRetry=${again} />`}
    ${!value && !error && html`<p class="quiet" role="status">Reading…</p>`}
    ${value && html`<${Facts} value=${value} />`}
    ${value && mode !== "edit" && html`
      <div class="tabs" role="group" aria-label="Shown as">
        ${Object.entries(SHAPES).map(([each, { title: label }]) => html`<button key=${each} type="button" class="small" aria-pressed=${each === shape} onClick=${() => setShape(each)}>${label}</button>`)}
      </div>
      <${View} value=${value} />`}
    ${value && mode === "edit" && html`<${ValueEditor} name=${name} value=${value} onDone=${() => { setMode(""); again(); }} onClose=${() => setMode("")} />`}
    ${value && html`<${Receipt} receipt=${value.receipt} />`}
    <${Command} text=${curl("GET", readPath(name, consistency), readHeaders(consistency))} />
    ${value && mode === "rename" && html`<${RenameKey} name=${name} value=${value} onClose=${() => setMode("")} onMoved=${onMoved} />`}
    ${value && mode === "delete" && html`<${DeleteKey} name=${name} value=${value} onClose=${() => setMode("")} onGone=${() => onMoved(null)} />`}
  <//>`;
}

/** @param {{time: string}} properties When something ends, told anew each second. */
function Until({ time }) {
  const [, draw] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => draw((before) => before + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  return until(time, facadeNow());
}

/** @param {{value: Value}} properties */
function Facts({ value }) {
  const facts = [
    ["Revision", value.revision],
    ["Size", value.raw.length === value.data.length ? bytes(value.raw.length) : `${bytes(value.raw.length)}, unpacked ${bytes(value.data.length)}`],
    ["Content type", value.contentType],
    ...(value.contentEncoding ? [["Encoding", value.contentEncoding]] : []),
    ["Expires", value.expiresAt ? html`<${Until} time=${value.expiresAt} />` : "never"],
  ];
  return html`<dl class="inline-facts">${facts.map(([label, text]) => html`<div key=${label}><dt>${label}</dt><dd>${text}</dd></div>`)}</dl>`;
}
