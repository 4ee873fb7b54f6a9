/**
 * The frame of the console: where one is, what is shown there, and how the connection is.
 * @module
 */

import { isSignedIn, onDenied, onSession, signIn, signOut } from "./lib/api.js";
import { setTheme, startColours, THEMES } from "./lib/colours.js";
import { restart, start, watch } from "./lib/live.js";
import { link, parse } from "./lib/places.js";
import { html, render, useEffect, useRef, useState } from "./lib/preact.js";
import { onStranger, startRights, useRights } from "./lib/rights.js";
import { Dialog, explain, note, Notes, Trouble } from "./lib/ui.js";
import { ClusterView, leaderOf } from "./views/cluster.js";

/** @typedef {import("./lib/live.js").Live} Live */
/** @typedef {import("./lib/live.js").ClusterState} ClusterState */

/** The views by name; all but the first are loaded when they are looked at. */
const VIEWS = /** @type {Record<string, {title: string, load: () => Promise<any>, needsState?: boolean}>} */ ({
  cluster: { title: "Cluster", load: async () => ClusterView, needsState: true },
  shard: { title: "Shard", load: async () => (await import("./views/shard.js")).ShardView, needsState: true },
  slots: { title: "Slots", load: async () => (await import("./views/slots.js")).SlotsView, needsState: true },
  timeline: { title: "Timeline", load: async () => (await import("./views/timeline.js")).TimelineView, needsState: true },
  graphs: { title: "Graphs", load: async () => (await import("./views/graphs.js")).GraphsView, needsState: true },
  runbook: { title: "Runbook", load: async () => (await import("./views/runbook.js")).RunbookView },
  try: { title: "Try it", load: async () => (await import("./views/try.js")).TryView, needsState: true },
  keys: { title: "Keys", load: async () => (await import("./views/keys.js")).KeysView },
});
const LISTED = ["cluster", "keys", "timeline", "slots", "graphs", "try"];

function ThemeButton() {
  const [theme, choose] = useState(document.documentElement.dataset.theme ?? "auto");
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  const change = () => {
    setTheme(next);
    choose(next);
  };
  return html`<button type="button" class="small" onClick=${change} title=${`Colours: ${theme}; change to ${next}`}>
    <span aria-hidden="true">${{ auto: "◐", light: "☀", dark: "☾" }[theme] ?? "◐"}</span><span class="hidden">Colours: ${theme}</span>
  </button>`;
}

/** @param {{live: Live}} properties */
function Connection({ live }) {
  const words = { connecting: "connecting", live: "live", lost: "connection lost", denied: isSignedIn() ? "no rights" : "signed out" };
  return html`<span class="connection ${live.phase}" role="status"><span aria-hidden="true">●</span> ${words[live.phase]}</span>`;
}

/** Tells of changes of leaders as they happen. @param {ClusterState | null} before @param {ClusterState} after */
function tellChanges(before, after) {
  if (before === null) return;
  for (const shard of after.shards) {
    const known = before.shards.find((each) => each.id === shard.id);
    const was = known && leaderOf(known);
    const is = leaderOf(shard);
    const about = `leader of shard ${shard.id}`;
    if (is && was?.id !== is.id) note(`Shard ${shard.id}: ${is.id} leads in term ${is.term}.`, "good", about);
    else if (was && !is) note(`Shard ${shard.id}: nobody leads. ${was.id} led in term ${was.term}.`, "bad", about);
  }
}

/** @param {{onClose: () => void}} properties */
function SignIn({ onClose }) {
  const [token, setToken] = useState("");
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [busy, setBusy] = useState(false);
  const enter = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await signIn(token.trim());
      onClose();
    } catch (failed) {
      setError(failed);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="Sign in" onClose=${onClose}>
    <form onSubmit=${enter}>
      <p>This facade asks who you are. The token is sent once, for a session that ends with the browser, and is kept nowhere.</p>
      <label>Token <input type="password" value=${token} onInput=${(/** @type {any} */ event) => setToken(event.target.value)} autocomplete="off" /></label>
      <${Trouble} error=${error} />
      <div class="row end">
        <button type="button" onClick=${onClose}>Cancel</button>
        <button type="submit" class="primary" disabled=${token.trim() === "" || busy}>Sign in</button>
      </div>
    </form>
  <//>`;
}

/** @param {{onSignIn: () => void, denied: boolean}} properties Who one is, and the way in and out. */
function Who({ onSignIn, denied }) {
  const { principal } = useRights();
  if (!isSignedIn()) return denied ? html`<button type="button" class="small" onClick=${onSignIn}>Sign in</button>` : null;
  const leave = () => signOut().catch((failed) => failed.status === 401 || note(explain(failed), "bad"));
  return html`<span class="quiet who" title=${principal}>${principal}</span><button type="button" class="small" onClick=${leave}>Sign out</button>`;
}

/** @param {{title: string, onSignIn: () => void}} properties What one may not see. */
function Denied({ title, onSignIn }) {
  const { principal } = useRights();
  if (!isSignedIn()) return html`<h1>${title}</h1><p class="booting">Sign in to see this. <button type="button" onClick=${onSignIn}>Sign in</button></p>`;
  return html`<h1>${title}</h1>
    <div class="trouble no-rights" role="alert">
      <p>${principal || "Whoever is signed in"} does not have the right <b>metrics</b> or <b>admin:members</b>, one of which shows how the cluster is.</p>
      <p class="quiet">403 forbidden</p>
    </div>
    <p>The <a href=${link(["keys"])}>keys</a> are shown as far as you may read them.</p>`;
}

function App() {
  const [place, setPlace] = useState(parse(location.hash));
  const [live, setLive] = useState(/** @type {Live} */ ({ phase: "connecting", state: null, problem: null }));
  const [shown, setShown] = useState(/** @type {{name: string, View: any} | null} */ (null));
  const [asksToken, setAsksToken] = useState(false);
  /** Counts those who use this page one after the other: each begins with what they themselves see. */
  const [person, setPerson] = useState(0);
  const main = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    const move = () => setPlace(parse(location.hash));
    addEventListener("hashchange", move);
    return () => removeEventListener("hashchange", move);
  }, []);
  useEffect(() => {
    /** @type {ClusterState | null} */
    let before = null;
    const end = watch((next) => {
      if (next.state !== null && next.state !== before) {
        tellChanges(before, next.state);
        before = next.state;
      }
      setLive(next);
    });
    const endSession = onSession((what) => {
      // Whoever signs in in one tab has signed in in all.
      if (what === "in") setAsksToken(false);
      before = null;
      restart();
    });
    const endStranger = onStranger(() => setPerson((before) => before + 1));
    start();
    startRights();
    return () => {
      end();
      endSession();
      endStranger();
    };
  }, []);
  useEffect(() => {
    // Whoever lacks a right is told where it is missing; whoever is nobody can be somebody.
    const end = onDenied((problem) => problem.status === 401 && setAsksToken(true));
    return () => {
      end();
    };
  }, []);
  const name = place.view in VIEWS ? place.view : "cluster";
  const { title, load, needsState } = VIEWS[name];
  useEffect(() => {
    let wanted = true;
    document.title = `${title} · DougDB`;
    load().then(
      (View) => wanted && setShown({ name, View }),
      () => wanted && note("This view could not be loaded: reload the page.", "bad"),
    );
    return () => {
      wanted = false;
    };
  }, [name]);
  const ready = shown !== null && shown.name === name && (!needsState || live.state !== null);
  return html`
    <a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => { event.preventDefault(); main.current?.focus(); }}>Skip to the content</a>
    <header class="top">
      <a class="brand" href=${link(["cluster"])}><img src=${new URL("../icon.svg", import.meta.url).href} alt="" width="24" height="24" /> DougDB</a>
      <nav aria-label="Views">
        ${LISTED.map((each) => html`<a key=${each} href=${link([each])} aria-current=${each === name || (each === "cluster" && name === "shard") || (each === "graphs" && name === "runbook") ? "page" : undefined}>${VIEWS[each].title}</a>`)}
        <a href="/docs">API</a>
      </nav>
      <div class="row">
        <${Connection} live=${live} />
        <${Who} denied=${live.phase === "denied"} onSignIn=${() => setAsksToken(true)} />
        <${ThemeButton} />
      </div>
    </header>
    <main ref=${main} id="main" tabindex="-1" class=${`view-${name}`}>
      ${live.phase === "lost" && html`<div class="trouble" role="alert"><p>${live.problem?.status ? explain(live.problem) : "There is no connection to the facade; trying again."}${live.state ? " What is shown is what was known last." : ""}</p></div>`}
      ${needsState && live.phase === "denied"
        ? html`<${Denied} title=${title} onSignIn=${() => setAsksToken(true)} />`
        : ready ? html`<${shown.View} key=${person} state=${live.state} place=${place} lost=${live.phase === "lost"} />` : html`<p class="booting">Waiting for the cluster…</p>`}
    </main>
    ${asksToken && html`<${SignIn} onClose=${() => setAsksToken(false)} />`}
    <${Notes} />
  `;
}

startColours();
const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.textContent = "";
render(html`<${App} />`, root);
