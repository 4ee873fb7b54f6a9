/**
 * The last hour in graphs: of this facade, and of some shards.
 * @module
 */

import { read } from "../lib/api.js";
import { Chart } from "../lib/chart.js";
import { bytes, clock, count, isKnown, milliseconds, percent, rate } from "../lib/format.js";
import { go, link } from "../lib/places.js";
import { usePolled } from "../lib/polling.js";
import { html } from "../lib/preact.js";
import { Card, Trouble } from "../lib/ui.js";

const LOOK_MS = 5000;
const TOGETHER = 8;
const HOUR_S = 3600;
/** An hour may lack so much at its ends. */
const GAP_S = 60;

/** Graphs of facades: which figures, what they are called, how they are shown, and the alert whose advice belongs to each. */
const OF_FACADES = /** @type {[string[], string[], string, (value: number) => string, string][]} */ ([
  [["requests", "errors"], ["requests", "errors (5xx)"], "Requests of keys a second", rate, "DougDBFacadeErrorsFast"],
  [["p50_ms", "p99_ms"], ["median", "99th percentile"], "Time to answer", milliseconds, "DougDBFacadeSlow"],
  [["inflight"], ["under way"], "Requests under way", count, "DougDBShardUnreachable"],
  [["loop_lag_ms"], ["late"], "How late the event loop is", milliseconds, "DougDBFacadeSlow"],
]);

/** Graphs of shards: which figure, how it is shown, and the alert whose advice belongs to it. */
const OF_SHARDS = /** @type {[string, string, (value: number) => string, string][]} */ ([
  ["commits", "Entries committed a second", rate, "DougDBNoLeader"],
  ["term", "Term", count, "DougDBLeaderChurn"],
  ["lag", "Entries that the slowest node has to apply", count, "DougDBApplyLag"],
  ["commit_ms", "From proposing to commit", milliseconds, "DougDBProposalsPending"],
  ["sync_ms", "Sync of the log at the slowest node", milliseconds, "DougDBFsyncSlow"],
  ["compaction_bytes", "Bytes a second of compactions", bytes, "DougDBCompactionBacklog"],
  ["memory_bytes", "Memory of the largest node", bytes, "DougDBMemberDown"],
  ["free_share", "Free on the fullest volume", percent, "DougDBDiskLow"],
  ["up", "Nodes that answer", count, "DougDBMemberDown"],
]);

/** @param {string} shards */
function useHistory(shards) {
  return usePolled((signal) => read(`/v1/console/history?shards=${shards}`, signal), LOOK_MS, [shards], true);
}

/**
 * @param {{times: number[], facade: Record<string, (number | null)[]>}} found
 * @returns {string} The time of which there are figures: those of a facade that was started just now are not an hour's.
 */
function spanOf({ times, facade }) {
  const first = times.find((_, at) => Object.values(facade).some((values) => isKnown(values[at])));
  if (first === undefined || times[times.length - 1] - first >= HOUR_S - GAP_S) return "of the last hour";
  return `since ${clock(first * 1e6).slice(0, 5)}`;
}

/** @param {{state: import("../lib/live.js").ClusterState, place: import("../lib/places.js").Place, lost: boolean}} properties */
export function GraphsView({ state, place, lost }) {
  const all = state.shards.map((shard) => shard.id);
  const first = Math.max(0, Math.trunc(Number(place.query.get("from"))) || 0);
  const shown = all.slice(first, first + TOGETHER);
  const { found, error } = useHistory(shown.join(","));
  const runbook = (/** @type {string} */ alert) => html`<span class="quiet runbook">Runbook: <a href=${link(["runbook", alert])}>${alert}</a></span>`;
  const everywhere = found?.source === "prometheus";
  const tools = all.length > TOGETHER && html`
    <button type="button" class="small" disabled=${first === 0} onClick=${() => go(link(["graphs"], { from: String(Math.max(0, first - TOGETHER)) }))}>Earlier shards</button>
    <button type="button" class="small" disabled=${first + TOGETHER >= all.length} onClick=${() => go(link(["graphs"], { from: String(first + TOGETHER) }))}>Later shards</button>`;
  return html`<h1>Graphs${found && ` ${spanOf(found)}`}</h1>
    <${Trouble} error=${error} lost=${lost} />
    ${!found && !error && html`<p class="quiet">Loading…</p>`}
    ${found && html`
      ${found.prometheus && !everywhere && html`<p class="warn-text" role="status">Prometheus does not answer. What is shown is what this facade keeps itself.</p>`}
      <${Card} title=${everywhere ? "All facades" : "This facade"}>
        <div class="charts four">
          ${OF_FACADES.map(([names, labels, title, show, alert]) => html`<div key=${title}>
            <${Chart} title=${title} times=${found.times} show=${show} series=${names.map((name, at) => ({ label: labels[at], values: found.facade[name] }))} />
            ${runbook(alert)}
          </div>`)}
        </div>
      <//>
      <${Card} title=${all.length > TOGETHER ? `Shards ${shown[0]} to ${shown.at(-1)} of ${count(all.length)}` : "Shards"} tools=${tools}>
        <div class="charts">
          ${OF_SHARDS.map(([name, title, show, alert]) => html`<div key=${`${name}${first}`}>
            <${Chart} title=${title} times=${found.times} show=${show}
              series=${shown.filter((shard) => found.shards[shard]).map((shard) => ({ label: `shard ${shard}`, values: found.shards[shard][name] }))} />
            ${runbook(alert)}
          </div>`)}
        </div>
        <p class="quiet">A sample every ${found.step_s} s, ${everywhere ? "from Prometheus" : "kept by this facade since it started"}. What to do about each alert: <a href=${link(["runbook"])}>runbooks</a>.</p>
      <//>`}`;
}
