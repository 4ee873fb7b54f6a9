/**
 * Try it: from a first key to a killed leader, with real requests and what was answered.
 * @module
 */

import { ask, denied, keepSeen, NO_ANSWER, ownHeaders, problemOf, read, seenHeaders } from "../lib/api.js";
import { count, milliseconds } from "../lib/format.js";
import { textKey } from "../lib/keys.js";
import { link } from "../lib/places.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { useRights } from "../lib/rights.js";
import { curl } from "../lib/shell.js";
import { Act, Card, Command, note, Role, Trouble, Wide } from "../lib/ui.js";
import { heardOf, leaderOf } from "./cluster.js";
import { Changes, useChanges } from "./changes.js";

/** @typedef {{label: string, method: string, path: string, headers?: Record<string, string>, body?: string, session?: boolean, note: string}} Request */
/** @typedef {{status: number, headers: [string, string][], body: string, tookMs: number}} Answer */

const SHOWN = [
  "etag", "doug-consistency-used", "doug-served-by", "doug-shard", "doug-term", "doug-applied-index", "doug-staleness-ms",
  "doug-expires-at", "idempotency-replayed", "server-timing", "content-type",
];
const JSON_TYPE = { "content-type": "application/json" };
const TEXT_TYPE = { "content-type": "text/plain" };
/** A word of this visit, so that what is tried twice is new. */
const VISIT = Math.random().toString(36).slice(2, 8);

/** @type {{title: string, text: string, requests: Request[]}[]} */
const STEPS = [
  {
    title: "Put a key, and read it",
    text: "An acknowledged write is on the disks of a majority of its shard's nodes. The answer says who gave it: the node, its term, and the index up to which it had applied the log.",
    requests: [
      { label: "Put", method: "PUT", path: "/v1/kv/try/hello", headers: TEXT_TYPE, body: "world", note: "The ETag is the revision of the value." },
      { label: "Read", method: "GET", path: "/v1/kv/try/hello", note: "A linearizable read sees every write that was acknowledged before." },
    ],
  },
  {
    title: "Read what is new enough for you",
    text: "A linearizable read asks the leader to confirm that it still leads. A read in a session sees at least what this page has read and written. An eventual one is answered by any replica from what it has applied: send it some times, and look at Doug-Served-By.",
    requests: [
      { label: "Linearizable", method: "GET", path: "/v1/kv/try/hello?consistency=linearizable", note: "Answered by the leader, or by a follower that asked it." },
      { label: "At most 2 s old", method: "GET", path: "/v1/kv/try/hello?consistency=bounded&max_staleness=2s", note: "Answered by any replica that can prove it." },
      { label: "In my session", method: "GET", path: "/v1/kv/try/hello?consistency=session", session: true, note: "Answered by any replica that has what this page has read and written, as Doug-Session says." },
      { label: "Eventual", method: "GET", path: "/v1/kv/try/hello?consistency=eventual", note: "Answered by any replica." },
    ],
  },
  {
    title: "Change only what you have seen",
    text: "A write may have a condition. Two people who change the same key cannot overwrite one another unseen.",
    requests: [
      { label: "Create, if it is not there", method: "PUT", path: `/v1/kv/try/new-${VISIT}`, headers: { ...TEXT_TYPE, "if-none-match": "*" }, body: "mine", note: "The first time it is 200, the second time 412." },
      { label: "Change revision 1", method: "PUT", path: "/v1/kv/try/hello", headers: { ...TEXT_TYPE, "if-match": '"1"' }, body: "again", note: "412 says which revision is there now." },
    ],
  },
  {
    title: "Count, exactly once",
    text: "With an idempotency key, a request happens once however often it is sent: the shard keeps key and result in its own log.",
    requests: [
      { label: "Increment", method: "POST", path: "/v1/kv/try/counter:increment", headers: JSON_TYPE, body: '{"by": 1}', note: "Each time it counts." },
      { label: "Increment with a key", method: "POST", path: "/v1/kv/try/counter:increment", headers: { ...JSON_TYPE, "idempotency-key": `try-${VISIT}` }, body: '{"by": 1}', note: "Sent twice, it counts once: Idempotency-Replayed." },
    ],
  },
  {
    title: "Hold a lock",
    text: "A key that is created only if it is not there, and that expires, is a lock. Whoever holds it renews it; whoever dies loses it.",
    requests: [
      { label: "Take it for 15 s", method: "PUT", path: "/v1/kv/try/lock?ttl=15s", headers: { ...TEXT_TYPE, "if-none-match": "*" }, body: "me", note: "412 while somebody holds it." },
      { label: "Renew it", method: "POST", path: "/v1/kv/try/lock:touch?ttl=15s", headers: JSON_TYPE, note: "404 once it has expired." },
      { label: "Release it", method: "DELETE", path: "/v1/kv/try/lock", note: "In earnest, send the revision that you got as If-Match: else you may release what somebody else holds by now." },
    ],
  },
];

/** @param {Request} request @returns {Record<string, string>} */
function headersOf(request) {
  return { ...request.headers, ...(request.session && seenHeaders()) };
}

/** @param {Request} request @returns {Promise<Answer>} */
async function run(request) {
  const started = performance.now();
  const own = ownHeaders();
  const response = await fetch(request.path, {
    method: request.method,
    headers: { ...own, ...headersOf(request) },
    body: request.body,
    cache: "no-store",
  });
  keepSeen(response);
  if (response.status === 401) denied(await problemOf(response.clone(), own));
  const body = await response.text();
  const headers = SHOWN.flatMap((name) => {
    const value = response.headers.get(name);
    return value === null ? [] : [/** @type {[string, string]} */ ([name, value])];
  });
  return { status: response.status, headers, body: body.slice(0, 2000), tookMs: performance.now() - started };
}

/** @param {{answer: Answer}} properties */
function Answered({ answer }) {
  const kind = answer.status < 400 ? "good" : answer.status < 500 ? "warn" : "bad";
  return html`<div class="answer" role="status">
    <p><span class="badge ${kind}">${answer.status}</span> <span class="quiet">in ${milliseconds(answer.tookMs)}</span></p>
    <pre class="value" tabindex="0">${answer.headers.map(([name, value]) => `${name}: ${value}`).join("\n")}${answer.body ? `\n\n${answer.body}` : ""}</pre>
  </div>`;
}

/** @param {{title: string, text: string, requests: Request[], number: number}} properties */
function Step({ title, text, requests, number }) {
  const [chosen, setChosen] = useState(requests[0]);
  const [answer, setAnswer] = useState(/** @type {Answer | null} */ (null));
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const newest = useRef(0);
  const press = async (/** @type {Request} */ request) => {
    // What is shown below a request is its answer, and neither that of the one before nor one that comes late.
    const mine = ++newest.current;
    setChosen(request);
    setError("");
    setAnswer(null);
    setBusy(true);
    const answered = await run(request).catch(() => null);
    if (mine !== newest.current) return;
    setBusy(false);
    setAnswer(answered);
    if (answered === null) setError(NO_ANSWER);
  };
  return html`<${Card} title=${`${number}. ${title}`}>
    <p>${text}</p>
    <div class="row">${requests.map((request) => html`<button key=${request.label} type="button" onClick=${() => press(request)}>${request.label}</button>`)}</div>
    <${Command} text=${curl(chosen.method, chosen.path, headersOf(chosen), chosen.body)} />
    <p class="quiet">${chosen.note}</p>
    ${busy && html`<p class="quiet" role="status">Waiting for the answer…</p>`}
    ${error && html`<div class="trouble" role="alert"><p>${error}</p></div>`}
    ${answer && html`<${Answered} answer=${answer} />`}
  <//>`;
}

function WatchStep() {
  const [on, setOn] = useState(false);
  const { changes, error } = useChanges(textKey("try/"), on, () => {});
  return html`<${Card} title=${`${STEPS.length + 1}. Watch`}>
    <p>A watch tells every change of a range, once and in the order of each key. Start it, and press the buttons above again.</p>
    <button type="button" aria-pressed=${on} onClick=${() => setOn(!on)}>${on ? "Stop watching" : "Watch try/"}</button>
    ${on && html`<${Changes} changes=${changes} error=${error} onSelect=${() => {}} />`}
    <${Command} text=${curl("GET", "/v1/watch?prefix=try/").replace("curl", "curl -N")} />
  <//>`;
}

/** What can be done to a node: the wish, its button, what is told once it is done, and before. */
const FAULTS = /** @type {[string, string, string, string][]} */ ([
  ["kill", "Kill", "is killed, and will be started again in a second.", "Kills its process; it is started again in a second"],
  ["pause", "Pause", "stands still for a minute, as a machine that hangs.", "Has it stand still for a minute, as a machine that hangs"],
  ["cut", "Cut off", "is cut off from the other nodes for a minute; clients still reach it.", "Cuts it off from the other nodes for a minute; clients still reach it"],
  ["slow", "Slow disk", "waits 0.4 s longer for its disk at each sync, for a minute.", "Has each sync of its disk take 0.4 s longer, for a minute"],
  ["resume", "Go on", "goes on without faults.", "Ends what was done to it"],
]);

/**
 * What the supervisor of `dougctl dev` does to nodes; nothing of it is there elsewhere.
 * @param {{shard: import("../lib/live.js").ShardState}} properties
 */
function Faults({ shard }) {
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const why = useRights().lacks("admin:members");
  const leader = leaderOf(shard);
  // The facade keeps what was told once: whoever looks at the timeline afterwards sees what the killed node did before.
  useEffect(() => void read(`/v1/console/events?shards=${shard.id}`).catch(() => {}), [shard.id]);
  const act = async (/** @type {string} */ node, /** @type {string} */ wish) => {
    setError(null);
    try {
      await ask("POST", "/v1/console/faults", { node, do: wish });
      note(`${node} ${FAULTS.find(([each]) => each === wish)?.[2]}`);
    } catch (failed) {
      setError(failed);
    }
  };
  return html`<div class="faults">
    <div class="row">
      ${leader && html`<${Act} class="danger" why=${why} onClick=${() => act(leader.id, "kill")}>Kill the leader, ${leader.id}<//>
        <${Act} class="" why=${why} onClick=${() => act(leader.id, "cut")}>Cut the leader off<//>
        <${Act} class="" why=${why} onClick=${() => act(leader.id, "slow")}>Slow the leader's disk<//>`}
    </div>
    <${Wide} label="What to do to nodes">
      <table>
        <thead><tr><th scope="col">Node</th><th scope="col">Role</th><th scope="col" class="number">Term</th>
          <th scope="col" class="number" title="Since the leader and this node last heard one another">Heard</th>
          <th scope="col" class="number" title="Mean time to sync the log">fsync</th><th scope="col">Do to it</th></tr></thead>
        <tbody>
          ${shard.nodes.map((node) => html`<tr key=${node.id} class=${node.role}>
            <th scope="row">${node.id}</th><td><${Role} role=${node.role} /></td>
            <td class="number">${count(node.term)}</td>
            <td class="number">${milliseconds(heardOf(shard, node))}</td>
            <td class="number">${milliseconds(node.sync_ms)}</td>
            <td><div class="row tight">${FAULTS.map(([wish, label, , title]) => html`
              <${Act} key=${wish} why=${why} title=${title} onClick=${() => act(node.id, wish)}>${label}<span class="hidden">: ${node.id}</span><//>`)}</div></td>
          </tr>`)}
        </tbody>
      </table>
    <//>
    <${Trouble} error=${error} />
  </div>`;
}

/** @param {{state: import("../lib/live.js").ClusterState}} properties */
export function TryView({ state }) {
  const shard = state.shards[0];
  const leader = shard && leaderOf(shard);
  return html`<h1>Try it</h1>
    <p>Each button sends a real request, the same as the line below it. All keys begin with <code>try/</code>.</p>
    <div class="steps">
      ${STEPS.map((step, place) => html`<${Step} key=${step.title} ...${step} number=${place + 1} />`)}
      <${WatchStep} />
      <${Card} title=${`${STEPS.length + 2}. Lose a leader`} class="whole">
        <p>Move leadership of <a href=${link(["shard", String(shard?.id ?? 0)])}>shard ${shard?.id ?? 0}</a> on its page: no request fails for it. Where you run it yourself (<code>make run</code>), kill the leader: another node leads within a second, and the killed one comes back.</p>
        ${shard && state.facade.faults && html`
          <p>Cut the leader off: it gives up, because it hears no majority, and the others elect one of them. Read and write meanwhile, then let it go on: it follows, in the newer term. Two nodes of five can be cut off at once; with the third no write is acknowledged any more, and none is lost.</p>
          <${Faults} shard=${shard} />`}
        ${leader && state.facade.faults && html`<${Command} text=${`kill -9 $(cat data/run/${leader.id}.pid)`} />`}
        <p>Then see in the <a href=${link(["timeline"], { shard: String(shard?.id ?? 0) })}>timeline</a> what each node did and why: who asked for votes, who gave them, and who refused.</p>
      <//>
    </div>`;
}
