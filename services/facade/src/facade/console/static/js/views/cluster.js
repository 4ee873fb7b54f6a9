/**
 * The cluster: every shard with its nodes, at a glance and in figures.
 * @module
 */

import { bytes, count, duration, isKnown, milliseconds, percent, rate, UNKNOWN } from "../lib/format.js";
import { link } from "../lib/places.js";
import { html, useState } from "../lib/preact.js";
import { Card, Role, signOf, Wide } from "../lib/ui.js";

/** @typedef {import("../lib/live.js").ClusterState} ClusterState */
/** @typedef {import("../lib/live.js").ShardState} ShardState */
/** @typedef {import("../lib/live.js").NodeState} NodeState */

const DETAILED_MAX = 4;
const LISTED = 60;

/** @param {ShardState} shard @returns {NodeState | undefined} The leader of the newest term. */
export function leaderOf(shard) {
  return shard.nodes.filter((node) => node.role === "leader").sort((one, other) => (other.term ?? 0) - (one.term ?? 0))[0];
}

/** @param {(number | null | undefined)[]} told @returns {number | null} The largest; null if no node tells one. */
function newest(told) {
  const known = told.flatMap((each) => each ?? []);
  return known.length ? Math.max(...known) : null;
}

/** @param {ShardState} shard */
export const termOf = (shard) => newest(shard.nodes.map((node) => node.term));

/** @param {ShardState} shard */
export const commitOf = (shard) => newest(shard.nodes.map((node) => node.commit));

/** @param {NodeState} node */
const isAway = (node) => node.role === "unreachable" || node.role === "waiting";

/** @param {NodeState[]} nodes */
const namesOf = (nodes) => nodes.map((node) => node.id).join(", ");

/**
 * How a shard is: in a word, what that means for those who use it, and the alert whose runbook says what to do.
 * @param {ShardState} shard @returns {{kind: string, text: string, meaning?: string, alert?: string}}
 */
export function healthOf(shard) {
  const away = shard.nodes.filter(isAway);
  const up = shard.nodes.length - away.length;
  // A learner has no vote, whether it answers or not.
  const voters = shard.nodes.filter((node) => node.role !== "learner" && !node.learner);
  const votes = voters.filter((node) => !isAway(node)).length;
  const quorum = Math.floor(voters.length / 2) + 1;
  if (!leaderOf(shard) && votes < quorum) {
    return { kind: "bad", text: "no quorum", alert: "DougDBNoLeader", meaning: `${votes} of ${voters.length} nodes${voters.length < shard.nodes.length ? " with a vote" : ""} answer, and ${quorum} are needed: no write is taken, and only eventual reads are answered. No answer: ${namesOf(away)}.` };
  }
  if (!leaderOf(shard)) return { kind: "bad", text: "no leader", alert: "DougDBNoLeader", meaning: "Until one is elected no write is taken, and only eventual reads are answered." };
  const full = shard.nodes.filter((node) => node.disk_low);
  if (full.length) {
    const refused = full.some((node) => node.role === "leader") ? "writes are refused, reads go on" : "it can hold no more, and does not lead";
    return { kind: "bad", text: "disk full", alert: "DougDBDiskLow", meaning: `The disk of ${namesOf(full)} is full: ${refused}.` };
  }
  if (up < shard.nodes.length) return { kind: "warn", text: `${up} of ${shard.nodes.length} nodes`, alert: "DougDBMemberDown", meaning: `Reads and writes go on. No answer: ${namesOf(away)}.` };
  const stalled = shard.nodes.filter((node) => node.stalled);
  if (stalled.length) return { kind: "warn", text: "stalled", alert: "DougDBWriteStall", meaning: `Compaction cannot keep up with what is written at ${namesOf(stalled)}.` };
  return { kind: "good", text: "healthy" };
}

/** @param {{shard: ShardState}} properties What is wrong with a shard, and the way to what can be done. */
export function Ailment({ shard }) {
  const { kind, meaning, alert } = healthOf(shard);
  if (!meaning || !alert) return null;
  return html`<p class="ailment ${kind}">${meaning} <a class="nowrap" href=${link(["runbook", alert])}>What to do</a></p>`;
}

/** @param {ClusterState} state @param {number} shard */
export function slotsOf(state, shard) {
  return (state.map?.slots ?? []).filter(([, , owner]) => owner === shard);
}

/** @param {[number, number, number][]} ranges */
function slotText(ranges) {
  const total = ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0);
  if (ranges.length > 2) return `${total} slots`;
  return `slots ${ranges.map(([first, last]) => `${first}–${last}`).join(", ") || "none"}`;
}

/** @param {ShardState} shard @param {NodeState} node How long its way to the leader and back takes. */
export function roundTripOf(shard, node) {
  return leaderOf(shard)?.peers?.find((peer) => peer.name === node.id)?.round_trip_ms ?? null;
}

/** @param {ShardState} shard @param {NodeState} node When the leader and this node last heard one another. */
export function heardOf(shard, node) {
  if (isKnown(node.heard_ms)) return node.heard_ms;
  return leaderOf(shard)?.peers?.find((peer) => peer.name === node.id)?.heard_ms ?? null;
}

/** @param {{node: NodeState}} properties */
function Flags({ node }) {
  const flags = [node.disk_low && "disk full", node.stalled && "stalled", node.draining && "draining"].filter(Boolean);
  return flags.map((flag) => html`<span key=${flag} class="flag">${flag}</span>`);
}

/** @param {NodeState} node The volume with the least room. */
function fullest(node) {
  const disks = (node.disks ?? []).filter((disk) => disk.total_bytes > 0);
  return disks.sort((one, other) => one.free_bytes / one.total_bytes - other.free_bytes / other.total_bytes)[0];
}

/** @param {{node: NodeState}} properties */
function Disk({ node }) {
  const disk = fullest(node);
  if (!disk) return UNKNOWN;
  const used = 1 - disk.free_bytes / disk.total_bytes;
  const title = `${disk.name}: ${bytes(disk.free_bytes)} free of ${bytes(disk.total_bytes)}`;
  return html`<span class="meter" title=${title}>
    <meter min="0" max="1" high="0.8" optimum="0.3" value=${used} aria-label=${title}></meter> ${percent(used)} full
  </span>`;
}

/** @param {{shard: ShardState}} properties */
export function NodeTable({ shard }) {
  const commit = commitOf(shard) ?? 0;
  return html`<${Wide} label=${`Nodes of shard ${shard.id}`}>
    <table class="nodes">
      <thead>
        <tr>
          <th scope="col">Node</th><th scope="col">Role</th>
          <th scope="col" class="number">Term</th>
          <th scope="col">Voted for</th>
          <th scope="col" class="number">Commit</th><th scope="col" class="number">Applied</th>
          <th scope="col" class="number" title="Entries that are committed and not applied here">Lag</th>
          <th scope="col" class="number" title="Since the leader and this node last heard one another">Heard</th>
          <th scope="col" class="number" title="From the leader and back">Round trip</th>
          <th scope="col" class="number" title="Mean time to sync the log">fsync</th>
          <th scope="col" class="number" title="What log and tables take">Data</th>
          <th scope="col" title="How full the fullest volume is, with all that is on it">Disk</th>
          <th scope="col" class="number">Memory</th>
          <th scope="col" class="number">Up for</th>
          <th scope="col">Version</th>
        </tr>
      </thead>
      <tbody>
        ${shard.nodes.map((node) => html`<${NodeRow} key=${node.id} shard=${shard} node=${node} commit=${commit} />`)}
      </tbody>
    </table>
  <//>`;
}

/** @param {{shard: ShardState, node: NodeState, commit: number}} properties */
function NodeRow({ shard, node, commit }) {
  if (node.role === "unreachable") {
    return html`<tr class="unreachable">
      <th scope="row">${node.id}</th><td><${Role} role=${node.role} /></td>
      <td colspan="13" class="quiet">does not answer at ${node.address}</td>
    </tr>`;
  }
  const lag = commit - (node.applied ?? 0);
  return html`<tr class=${node.role}>
    <th scope="row">${node.id} <${Flags} node=${node} /></th>
    <td><${Role} role=${node.role} /></td>
    <td class="number">${count(node.term)}</td>
    <td>${node.voted_for || UNKNOWN}</td>
    <td class="number">${count(node.commit)}</td>
    <td class="number">${count(node.applied)}</td>
    <td class="number ${lag > 1000 ? "warn" : ""}">${count(lag)}</td>
    <td class="number">${milliseconds(heardOf(shard, node))}</td>
    <td class="number">${milliseconds(roundTripOf(shard, node))}</td>
    <td class="number">${milliseconds(node.sync_ms)}</td>
    <td class="number">${bytes((node.log_bytes ?? 0) + (node.table_bytes ?? 0))}</td>
    <td><${Disk} node=${node} /></td>
    <td class="number">${bytes(node.memory_bytes)}</td>
    <td class="number">${duration(node.uptime_ms)}</td>
    <td>${node.version || UNKNOWN}</td>
  </tr>`;
}

/** @param {{shard: ShardState, state: ClusterState}} properties */
function ShardCard({ shard, state }) {
  const leader = leaderOf(shard);
  const health = healthOf(shard);
  const title = html`<a href=${link(["shard", String(shard.id)])}>Shard ${shard.id}</a>`;
  const facts = html`
    <span class="badge ${health.kind}">${health.text}</span>
    <span>term <b>${count(termOf(shard))}</b></span>
    <span>${leader ? html`<b>${leader.id}</b> leads` : "nobody leads"}</span>
    <span>commit <b>${count(commitOf(shard))}</b></span>
    <span><b>${rate(leader?.commit_rate)}</b> entries/s</span>
    <span class="quiet">${slotText(slotsOf(state, shard.id))}</span>
  `;
  return html`<section class="card">
    <header><h2>${title}</h2><div class="facts">${facts}</div></header>
    <${Ailment} shard=${shard} />
    <${NodeTable} shard=${shard} />
  </section>`;
}

/** @param {{shards: ShardState[]}} properties One line for each shard: for clusters with very many. */
function ShardList({ shards }) {
  const [text, setText] = useState("");
  const [troubled, setTroubled] = useState(false);
  const [page, setPage] = useState(0);
  const wanted = shards.filter(
    (shard) =>
      (!troubled || healthOf(shard).kind !== "good") &&
      (text === "" || `shard ${shard.id}`.includes(text) || shard.nodes.some((node) => node.id.includes(text))),
  );
  const pages = Math.max(1, Math.ceil(wanted.length / LISTED));
  const first = Math.min(page, pages - 1) * LISTED;
  const tools = html`
    <label class="inline">Find <input type="search" value=${text} placeholder="shard or node" onInput=${(/** @type {any} */ event) => setText(event.target.value)} /></label>
    <label class="inline"><input type="checkbox" checked=${troubled} onChange=${(/** @type {any} */ event) => setTroubled(event.target.checked)} /> in trouble</label>
  `;
  return html`<${Card} title=${`${count(wanted.length)} of ${count(shards.length)} shards`} tools=${tools}>
    <${Wide} label="Shards">
      <table>
        <thead>
          <tr><th scope="col">Shard</th><th scope="col">State</th><th scope="col">Nodes</th><th scope="col">Leader</th>
          <th scope="col" class="number">Term</th><th scope="col" class="number">Commit</th><th scope="col" class="number">Entries/s</th></tr>
        </thead>
        <tbody>
          ${wanted.slice(first, first + LISTED).map((shard) => {
            const leader = leaderOf(shard);
            const health = healthOf(shard);
            return html`<tr key=${shard.id}>
              <th scope="row"><a href=${link(["shard", String(shard.id)])}>Shard ${shard.id}</a></th>
              <td><span class="badge ${health.kind}">${health.text}</span></td>
              <td><${Dots} shard=${shard} /></td>
              <td>${leader?.id ?? UNKNOWN}</td>
              <td class="number">${count(termOf(shard))}</td>
              <td class="number">${count(commitOf(shard))}</td>
              <td class="number">${rate(leader?.commit_rate)}</td>
            </tr>`;
          })}
        </tbody>
      </table>
    <//>
    ${pages > 1 && html`<nav class="row pager" aria-label="Pages of shards">
      <button type="button" disabled=${first === 0} onClick=${() => setPage(first / LISTED - 1)}>Before</button>
      <span>${count(first + 1)} to ${count(Math.min(first + LISTED, wanted.length))} of ${count(wanted.length)}</span>
      <button type="button" disabled=${first + LISTED >= wanted.length} onClick=${() => setPage(first / LISTED + 1)}>Next</button>
    </nav>`}
  <//>`;
}

/** @param {{shard: ShardState}} properties */
function Dots({ shard }) {
  return html`<span class="dots">
    ${shard.nodes.map(
      (node) => html`<span key=${node.id} class="dot ${node.role}" role="img" aria-label=${`${node.id}: ${node.role}`} title=${`${node.id}: ${node.role}`}>${signOf(node.role)}</span>`,
    )}
  </span>`;
}

/** @param {{state: ClusterState}} properties */
function Summary({ state }) {
  const nodes = state.shards.flatMap((shard) => shard.nodes);
  const up = nodes.filter((node) => !isAway(node)).length;
  const total = state.shards.reduce((sum, shard) => sum + (leaderOf(shard)?.commit_rate ?? 0), 0);
  const figures = [
    ["Shards", count(state.shards.length)],
    ["Nodes up", `${count(up)} of ${count(nodes.length)}`],
    ["Leaders", `${count(state.shards.filter(leaderOf).length)} of ${count(state.shards.length)}`],
    ["Entries/s", rate(total)],
    ["Map epoch", count(state.map?.epoch)],
    ["Facade", `${state.facade.id} ${state.facade.version}`],
    ["Facade up for", duration(state.facade.uptime_ms)],
  ];
  return html`<dl class="figures">
    ${figures.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

/** @param {{state: ClusterState}} properties */
export function ClusterView({ state }) {
  return html`<h1>Cluster</h1>
    <${Summary} state=${state} />
    ${!state.facade.ready && html`<div class="trouble" role="alert"><p>The facade is starting. Missing: ${state.facade.missing.join("; ")}.</p></div>`}
    ${state.shards.length > DETAILED_MAX
      ? html`<${ShardList} shards=${state.shards} />`
      : state.shards.map((shard) => html`<${ShardCard} key=${shard.id} shard=${shard} state=${state} />`)}`;
}
