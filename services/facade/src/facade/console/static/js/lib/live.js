/**
 * The stream of states: one for the page, none while nobody sees it.
 * @module
 */

import { denied as tellDenied, Problem } from "./api.js";
import { follow } from "./sse.js";

/**
 * @typedef {{name: string, match: number, state: string, heard_ms: number, round_trip_ms: number | null}} PeerState
 * @typedef {{id: string, address: string, admin: string | null, role: string, learner?: boolean, term?: number, commit?: number,
 *   applied?: number, last?: number, first?: number, leader?: string, version?: string, incarnation?: string,
 *   voted_for?: string,
 *   uptime_ms?: number, memory_bytes?: number | null, heard_ms?: number | null, log_bytes?: number, table_bytes?: number,
 *   compaction_pending_bytes?: number, proposals_pending?: number, disk_low?: boolean, stalled?: boolean,
 *   draining?: boolean, disks?: {name: string, total_bytes: number, free_bytes: number}[],
 *   commit_rate?: number | null, compaction_rate?: number | null, sync_ms?: number | null, commit_ms?: number | null,
 *   peers?: PeerState[]}} NodeState
 * @typedef {{id: number, nodes: NodeState[]}} ShardState
 * @typedef {{time_us: number, facade: {id: string, version: string, uptime_ms: number, ready: boolean,
 *   missing: string[], consoles: number, faults: boolean}, cluster_id: string,
 *   map: {epoch: number, slots: [number, number, number][]} | null, shards: ShardState[]}} ClusterState
 * @typedef {{phase: "connecting" | "live" | "lost" | "denied", state: ClusterState | null, problem: Problem | null}} Live
 */

const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 5000;
const SILENT_MS = 8000;
/** A right that is missing may be given: so much later it is asked for again. */
const REFUSED_MS = 10_000;

/** @type {Live} */
let live = { phase: "connecting", state: null, problem: null };
/** @type {Set<(live: Live) => void>} */
const listeners = new Set();
/** @type {AbortController | null} */
let open = null;
let retryMs = RETRY_MIN_MS;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** @param {Partial<Live>} change */
function tell(change) {
  live = { ...live, ...change };
  listeners.forEach((listener) => listener(live));
}

/** @param {(live: Live) => void} listener */
export function watch(listener) {
  listeners.add(listener);
  listener(live);
  return () => {
    listeners.delete(listener);
  };
}

/** Begins, and goes on for as long as the page is there. */
export function start() {
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : connect()));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", () => document.hidden || connect());
  if (!document.hidden) connect();
}

/** Ends the stream that there is, and begins another one: there are other rights now. */
export function restart() {
  stop();
  if (!document.hidden) connect();
}

function stop() {
  clearTimeout(timer);
  open?.abort();
  open = null;
}

function connect() {
  if (open !== null) return;
  const controller = new AbortController();
  open = controller;
  states(controller).catch((error) => {
    if (open !== controller) return;
    open = null;
    const problem = error instanceof Problem ? error : null;
    const denied = problem !== null && (problem.status === 401 || problem.status === 403);
    tell({ phase: denied ? "denied" : "lost", problem });
    if (denied) {
      // What was seen is not for whoever comes next.
      tell({ state: null });
      if (problem.status === 401) tellDenied(problem);
      else timer = setTimeout(connect, REFUSED_MS);
      return;
    }
    timer = setTimeout(connect, retryMs);
    retryMs = Math.min(2 * retryMs, RETRY_MAX_MS);
  });
}

/** @param {AbortController} controller */
function states(controller) {
  return follow(
    "/v1/console/stream",
    controller.signal,
    (events) => {
      const newest = events.filter((event) => event.name === "state").pop();
      if (newest === undefined || open !== controller) return;
      retryMs = RETRY_MIN_MS;
      tell({ phase: "live", state: JSON.parse(newest.data), problem: null });
    },
    SILENT_MS,
  );
}
