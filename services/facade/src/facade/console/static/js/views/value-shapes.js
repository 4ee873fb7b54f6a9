/**
 * The ways in which the bytes of a value are shown: text, JSON, hex, image.
 * @module
 */

import { bytes } from "../lib/format.js";
import { allNamesTwice, isJson, jsonOf, namesTwice } from "../lib/json.js";
import { html, useEffect, useMemo, useState } from "../lib/preact.js";
import { textOf } from "../lib/values.js";

/** @typedef {import("../lib/values.js").Value} Value */

const TEXT_MAX = 200_000;
const HEX_STEP = 4096;
const LISTED = 200;
/** So many names are told that are there more than once. */
const TWICE_LISTED = 5;

/** @param {Value} value */
export function bestShape(value) {
  const type = value.contentType.split(";")[0].trim().toLowerCase();
  if (type.startsWith("image/")) return "image";
  const text = textOf(value.data);
  // Bytes that happen to be UTF-8, and say nothing as text.
  if (text === null || /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/.test(text)) return "hex";
  if (type.endsWith("json") && isJson(text)) return "json";
  return "text";
}

/** @param {{value: Value}} properties */
export function TextShape({ value }) {
  const [whole, setWhole] = useState(false);
  const text = textOf(value.data);
  if (text === null) return html`<p class="quiet">This is not UTF-8; hex shows it.</p>`;
  if (text === "") return html`<p class="quiet">The value is empty.</p>`;
  return html`<pre class="value" tabindex="0">${whole ? text : text.slice(0, TEXT_MAX)}</pre>
    ${!whole && text.length > TEXT_MAX && html`<button type="button" onClick=${() => setWhole(true)}>Show all ${bytes(value.data.length)}</button>`}`;
}

/** @param {{value: Value}} properties */
export function JsonShape({ value }) {
  const document = useMemo(() => jsonOf(textOf(value.data) ?? ""), [value]);
  if (document === undefined) return html`<p class="quiet">This is not JSON; text shows it.</p>`;
  return html`<${Twice} document=${document} /><div class="value json" tabindex="0"><${JsonNode} node=${document} depth=${0} /></div>`;
}

/** @param {{document: Json | undefined}} properties Tells what other programs will not see of it. */
export function Twice({ document }) {
  const names = useMemo(() => allNamesTwice(document), [document]);
  if (names.length === 0) return null;
  return html`<p class="warn-text">An object has a name more than once: ${names.slice(0, TWICE_LISTED).join(", ")}. Most programs take the last of its values and lose the others.</p>`;
}

/** @typedef {import("../lib/json.js").Json} Json */

/** @param {{name?: string, again?: boolean, node: Json, depth: number}} properties What is closed is not drawn. `again`: its object has the name more than once. */
function JsonNode({ name, again, node, depth }) {
  const [open, setOpen] = useState(depth < 2);
  const [listed, setListed] = useState(LISTED);
  const label = name === undefined ? "" : html`<span class="json-name">${name}: </span>${again && html`<span class="flag">more than once</span> `}`;
  if (node.kind !== "array" && node.kind !== "object") return html`<div>${label}<span class="json-${node.kind}">${node.text}</span></div>`;
  const isList = node.kind === "array";
  const entries = isList ? node.items.map((each, place) => /** @type {[string, Json]} */ ([String(place), each])) : node.members;
  const twice = isList ? new Set() : namesTwice(node);
  const [first, last] = isList ? ["[", "]"] : ["{", "}"];
  if (entries.length === 0) return html`<div>${label}${first}${last}</div>`;
  return html`<details open=${open} onToggle=${(/** @type {any} */ event) => setOpen(event.currentTarget.open)}>
    <summary>${label}${first} <span class="quiet">${entries.length} ${last}</span></summary>
    ${open &&
    html`<div class="json-inner">
      ${entries.slice(0, listed).map(([each, inner], place) => html`<${JsonNode} key=${place} name=${each} again=${twice.has(each)} node=${inner} depth=${depth + 1} />`)}
      ${entries.length > listed && html`<button type="button" class="small" onClick=${() => setListed(listed + LISTED)}>Show more</button>`}
    </div>`}
  </details>`;
}

/** @param {Uint8Array} data @param {number} end */
export function hexLines(data, end) {
  const lines = [];
  for (let at = 0; at < Math.min(end, data.length); at += 16) {
    const part = [...data.subarray(at, at + 16)];
    const hex = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = part.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}

/** @param {{value: Value}} properties */
export function HexShape({ value }) {
  const [end, setEnd] = useState(HEX_STEP);
  if (value.data.length === 0) return html`<p class="quiet">The value is empty.</p>`;
  return html`<pre class="value hex" tabindex="0">${hexLines(value.data, end)}</pre>
    ${value.data.length > end && html`<button type="button" onClick=${() => setEnd(end * 4)}>Show more of ${bytes(value.data.length)}</button>`}`;
}

/** @param {{value: Value}} properties A blob's address: a script in an SVG that is shown as an image does not run. */
export function ImageShape({ value }) {
  const [address, setAddress] = useState("");
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([/** @type {BlobPart} */ (value.data)], { type: value.contentType }));
    setAddress(made);
    setBroken(false);
    return () => URL.revokeObjectURL(made);
  }, [value]);
  if (broken) return html`<p class="quiet">This browser cannot show it as an image.</p>`;
  return address && html`<img class="value" src=${address} alt="The value as an image" onError=${() => setBroken(true)} />`;
}
