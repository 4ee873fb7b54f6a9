/**
 * The 1024 slots as a grid: who owns each, or how often each is asked for.
 * @module
 */

import { ask, read } from "../lib/api.js";
import { count, rate } from "../lib/format.js";
import { base64url, keyForLink, keyOf, keyTyped, shown } from "../lib/keys.js";
import { link } from "../lib/places.js";
import { usePolled } from "../lib/polling.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { curl } from "../lib/shell.js";
import { Card, Command, Trouble } from "../lib/ui.js";

const SIDE = 32;
const SLOTS = SIDE * SIDE;
const CELL = 20;
const LOOK_MS = 2500;
const KEYS = 20;
/** So many shards the legend names. */
const LISTED = 40;
const SETTLED_MS = 250;
const HUES = [210, 32, 145, 330, 265, 80, 0, 180, 300, 110];

/** @param {[number, number, number][]} ranges @returns {(number | null)[]} The owner of each slot. */
export function ownersOf(ranges) {
  const owners = /** @type {(number | null)[]} */ (Array(SLOTS).fill(null));
  for (const [first, last, shard] of ranges) owners.fill(shard, first, last + 1);
  return owners;
}

/** @param {number | null} shard */
function ownerColour(shard) {
  if (shard === null) return "var(--soft)";
  return `light-dark(hsl(${HUES[shard % HUES.length]} 45% ${68 - 8 * (Math.floor(shard / HUES.length) % 3)}%), hsl(${HUES[shard % HUES.length]} 40% ${38 + 8 * (Math.floor(shard / HUES.length) % 3)}%))`;
}

/** @param {number} share From 0 to 1, by the logarithm: a slot with a tenth of the hottest one's rate is seen. */
function heatColour(share) {
  if (share <= 0) return "var(--soft)";
  return `light-dark(hsl(${45 - 45 * share} 95% ${82 - 42 * share}%), hsl(${45 - 45 * share} 90% ${22 + 38 * share}%))`;
}

/** @param {number} minutesAgo */
function useRates(minutesAgo) {
  const ask = (/** @type {AbortSignal} */ signal) => read(`/v1/console/slots?minutes_ago=${minutesAgo}`, signal);
  return usePolled(/** @type {(signal: AbortSignal) => Promise<{rates: number[] | null, minutes_kept: number}>} */ (ask), LOOK_MS, [minutesAgo], true);
}

/** The first keys of a slot. @param {{slot: number}} properties */
function SlotKeys({ slot }) {
  const [found, setFound] = useState(/** @type {{items: any[], next_cursor: string | null} | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    setFound(null);
    setError(null);
    const controller = new AbortController();
    // Whoever walks over the grid with the arrows does not want the keys of every slot on the way.
    const timer = setTimeout(() => {
      read(`/v1/kv?slot=${slot}&keys_only=true&limit=${KEYS}&consistency=eventual`, controller.signal).then(setFound, (failed) => controller.signal.aborted || setError(failed));
    }, SETTLED_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [slot, turn]);
  if (error) return html`<${Trouble} error=${error} onRetry=${() => setTurn((before) => before + 1)} />`;
  if (found === null) return html`<p class="quiet">Looking for its keys…</p>`;
  if (found.items.length === 0) return html`<p class="quiet">It has no keys.</p>`;
  return html`<ul class="tree slot-keys">${found.items.map((item) => {
      const key = keyOf(item);
      return html`<li key=${base64url(key)}><a class="leaf mono" href=${link(["keys"], { slot: String(slot), key: keyForLink(key) })}>${shown(key)}</a></li>`;
    })}</ul>
    <p><a href=${link(["keys"], { slot: String(slot) })}>${found.next_cursor ? "All keys" : "These keys"} of slot ${slot}, with their values</a></p>`;
}

/** @param {{slot: number, owner: number | null, rate: number | null}} properties */
function Chosen({ slot, owner, rate: perSecond }) {
  return html`<div>
    <p class="big">Slot ${slot}</p>
    <p>${owner === null ? "Nobody owns it." : html`It belongs to <a href=${link(["shard", String(owner)])}>shard ${owner}</a>.`}
    ${perSecond !== null && ` ${rate(perSecond)} operations a second came to it through this facade.`}</p>
    <${SlotKeys} slot=${slot} />
    <p class="quiet">In a terminal:</p>
    <${Command} text=${curl("GET", `/v1/kv?slot=${slot}&keys_only=true`)} />
    ${owner !== null && html`<${Command} text=${`dougctl members list --shard ${owner}`} />`}
    <p class="quiet">All slots, with their owners and rates:</p>
    <${Command} text=${curl("GET", "/v1/partitions?counts=true")} />
  </div>`;
}

/** @param {{onFound: (slot: number) => void}} properties */
function FindSlot({ onFound }) {
  const [text, setText] = useState("");
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const find = async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      onFound((await ask("GET", `/v1/console/locate?key64=${base64url(keyTyped(text))}`)).slot);
      setError(null);
    } catch (failed) {
      setError(failed);
    }
  };
  return html`<form class="row" onSubmit=${find}>
    <label class="inline grow">Slot of key <input class="grow" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} autocomplete="off" spellcheck=${false} /></label>
    <button type="submit" disabled=${text === ""}>Find</button>
    <${Trouble} error=${error} />
  </form>`;
}

/** @param {{state: import("../lib/live.js").ClusterState, lost: boolean}} properties */
export function SlotsView({ state, lost }) {
  const [by, setBy] = useState("owner");
  const [ago, setAgo] = useState(0);
  const [slot, setSlot] = useState(/** @type {number | null} */ (null));
  const details = useRef(/** @type {HTMLElement | null} */ (null));
  const { found, error } = useRates(ago);
  const owners = ownersOf(state.map?.slots ?? []);
  const rates = found?.rates ?? null;
  const most = rates === null ? 0 : Math.max(...rates);
  const share = (/** @type {number} */ value) => (value <= 0 ? 0 : Math.log1p(value) / Math.log1p(most));
  const shards = [...new Set(owners.filter((owner) => owner !== null))].sort((one, other) => Number(one) - Number(other));
  const move = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -SIDE, ArrowDown: SIDE }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    setSlot(Math.min(SLOTS - 1, Math.max(0, (slot ?? 0) + (slot === null ? 0 : step))));
  };
  const choose = (/** @type {any} */ event) => {
    const box = event.currentTarget.getBoundingClientRect();
    // The grid is a square in the middle of its box.
    const side = Math.min(box.width, box.height);
    const column = Math.floor(((event.clientX - box.left - (box.width - side) / 2) / side) * SIDE);
    const row = Math.floor(((event.clientY - box.top - (box.height - side) / 2) / side) * SIDE);
    if (column < 0 || column >= SIDE) return;
    setSlot(Math.min(SLOTS - 1, Math.max(0, row * SIDE + column)));
    // On a narrow screen it is below the grid.
    details.current?.scrollIntoView({ block: "nearest" });
  };
  const about = slot === null ? "none is chosen" : `slot ${slot}, shard ${owners[slot] ?? "none"}`;
  return html`<h1>Slots</h1>
    <div class="slots">
      <${Card} title="1024 slots" tools=${html`
        <label class="inline">Colour by <select value=${by} onChange=${(/** @type {any} */ event) => setBy(event.target.value)}><option value="owner">owner</option><option value="rate">rate</option></select></label>
        ${by === "rate" && html`<label class="inline">${ago === 0 ? "now" : `${ago} min ago`} <input type="range" min="0" max=${found?.minutes_kept ?? 0} value=${ago} disabled=${!found?.minutes_kept} onInput=${(/** @type {any} */ event) => setAgo(Number(event.target.value))} /></label>`}`}>
        <${Trouble} error=${error} lost=${lost} />
        <div class="legend">
          ${by === "owner"
            ? html`${shards.slice(0, LISTED).map((shard) => html`<span key=${shard}><i style=${{ background: ownerColour(shard) }}></i> shard ${shard}: ${count(owners.filter((owner) => owner === shard).length)}</span>`)}
              ${shards.length > LISTED && html`<span class="quiet">and ${count(shards.length - LISTED)} more: a click on a slot says whose it is</span>`}`
            : html`<span><i style=${{ background: heatColour(0) }}></i> none</span><span><i style=${{ background: heatColour(0.3) }}></i></span><span><i style=${{ background: heatColour(0.65) }}></i></span><span><i style=${{ background: heatColour(1) }}></i> ${rate(most)} operations/s, through this facade</span>`}
        </div>
        <svg class="grid" viewBox="0 0 ${SIDE * CELL} ${SIDE * CELL}" role="application" tabindex="0" onKeyDown=${move} onClick=${choose}
          aria-label=${`Slots, 32 in a row; arrows choose one: ${about}`}>
          ${owners.map((owner, number) => html`<rect key=${number} x=${(number % SIDE) * CELL + 1} y=${Math.floor(number / SIDE) * CELL + 1} width=${CELL - 2} height=${CELL - 2} rx="3"
            style=${{ fill: by === "owner" ? ownerColour(owner) : heatColour(rates === null ? 0 : share(rates[number])) }} />`)}
          ${slot !== null && html`<rect class="chosen" x=${(slot % SIDE) * CELL} y=${Math.floor(slot / SIDE) * CELL} width=${CELL} height=${CELL} rx="3" />`}
        </svg>
      <//>
      <div ref=${details}><${Card} title="One slot">
        <${FindSlot} onFound=${setSlot} />
        ${slot === null ? html`<p class="quiet">Choose a slot in the grid, or look for the one of a key.</p>` : html`<${Chosen} slot=${slot} owner=${owners[slot]} rate=${rates === null ? null : rates[slot]} />`}
      <//></div>
    </div>`;
}
