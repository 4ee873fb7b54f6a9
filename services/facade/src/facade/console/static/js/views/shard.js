/**
 * One shard: its nodes around the leader, what operators may do, and the figures of each node.
 * @module
 */

import { ask, Problem, read } from "../lib/api.js";
import { count, isKnown, milliseconds, rate, UNKNOWN } from "../lib/format.js";
import { link } from "../lib/places.js";
import { usePolled } from "../lib/polling.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { useRights } from "../lib/rights.js";
import { quoted } from "../lib/shell.js";
import { Act, Card, Command, Confirm, Dialog, Download, note, signOf, Trouble, Wide } from "../lib/ui.js";
import { TEXT, useWidth } from "../lib/width.js";
import { Ailment, commitOf, healthOf, leaderOf, NodeTable, slotsOf, termOf } from "./cluster.js";

/** @typedef {import("../lib/live.js").ClusterState} ClusterState */
/** @typedef {import("../lib/live.js").ShardState} ShardState */
/** @typedef {import("../lib/live.js").NodeState} NodeState */

/** The widest that a picture of a shard is, below which width its nodes are one below the other, and how large a node is. */
const WIDTH = 760;
const NARROW = 560;
const NODE = { width: 184, height: 66 };
const MARGIN = 6;
/** Between nodes that are one below the other, so that what flows between them is seen. */
const GAP = 24;
const RADIUS = { x: 255, y: 158 };
/** The height of a line below the nodes. */
const WORDS = 30;
/** The width of a letter of a name at most. */
const LETTER = 9.5;
const MEMBERS_MS = 3000;

/** @typedef {{x: number, y: number}} Point */

/**
 * Where the nodes are: around a circle. Where that is narrow, it is turned, so that no two nodes are at one height, and made
 * as high as they need.
 * @param {number} total @param {number} width @returns {{points: Point[], box: number, top: number, height: number}} `box` is the width of a node.
 */
function circle(total, width) {
  const narrow = width < NARROW;
  const first = narrow ? (total % 2 ? 0 : Math.PI / (2 * total)) : -Math.PI / 2;
  const angles = Array.from({ length: total }, (_, place) => first + (2 * Math.PI * place) / total);
  const heights = angles.map(Math.sin).sort((one, other) => one - other);
  const gaps = heights.slice(1).map((each, place) => each - heights[place]);
  const box = Math.min(NODE.width, 0.52 * width);
  const radius = narrow ? { x: (width - box) / 2 - MARGIN, y: (NODE.height + GAP) / Math.min(1, ...gaps) } : { x: RADIUS.x, y: RADIUS.y * Math.max(1, total / 5) };
  const points = angles.map((angle) => ({
    x: width / 2 + (total > 1 ? radius.x * Math.cos(angle) : 0),
    y: radius.y * Math.sin(angle),
  }));
  const top = Math.min(...points.map((point) => point.y)) - NODE.height / 2 - MARGIN;
  return { points, box, top, height: Math.max(...points.map((point) => point.y)) + NODE.height / 2 + MARGIN - top };
}

/** @param {number | null | undefined} entries How long an entry is drawn to travel; null while none does. */
function travel(entries) {
  if (!isKnown(entries) || /** @type {number} */ (entries) < 0.05) return null;
  return Math.max(0.25, 2.4 - 0.6 * Math.log10(1 + /** @type {number} */ (entries)));
}

/** @param {{from: Point, to: Point, seconds: number}} properties Entries on their way: faster or slower from where they are, when the rate changes. */
function Flow({ from, to, seconds }) {
  const line = useRef(/** @type {SVGLineElement | null} */ (null));
  useEffect(() => {
    // A change of its duration would have it jump; who wants no motion has no animation here.
    line.current?.getAnimations().forEach((each) => each.updatePlaybackRate(1 / seconds));
  }, [seconds]);
  return html`<line ref=${line} class="flow" x1=${from.x} y1=${from.y} x2=${to.x} y2=${to.y} />`;
}

/** @param {{shard: ShardState}} properties The nodes on a circle; entries flow from the leader, votes to candidates. */
function Ring({ shard }) {
  const frame = useRef(/** @type {HTMLElement | null} */ (null));
  const width = Math.min(WIDTH, useWidth(frame, WIDTH));
  const nodes = [...shard.nodes].sort((one, other) => one.id.localeCompare(other.id, "en", { numeric: true }));
  const leader = leaderOf(shard);
  const term = termOf(shard) ?? 0;
  const commit = commitOf(shard) ?? 0;
  const { points, box, top, height } = circle(nodes.length, width);
  // What is told of an election stands in the middle, if there is room.
  const inside = width >= NARROW && nodes.length > 1;
  const at = new Map(nodes.map((node, place) => [node.id, points[place]]));
  const from = leader && at.get(leader.id);
  const candidates = nodes.filter((node) => node.role.endsWith("candidate"));
  const votes = leader
    ? []
    : nodes.flatMap((node) => {
        const candidate = candidates.find((each) => each.id === node.voted_for && each.term === node.term);
        return candidate && candidate !== node ? [{ from: at.get(node.id), to: at.get(candidate.id), name: node.id }] : [];
      });
  const seconds = travel(leader?.commit_rate);
  const elects = candidates.some((node) => node.role === "candidate") ? `election in term ${term}` : candidates.length ? `pre-votes for term ${term + 1}` : "no leader";
  const told = leader
    ? `${leader.id} leads in term ${term}; ${nodes.length - 1} others follow it or do not answer.`
    : candidates.length
      ? `${candidates.map((each) => each.id).join(", ")} ask for votes.`
      : "Nobody leads.";
  return html`<div ref=${frame}><svg class="ring" viewBox="0 ${top} ${width} ${height + (leader || inside ? 0 : WORDS)}" style=${{ maxWidth: `${width / TEXT}rem` }} role="img" aria-label=${`Shard ${shard.id}: ${told}`}>
    ${from &&
    nodes
      .filter((node) => node !== leader)
      .map((node) => {
        const to = /** @type {Point} */ (at.get(node.id));
        const silent = node.role === "unreachable" || node.role === "waiting";
        return html`<g key=${`line-${node.id}`}>
          <line class=${silent ? "link silent" : "link"} x1=${from.x} y1=${from.y} x2=${to.x} y2=${to.y} />
          ${!silent && seconds !== null && html`<${Flow} from=${from} to=${to} seconds=${seconds} />`}
        </g>`;
      })}
    ${votes.map(
      (vote) => html`<line key=${`vote-${vote.name}`} class="vote" x1=${vote.from?.x} y1=${vote.from?.y} x2=${vote.to?.x} y2=${vote.to?.y} />`,
    )}
    ${nodes.map((node) => {
      const { x, y } = /** @type {Point} */ (at.get(node.id));
      const lag = commit - (node.applied ?? 0);
      const facts =
        node.role === "unreachable"
          ? "no answer"
          : `term ${count(node.term)} · ${lag > 0 ? `${count(lag)} behind` : `at ${count(node.applied)}`}`;
      return html`<g key=${node.id} class="node ${node.role}" transform=${`translate(${x}, ${y})`}>
        <rect x=${-box / 2} y=${-NODE.height / 2} width=${box} height=${NODE.height} rx="10" />
        <text class="name" y="-11" textLength=${(node.id.length + 2) * LETTER > box ? box - 2 * MARGIN : undefined} lengthAdjust="spacingAndGlyphs">${signOf(node.role)} ${node.id}</text>
        <text y="7">${node.role}</text>
        <text class="small" y="24">${facts}</text>
      </g>`;
    })}
    ${!leader && html`<text class="middle" x=${width / 2} y=${inside ? 4 : top + height + WORDS - MARGIN}>${elects}</text>`}
  </svg></div>`;
}

/** @typedef {{name: string, incarnation: string, role: string, leader: boolean, address: string | null,
 *   client_address: string | null, match_index: number, lag: number, state: string | null, healthy: boolean}} Member */

/** @param {number} shard */
function useMembers(shard) {
  const ask = (/** @type {AbortSignal} */ signal) => read(`/v1/console/members?shard=${shard}`, signal);
  return usePolled(/** @type {(signal: AbortSignal) => Promise<{members: Member[], changing: boolean}>} */ (ask), MEMBERS_MS, [shard]);
}

/** @param {{shard: number, onClose: () => void}} properties */
function AddMember({ shard, onClose }) {
  const [name, setName] = useState("");
  const [address, setAddress] = useState("");
  const [incarnation, setIncarnation] = useState("");
  const add = async () => {
    const wanted = incarnation ? { name, address, incarnation } : { name, address };
    await ask("POST", `/v1/shards/${shard}/members`, wanted);
    note(`${name} is a learner of shard ${shard} now, and becomes a voter once it has caught up.`, "good");
  };
  const field = (/** @type {(text: string) => void} */ set) => (/** @type {any} */ event) => set(event.target.value.trim());
  return html`<${Confirm} title=${`Add a member to shard ${shard}`} verb="Add" ready=${Boolean(name && address)} onDo=${add} onClose=${onClose}>
    <p>The node has to run already. It is admitted as a learner, and becomes a voter by itself.</p>
    <label>Name <input value=${name} onInput=${field(setName)} placeholder="shard-0-5" autocomplete="off" /></label>
    <label>Raft address <input value=${address} onInput=${field(setAddress)} placeholder="host:port" autocomplete="off" /></label>
    <label>Incarnation, for a node of no cluster yet (its log says it) <input value=${incarnation} onInput=${field(setIncarnation)} inputmode="numeric" autocomplete="off" /></label>
    <${Command} text=${["dougctl members add", quoted(name || "NAME"), `--address ${quoted(address || "HOST:PORT")}`, `--shard ${shard}`, ...(incarnation ? [`--incarnation ${quoted(incarnation)}`] : [])].join(" ")} />
  <//>`;
}

/** @param {{shard: number, member: Member, what: string, onClose: () => void}} properties */
function MemberAction({ shard, member, what, onClose }) {
  const [force, setForce] = useState(false);
  const [address, setAddress] = useState("");
  const [incarnation, setIncarnation] = useState("");
  const path = `/v1/shards/${shard}/members/${encodeURIComponent(member.name)}`;
  const query = force ? "?force=true" : "";
  const forced = html`<label class="inline"><input type="checkbox" checked=${force} onChange=${(/** @type {any} */ event) => setForce(event.target.checked)} /> also if the others cannot form a healthy quorum now: the shard may stop</label>`;
  const line = (/** @type {string[]} */ ...options) => html`<${Command} text=${["dougctl members", what, quoted(member.name), `--shard ${shard}`, ...options, ...(force ? ["--force"] : [])].join(" ")} />`;
  if (what === "lead") {
    const move = async () => {
      const moved = await ask("POST", `/v1/shards/${shard}/leader`, { to: member.name });
      note(`${moved.leader} leads shard ${shard} in term ${moved.term}.`, "good");
    };
    return html`<${Confirm} title=${`Move leadership to ${member.name}?`} verb="Move leadership" onDo=${move} onClose=${onClose}>
      <p>The leader hands over once <b class="nowrap">${member.name}</b> has all entries. No request fails for it.</p>
      <${Command} text=${`dougctl leader transfer --shard ${shard} --to ${quoted(member.name)}`} />
    <//>`;
  }
  if (what === "remove") {
    const remove = async () => {
      await ask("DELETE", path + query);
      note(`${member.name} is no member of shard ${shard} any more.`, "good");
    };
    return html`<${Confirm} title=${`Remove ${member.name} from shard ${shard}?`} verb="Remove" danger typed=${member.name} onDo=${remove} onClose=${onClose}>
      <p>It gets no entries and has no vote any more. Its data stays on its disks.${member.leader ? " It leads now, and gives up once that is decided: the others elect one of them." : ""}</p>
      ${forced}
      ${line()}
    <//>`;
  }
  const replace = async () => {
    const wanted = { ...(address && { address }), ...(incarnation && { incarnation }) };
    await ask("POST", `${path}/replace${query}`, wanted);
    note(`The new ${member.name} is a learner of shard ${shard} now.`, "good");
  };
  const field = (/** @type {(text: string) => void} */ set) => (/** @type {any} */ event) => set(event.target.value.trim());
  return html`<${Confirm} title=${`Replace ${member.name}?`} verb="Replace" danger typed=${member.name} onDo=${replace} onClose=${onClose}>
    <p>For a node whose disk was wiped or replaced: what it was is removed, and what it is now is admitted as a learner.</p>
    <label>Raft address, if it is another one <input value=${address} onInput=${field(setAddress)} placeholder=${member.address ?? "host:port"} autocomplete="off" /></label>
    <label>Incarnation (its log says it) <input value=${incarnation} onInput=${field(setIncarnation)} inputmode="numeric" autocomplete="off" /></label>
    ${forced}
    ${line(...(address ? [`--address ${quoted(address)}`] : []), ...(incarnation ? [`--incarnation ${quoted(incarnation)}`] : []))}
  <//>`;
}

/** @param {{shard: number, onClose: () => void}} properties */
function Backup({ shard, onClose }) {
  return html`<${Dialog} title=${`Download a backup of shard ${shard}?`} onClose=${onClose}>
    <p>All that was acknowledged until now, of this shard, as a file. The shard goes on serving; one of its nodes reads all its data for it.</p>
    <p>All shards, with the manifest that is needed to restore the cluster:</p>
    <${Command} text="dougctl backup create DIR" />
    <div class="row end">
      <button type="button" onClick=${onClose}>Close</button>
      <${Download} path=${`/v1/shards/${shard}/backup`} name=${`shard-${shard}.tar`}>Download<//>
    </div>
  <//>`;
}

/** @param {{shard: ShardState, lost: boolean}} properties */
function Members({ shard, lost }) {
  const { found, error } = useMembers(shard.id);
  const [asked, setAsked] = useState(/** @type {{what: string, member?: Member} | null} */ (null));
  const close = () => setAsked(null);
  const rights = useRights();
  const why = rights.lacks("admin:members");
  // What the stream tells is newer: without a leader an answer takes ten seconds, to say that there was none.
  const leads = leaderOf(shard) !== undefined;
  const tools = html`
    ${found?.changing && html`<span class="badge warn">a change is under way</span>`}
    <${Act} why=${why} onClick=${() => setAsked({ what: "add" })}>Add a member<//>
    <${Act} why=${rights.lacks("admin:backup")} onClick=${() => setAsked({ what: "backup" })}>Download a backup<//>
  `;
  return html`<${Card} title="Members" tools=${tools}>
    ${leads
      ? error instanceof Problem && html`<${Trouble} error=${error} lost=${lost} />`
      : html`<p class="quiet" role="status">Nobody leads this shard, and a leader alone knows its members. ${found ? "These were the members when they were told last." : "They are shown once there is one."}</p>`}
    ${leads && !found && !error && html`<p class="quiet">Asking the leader…</p>`}
    ${found &&
    html`<${Wide} label="Members">
      <table>
        <thead><tr><th scope="col">Name</th><th scope="col">Vote</th><th scope="col">Healthy</th><th scope="col">Sending</th><th scope="col" class="number">Match index</th><th scope="col" class="number">Lag</th><th scope="col">Raft address</th><th scope="col">Incarnation</th><th scope="col">Do</th></tr></thead>
        <tbody>
          ${found.members.map(
            (member) => html`<tr key=${member.name} class=${member.leader ? "leader" : ""}>
              <th scope="row">${member.name}</th>
              <td>${member.role}</td>
              <td>${member.healthy ? "yes" : html`<span class="badge bad">no</span>`}</td>
              <td>${member.leader ? "leads" : member.state ?? UNKNOWN}</td>
              <td class="number">${count(member.match_index)}</td>
              <td class="number">${count(member.lag)}</td>
              <td class="mono">${member.address ?? UNKNOWN}</td>
              <td class="mono">${member.incarnation}</td>
              <td><div class="row tight">
                ${member.role === "voter" && !member.leader && html`<${Act} why=${why} onClick=${() => setAsked({ what: "lead", member })}>Make leader<span class="hidden">: ${member.name}</span><//>`}
                ${!member.leader && html`<${Act} why=${why} onClick=${() => setAsked({ what: "replace", member })}>Replace<span class="hidden"> ${member.name}</span><//>`}
                <${Act} why=${why} onClick=${() => setAsked({ what: "remove", member })}>Remove<span class="hidden"> ${member.name}</span><//>
              </div></td>
            </tr>`,
          )}
        </tbody>
      </table>
    <//>`}
    ${asked?.what === "backup" && html`<${Backup} shard=${shard.id} onClose=${close} />`}
    ${asked?.what === "add" && html`<${AddMember} shard=${shard.id} onClose=${close} />`}
    ${asked?.member && html`<${MemberAction} shard=${shard.id} member=${asked.member} what=${asked.what} onClose=${close} />`}
  <//>`;
}

/** @param {{state: ClusterState, place: import("../lib/places.js").Place, lost: boolean}} properties */
export function ShardView({ state, place, lost }) {
  const shard = state.shards.find((each) => String(each.id) === place.parts[0]);
  if (!shard) return html`<h1>Shard</h1><p>There is no shard ${place.parts[0]}. <a href=${link(["cluster"])}>To the cluster</a></p>`;
  const leader = leaderOf(shard);
  const health = healthOf(shard);
  const slots = slotsOf(state, shard.id).reduce((sum, [first, last]) => sum + last - first + 1, 0);
  const figures = [
    ["State", html`<span class="badge ${health.kind}">${health.text}</span>`],
    ["Leader", leader?.id ?? UNKNOWN],
    ["Term", count(termOf(shard))],
    ["Commit", count(commitOf(shard))],
    ["Entries/s", rate(leader?.commit_rate)],
    ["Commit takes", milliseconds(leader?.commit_ms)],
    ["Slots", count(slots)],
  ];
  return html`<h1><a href=${link(["cluster"])}>Cluster</a> / Shard ${shard.id}</h1>
    <dl class="figures">${figures.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <${Ailment} shard=${shard} />
    <${Card} title="Now"><${Ring} shard=${shard} /><//>
    <${Card} title="Nodes"><${NodeTable} shard=${shard} /><//>
    <${Members} shard=${shard} lost=${lost} />`;
}
