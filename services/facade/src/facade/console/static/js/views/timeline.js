/**
 * The Raft timeline: what all nodes did, on one axis of time.
 * @module
 */

import { read } from "../lib/api.js";
import { clock, count, milliseconds, plural, span as spanText } from "../lib/format.js";
import { go, link } from "../lib/places.js";
import { usePolled } from "../lib/polling.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { Card, Command, save, Trouble, Wide } from "../lib/ui.js";
import { useWidth } from "../lib/width.js";

/** @typedef {{node: string, start_id: string, sequence: number, time_us: number, at_us: number, monotonic_us: number, term: number, name: string, details: Record<string, any>, count: number, last_time_us: number}} Event */
/** @typedef {{shards: number[], events: Event[], unreachable: string[], cut: boolean}} Events */
/** @typedef {{shard: number, cursor: string, whole: boolean, events: Event[], unreachable: string[], cut: boolean}} Told What is new of a shard, or everything (`whole`). */

const LOOK_MS = 2000;
const ROW = 34;
/** The widest that the axis is drawn before it was measured, and the narrowest. */
const WIDTH = 1200;
const NARROWEST = 300;
const LETTER = 7.5;
const TICK = 110;
const LISTED = 200;
/** So many events of each shard are kept, as at the facade. */
const KEPT = 2000;
/** So many shards are shown together. */
const TOGETHER = 8;
const ALL = "all";
/** So many events are drawn at a time. */
const DRAWN = 1000;
const SPANS = [60, 120, 300, 900, 3600, 21_600, 86_400];
/** As far as one zooms: what two events are apart is seen, and events are not kept for longer. */
const SHORTEST_US = 10_000;
const LONGEST_US = 7 * 86_400e6;
/** The longest that is shown before somebody chooses. */
const USUAL = 900;
/** Kinds of events, each with a sign, so that colour is never all. */
const KINDS = /** @type {Record<string, {title: string, sign: string, pattern: RegExp}>} */ ({
  leader: { title: "Leaders", sign: "★", pattern: /became_leader|follows|lost_leadership|resigned|lost_quorum|transfer|two_leaders/ },
  election: { title: "Elections and votes", sign: "◆", pattern: /candidate|vote/ },
  member: { title: "Members", sign: "▲", pattern: /member|removed|joined|admitted|learner|configuration/ },
  snapshot: { title: "Snapshots and log", sign: "■", pattern: /snapshot|restored|compacted|installed|checkpoint|backup/ },
  stall: { title: "Stalls and disks", sign: "✕", pattern: /slow|fault|stall|disk|malformed|lost|diverge|damage|full|fail/ },
  process: { title: "Processes", sign: "●", pattern: /./ },
});

/** What is drawn over what: the votes that a leader got come to lie below its star, and that the others follow it below these. */
const LEADS = "became_leader";
const OVER = ["process", "follows", "snapshot", "member", "election", "stall", "leader", LEADS];

/** @param {Event} one @param {Event} other Which of them is drawn first. */
function byImportance(one, other) {
  const rank = (/** @type {Event} */ event) => OVER.indexOf(OVER.includes(event.name) ? event.name : kindOf(event.name));
  return rank(one) - rank(other);
}

/** @param {string} name Who leads has the full star, who follows or gives up an empty one. */
function signOf(name) {
  const kind = kindOf(name);
  return kind === "leader" && name !== LEADS ? "☆" : KINDS[kind].sign;
}

/** @param {string} name */
export function kindOf(name) {
  return Object.keys(KINDS).find((kind) => KINDS[kind].pattern.test(name)) ?? "process";
}

/** @param {number[]} shards The events of all nodes of these shards, in the order of their time. */
function useEvents(shards) {
  const log = useMemo(() => new Log(shards), [shards.join()]);
  return usePolled((signal) => log.ask(signal), LOOK_MS, [log]);
}

/** @param {Event} event */
const idOf = (event) => `${event.node} ${event.start_id} ${event.sequence}`;

/** @param {Event} one @param {Event} other In the order in which they are told: events of one node stay in their order. */
function inOrder(one, other) {
  return one.at_us - other.at_us || one.node.localeCompare(other.node) || one.sequence - other.sequence;
}

/** The events of some shards that are known here. Each time only what is new is asked for. */
class Log {
  /** @param {number[]} shards */
  constructor(shards) {
    this.shards = shards;
    this.cursors = shards.map(() => "");
    /** @type {Map<string, Event>[]} */
    this.known = shards.map(() => new Map());
    /** @type {Event[]} */
    this.events = [];
  }

  /** @param {AbortSignal} signal @returns {Promise<Events>} */
  async ask(signal) {
    const path = `/v1/console/events?shards=${this.shards.join()}&after=${this.cursors.join()}`;
    const answer = /** @type {{shards: Told[]}} */ (await read(path, signal));
    answer.shards.forEach((told, at) => this.take(told, at));
    if (answer.shards.some((told) => told.whole || told.events.length)) {
      this.events = this.known.flatMap((known) => [...known.values()]).sort(inOrder);
    }
    return {
      shards: this.shards,
      events: this.events,
      unreachable: answer.shards.flatMap((told) => told.unreachable),
      cut: answer.shards.some((told) => told.cut),
    };
  }

  /** @param {Told} told @param {number} at */
  take(told, at) {
    this.cursors[at] = told.cursor;
    const known = told.whole ? new Map() : this.known[at];
    told.events.forEach((event) => known.set(idOf(event), event));
    if (known.size <= KEPT) this.known[at] = known;
    else this.known[at] = new Map([...known].sort(([, one], [, other]) => inOrder(one, other)).slice(-KEPT));
  }
}

/** @param {Event} event */
function detailsOf(event) {
  return Object.entries(event.details).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ");
}

/** @param {{events: Event[], nodes: string[], from: number, to: number, chosen: Event | null, onChoose: (event: Event) => void, onZoom: (from: number, to: number) => void}} properties */
function Axis({ events, nodes, from, to, chosen, onChoose, onZoom }) {
  const height = ROW * nodes.length + 26;
  const frame = useRef(/** @type {HTMLElement | null} */ (null));
  const width = Math.max(NARROWEST, useWidth(frame, WIDTH));
  const left = Math.max(...nodes.map((node) => node.length), 8) * LETTER + 10;
  const x = (/** @type {number} */ us) => left + ((us - from) / (to - from)) * (width - left - 15);
  const steps = Math.max(1, Math.floor((width - left) / TICK));
  const ticks = Array.from({ length: steps + 1 }, (_, place) => (place === steps ? to : from + ((to - from) * place) / steps));
  const wheel = (/** @type {WheelEvent} */ event) => {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    // With Shift held, some browsers say that the wheel was turned to the side.
    const turned = event.deltaY || event.deltaX;
    if (turned === 0) return;
    const box = /** @type {SVGElement} */ (event.currentTarget).getBoundingClientRect();
    const at = from + Math.max(0, Math.min(1, (((event.clientX - box.left) / box.width) * width - left) / (width - left - 15))) * (to - from);
    const factor = turned > 0 ? 1.5 : 1 / 1.5;
    onZoom(at - (at - from) * factor, at + (to - at) * factor);
  };
  return html`<div ref=${frame}><svg class="axis" viewBox="0 0 ${width} ${height}" onWheel=${wheel} role="group" aria-label="Events by node and time">
    ${ticks.map((tick) => html`<g key=${tick}><line class="tick" x1=${x(tick)} y1="0" x2=${x(tick)} y2=${height - 20} /><text class=${tick === to ? "time last" : "time"} x=${x(tick)} y=${height - 5}>${clock(tick).slice(0, to - from < 60e6 ? 12 : 8)}</text></g>`)}
    ${nodes.map((node, row) => html`<g key=${node}><line class="lane" x1=${left} x2=${width} y1=${row * ROW + ROW / 2} y2=${row * ROW + ROW / 2} /><text class="lane-name" x="0" y=${row * ROW + ROW / 2 + 5}>${node}</text></g>`)}
    ${[...events].sort(byImportance).map((event) => {
      const kind = kindOf(event.name);
      const y = nodes.indexOf(event.node) * ROW + ROW / 2;
      const same = chosen !== null && idOf(chosen) === idOf(event);
      return html`<g key=${idOf(event)} class="mark ${kind} ${same ? "chosen" : ""}" onClick=${() => onChoose(event)}>
        ${event.count > 1 && html`<line x1=${x(event.time_us)} x2=${Math.min(width, x(event.last_time_us))} y1=${y} y2=${y} />`}
        <text x=${x(event.time_us)} y=${y + 6}>${signOf(event.name)}</text>
        <title>${clock(event.time_us)} ${event.node} ${event.name} (term ${event.term}) ${detailsOf(event)}</title>
      </g>`;
    })}
  </svg></div>`;
}

/** @param {{event: Event, onClose: () => void}} properties */
function Facts({ event, onClose }) {
  const rows = [
    ["Node", event.node], ["What", event.name], ["Term", event.term], ["Time", clock(event.time_us)],
    ...(event.count > 1 ? [["Times", `${event.count}, the last at ${clock(event.last_time_us)}`]] : []),
    ...Object.entries(event.details).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
    ["Number", `${event.sequence} of start ${event.start_id}`],
  ];
  return html`<${Card} title="Facts" tools=${html`<button type="button" class="small" onClick=${onClose}>Close</button>`}>
    <dl class="inline-facts">${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
  <//>`;
}

/** @param {{state: import("../lib/live.js").ClusterState, place: import("../lib/places.js").Place, lost: boolean}} properties */
export function TimelineView({ state, place, lost }) {
  const ids = state.shards.map((each) => String(each.id));
  const asked = place.query.get("shard") ?? ALL;
  const wanted = asked === ALL && ids.length > TOGETHER ? ids[0] : asked;
  if (wanted !== ALL && !ids.includes(wanted)) return html`<h1>Timeline</h1><p>There is no shard ${wanted}. <a href=${link(["timeline"])}>To the timeline</a></p>`;
  return html`<${Timeline} state=${state} wanted=${wanted} lost=${lost} />`;
}

/** @param {{state: import("../lib/live.js").ClusterState, wanted: string, lost: boolean}} properties `wanted` is a shard, or all of them. */
function Timeline({ state, wanted, lost }) {
  const ids = state.shards.map((each) => each.id);
  const shards = wanted === ALL ? ids.slice(0, TOGETHER) : [Number(wanted)];
  const named = wanted === ALL && ids.length > 1 ? "All shards" : `Shard ${shards[0] ?? 0}`;
  const { found, error } = useEvents(shards);
  const [chosenSpan, setChosenSpan] = useState(0);
  const [window, setWindow] = useState(/** @type {{from: number, to: number} | null} */ (null));
  const zoom = (/** @type {number} */ first, /** @type {number} */ last) => {
    const half = Math.min(LONGEST_US, Math.max(SHORTEST_US, last - first)) / 2;
    // At its end the picture stays where it is.
    const middle = last - first === 2 * half || !window ? (first + last) / 2 : (window.from + window.to) / 2;
    setWindow({ from: middle - half, to: middle + half });
  };
  const [off, setOff] = useState(/** @type {string[]} */ ([]));
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState(/** @type {Event | null} */ (null));
  useEffect(() => setChosen(null), [wanted]);
  // A cluster that began just now is not shown as a point at the end of a long nothing.
  const oldest = found?.events[0]?.time_us ?? state.time_us;
  const span = chosenSpan || (SPANS.find((seconds) => seconds * 1e6 > state.time_us - oldest && seconds <= USUAL) ?? USUAL);
  const to = window?.to ?? state.time_us;
  const from = window?.from ?? to - span * 1e6;
  const nodes = state.shards.filter((each) => shards.includes(each.id)).flatMap((each) => each.nodes).map((node) => node.id).sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  const events = useMemo(
    () => (found?.events ?? []).filter((event) => !off.includes(kindOf(event.name)) && (text === "" || `${event.node} ${event.name} ${detailsOf(event)}`.includes(text))),
    [found?.events, off, text],
  );
  const seen = events.filter((event) => event.last_time_us >= from && event.time_us <= to && nodes.includes(event.node));
  const toggle = (/** @type {string} */ kind) => setOff(off.includes(kind) ? off.filter((each) => each !== kind) : [...off, kind]);
  const tools = html`
    <label class="inline">Shard <select value=${wanted} onChange=${(/** @type {any} */ event) => go(link(["timeline"], { shard: event.target.value }))}>
      ${ids.length <= TOGETHER && html`<option value=${ALL}>all</option>`}
      ${ids.map((each) => html`<option key=${each} value=${String(each)}>${each}</option>`)}
    </select></label>
    <label class="inline">Last <select value=${String(span)} onChange=${(/** @type {any} */ event) => { setChosenSpan(Number(event.target.value)); setWindow(null); }}>
      ${SPANS.map((seconds) => html`<option key=${seconds} value=${String(seconds)}>${spanText(1000 * seconds)}</option>`)}
    </select></label>
    <button type="button" class="small" onClick=${() => { const middle = (from + to) / 2; const half = (to - from) / 4; zoom(middle - half, middle + half); }} aria-label="Zoom in" title="Zoom in">+</button>
    <button type="button" class="small" onClick=${() => { const middle = (from + to) / 2; const half = to - from; zoom(middle - half, middle + half); }} aria-label="Zoom out" title="Zoom out">−</button>
    <button type="button" class="small" onClick=${() => setWindow({ from: from - (to - from) / 2, to: to - (to - from) / 2 })} aria-label="Earlier" title="Earlier">‹</button>
    <button type="button" class="small" onClick=${() => setWindow(window === null ? null : { from: from + (to - from) / 2, to: to + (to - from) / 2 })} aria-label="Later" title="Later" disabled=${window === null}>›</button>
    <button type="button" class="small" onClick=${() => setWindow(null)} disabled=${window === null} title="Go with the time again">Now</button>
    <button type="button" class="small" onClick=${() => save(new Blob([JSON.stringify({ ...found, events: seen }, null, 2)], { type: "application/json" }), `${wanted === ALL ? "all" : `shard-${shards[0]}`}-events.json`)} disabled=${!found}>Export as JSON</button>
  `;
  return html`<h1>Timeline</h1>
    <${Card} title=${`${named}: ${plural(seen.length, "event")} in ${to - from < 10e6 ? milliseconds((to - from) / 1000) : spanText((to - from) / 1000)}`} tools=${tools}>
      <${Trouble} error=${error} lost=${lost} />
      ${found?.unreachable.length ? html`<p class="warn-text">No answer, so that their newest events are missing: ${found.unreachable.join(", ")}.</p>` : null}
      ${found?.cut && from < oldest ? html`<p class="quiet">There were more events before ${clock(oldest)}: the newest alone are told.</p>` : null}
      <div class="row filters">
        ${Object.entries(KINDS).map(([kind, { title, sign }]) => html`<label key=${kind} class="inline mark-label ${kind}"><input type="checkbox" checked=${!off.includes(kind)} onChange=${() => toggle(kind)} /> <span aria-hidden="true">${sign}</span> ${title}</label>`)}
        <label class="inline">Contains <input type="search" value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} /></label>
      </div>
      ${seen.length > DRAWN && html`<p class="quiet">The axis shows the newest ${count(DRAWN)}: zoom in, or leave kinds out, to see the others.</p>`}
      <${Axis} events=${seen.slice(-DRAWN)} nodes=${nodes} from=${from} to=${to} chosen=${chosen} onChoose=${setChosen} onZoom=${zoom} />
    <//>
    ${chosen && html`<${Facts} event=${chosen} onClose=${() => setChosen(null)} />`}
    <${Card} title="Newest first">
      <${Wide} label="Events">
        <table>
          <thead><tr><th scope="col">Time</th><th scope="col">Node</th><th scope="col" class="number">Term</th><th scope="col">What</th><th scope="col">Facts</th></tr></thead>
          <tbody>
            ${seen.slice(-LISTED).reverse().map((event) => html`<tr key=${idOf(event)}>
              <td class="mono">${clock(event.time_us)}</td><td>${event.node}</td><td class="number">${event.term}</td>
              <td class="mark-label ${kindOf(event.name)}"><button type="button" class="plain" onClick=${() => setChosen(event)}>${signOf(event.name)} ${event.name}${event.count > 1 ? ` × ${event.count}` : ""}</button></td>
              <td class="mono details">${detailsOf(event)}</td>
            </tr>`)}
          </tbody>
        </table>
      <//>
      ${seen.length === 0 && html`<p class="quiet">${found ? "Nothing happened in this time." : "Asking the nodes…"}</p>`}
      <${Command} text=${`dougctl timeline${wanted === ALL ? "" : ` --shard ${shards[0]}`} --since ${Math.ceil(span / 60)}m`} />
    <//>`;
}
