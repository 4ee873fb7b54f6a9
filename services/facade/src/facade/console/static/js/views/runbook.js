/**
 * What to do about an alert: the advice of docs/operations.md.
 * @module
 */

import { link } from "../lib/places.js";
import { html } from "../lib/preact.js";
import { RUNBOOKS } from "../lib/runbooks.js";
import { Card } from "../lib/ui.js";

const PIECE = /`[^`]+`|\[[^\]]+\]\([^)]+\)|\bDougDB[A-Z]\w+/g;

/** @param {string} text Markdown with nothing but code, links, and names of alerts in it. */
function pieces(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(PIECE)) {
    const [piece] = match;
    found.push(text.slice(at, match.index));
    at = match.index + piece.length;
    if (piece.startsWith("`")) found.push(html`<code>${piece.slice(1, -1)}</code>`);
    else if (piece.startsWith("[")) {
      const [, name, to] = /** @type {RegExpMatchArray} */ (piece.match(/\[(.+)\]\((.+)\)/));
      found.push(html`<i>${name}</i>`, to.startsWith("#") ? "" : html` <span class="quiet">(docs/${to.split("#")[0]})</span>`);
    } else found.push(piece in RUNBOOKS ? html`<a href=${link(["runbook", piece])}>${piece}</a>` : piece);
  }
  return [...found, text.slice(at)];
}

/** @param {{place: import("../lib/places.js").Place}} properties */
export function RunbookView({ place }) {
  const name = place.parts[0] ?? "";
  const book = Object.hasOwn(RUNBOOKS, name) ? RUNBOOKS[name] : null;
  if (book === null) {
    return html`<h1>Runbooks</h1>
      <${Card} title="What to do about each alert">
        <ul class="runbooks">${Object.entries(RUNBOOKS).map(([each, { severity, meaning }]) => html`<li key=${each}>
          <a href=${link(["runbook", each])}>${each}</a> <span class="badge ${severity === "critical" ? "bad" : "warn"}">${severity}</span> ${meaning}
        </li>`)}</ul>
      <//>`;
  }
  return html`<h1><a href=${link(["runbook"])}>Runbooks</a> / ${name}</h1>
    <${Card} title=${book.meaning} tools=${html`<span class="badge ${book.severity === "critical" ? "bad" : "warn"}">${book.severity}</span>`}>
      ${book.paragraphs.map((text) => html`<p key=${text} class="prose">${pieces(text)}</p>`)}
      <p class="quiet">The figures: <a href=${link(["graphs"])}>Graphs</a>. What the nodes did: <a href=${link(["timeline"])}>Timeline</a>. The same text: docs/operations.md.</p>
    <//>`;
}
