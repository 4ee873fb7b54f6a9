/**
 * The keys: a tree of prefixes that the servers page through, beside the value that was chosen.
 * @module
 */

import { onSession, read } from "../lib/api.js";
import { count } from "../lib/format.js";
import { base64url, bytesOf, keyForLink, keyFromLink, keyOf, keyTyped, parameter, prefixOf, same, shown, textKey } from "../lib/keys.js";
import { go, link } from "../lib/places.js";
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { useRights } from "../lib/rights.js";
import { rangeLine } from "../lib/shell.js";
import { Act, Command, Trouble } from "../lib/ui.js";
import { NewKey } from "./key-dialogs.js";
import { PrefixTools } from "./prefix-tools.js";
import { CONSISTENCIES } from "../lib/values.js";
import { ValueView } from "./value.js";
import { Changes, useChanges } from "./changes.js";

/** @typedef {import("../lib/keys.js").Key} Key */
/** @typedef {{revision: string, content_type: string, expires_at: string | null, key?: string, key64?: string}} Entry */
/** @typedef {{items: Entry[], prefixes: (string | {prefix64: string})[], next_cursor: string | null}} Page */
/** @typedef {{prefix: Key} | {entry: Entry}} Row */

const PAGE = 200;
/** So many pages of a level are shown at a time: however many keys there are, the page has only so much in it. */
const PAGES = 3;
const DELIMITER = "dougdb.delimiter";

/** @param {Key} one @param {Key} other In the order of the store: by bytes. */
function compare(one, other) {
  const left = bytesOf(one);
  const right = bytesOf(other);
  for (let at = 0; at < Math.min(left.length, right.length); at++) if (left[at] !== right[at]) return left[at] - right[at];
  return left.length - right.length;
}

/** @param {Key} key @param {Key} prefix */
function beginsWith(key, prefix) {
  const bytes = bytesOf(key);
  return bytesOf(prefix).every((byte, at) => byte === bytes[at]);
}

/** @param {Page} page @returns {Row[]} */
function rowsOf(page) {
  const rows = [
    ...page.prefixes.map((each) => ({ key: prefixOf(each), row: /** @type {Row} */ ({ prefix: prefixOf(each) }) })),
    ...page.items.map((entry) => ({ key: keyOf(entry), row: /** @type {Row} */ ({ entry }) })),
  ];
  return rows.sort((one, other) => compare(one.key, other.key)).map(({ row }) => row);
}

/** @param {Key} key @param {Key} parent Only the last part is shown. */
function lastPart(key, parent) {
  if (!("text" in key)) return shown(key);
  if ("text" in parent && key.text.startsWith(parent.text)) return shown(textKey(key.text.slice(parent.text.length))) || "(the prefix itself)";
  return shown(key);
}

/** @param {string} delimiter @param {string} consistency @param {string} slot What is asked for of a level, beside its prefix. */
function levelQuery(delimiter, consistency, slot) {
  return [
    ...(slot ? [`slot=${encodeURIComponent(slot)}`] : []),
    ...(delimiter && !slot ? [`delimiter=${encodeURIComponent(delimiter)}`] : []),
    // Ranges are read from leaders or from any replica.
    ...(consistency === CONSISTENCIES[0] ? [] : ["consistency=eventual"]),
    "keys_only=true",
  ];
}

/** @typedef {{rows: Row[], from: string | null, next: string | null}} Shown A page, where it begins, and where the next one does. */

/**
 * @param {Key} prefix @param {string} delimiter @param {string} consistency @param {string} slot @param {string | null} from
 * @returns {Promise<Shown>}
 */
async function askPage(prefix, delimiter, consistency, slot, from) {
  const query = [
    ...("text" in prefix && prefix.text === "" ? [] : [parameter("prefix", prefix)]),
    ...levelQuery(delimiter, consistency, slot),
    ...(from ? [`cursor=${from}`] : []),
    `limit=${PAGE}`,
  ].join("&");
  const page = /** @type {Page} */ (await read(`/v1/kv?${query}`));
  return { rows: rowsOf(page), from, next: page.next_cursor };
}

/**
 * One level of the tree, page by page; pages that are shown no more are asked for again.
 * @param {Key} prefix @param {string} delimiter @param {string} consistency @param {number} turn @param {string} slot
 */
function useLevel(prefix, delimiter, consistency, turn, slot) {
  const [pages, setPages] = useState(/** @type {Shown[]} */ ([]));
  /** Where the pages before those that are shown begin. */
  const [before, setBefore] = useState(/** @type {(string | null)[]} */ ([]));
  const [busy, setBusy] = useState(true);
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const newest = useRef(0);
  const level = [base64url(prefix), delimiter, consistency, slot].join("\n");
  const shownLevel = useRef("");
  const ask = (/** @type {string | null} */ from) => askPage(prefix, delimiter, consistency, slot, from);
  const load = async (/** @type {string | null} */ from, /** @type {"first" | "behind" | "before"} */ where) => {
    const mine = ++newest.current;
    setBusy(true);
    setError(null);
    try {
      const shown = await ask(from);
      if (mine !== newest.current) return;
      if (where === "first") {
        setPages([shown]);
        setBefore([]);
      } else if (where === "behind") {
        setPages((held) => [...held, shown].slice(-PAGES));
        setBefore((held) => (pages.length < PAGES ? held : [...held, pages[0].from]));
      } else {
        setPages((held) => [shown, ...held].slice(0, PAGES));
        setBefore((held) => held.slice(0, -1));
      }
    } catch (failed) {
      if (mine === newest.current) setError(failed);
    }
    if (mine === newest.current) setBusy(false);
  };
  /** Asks anew for the pages that are shown: whoever has gone on to later ones stays there. */
  const reload = async () => {
    const mine = ++newest.current;
    const fresh = /** @type {Shown[]} */ ([]);
    try {
      do {
        fresh.push(await ask(fresh.length ? fresh[fresh.length - 1].next : pages[0].from));
        if (mine !== newest.current) return;
      } while (fresh.length < pages.length && fresh[fresh.length - 1].next !== null);
      setPages(fresh);
      setError(null);
    } catch (failed) {
      if (mine === newest.current) setError(failed);
    }
    if (mine === newest.current) setBusy(false);
  };
  useEffect(() => {
    if (pages.length && shownLevel.current === level) reload();
    else {
      // What is shown is of what is asked for, also while there is no answer, or none comes.
      setPages([]);
      setBefore([]);
      load(null, "first");
    }
    shownLevel.current = level;
    return () => {
      newest.current++;
    };
  }, [level, turn]);
  const next = pages.at(-1)?.next ?? null;
  return {
    rows: pages.flatMap((page) => page.rows),
    passed: before.length * PAGE,
    busy,
    error,
    more: next === null ? null : () => load(next, "behind"),
    back: before.length ? () => load(before[before.length - 1], "before") : null,
    again: () => load(null, "first"),
  };
}

/** @param {{entry: Entry, name: string, chosen: boolean, onChoose: () => void}} properties One that was chosen is in sight, also in a long list. */
function Leaf({ entry, name, chosen, onChoose }) {
  const element = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (chosen) element.current?.scrollIntoView({ block: "nearest" });
  }, [chosen]);
  return html`<li>
    <button ref=${element} type="button" class="leaf" aria-current=${chosen ? "true" : undefined} onClick=${onChoose}>
      <span class="name">${name}</span>
      <span class="quiet type">${entry.expires_at ? "expires · " : ""}${entry.content_type.split(";")[0]}</span>
    </button>
  </li>`;
}

/**
 * @typedef {{prefix: Key, delimiter: string, consistency: string, turn: number, slot: string, selected: Key | null,
 *   onSelect: (key: Key) => void, onPrefix: (prefix: Key) => void}} LevelProperties
 * @param {LevelProperties} properties
 */
function Level(properties) {
  const { prefix, delimiter, consistency, turn, slot, selected, onSelect } = properties;
  const mayMake = useRights().lacks("write") === "";
  const { rows, passed, busy, error, more, back, again } = useLevel(prefix, delimiter, consistency, turn, slot);
  return html`<ul class="tree" aria-busy=${busy}>
    ${back && html`<li><button type="button" class="small" disabled=${busy} onClick=${back}>Show the ${PAGE} before these, of ${count(passed)}</button></li>`}
    ${rows.map((row) => {
      if ("prefix" in row) return html`<${Folder} key=${`p${base64url(row.prefix)}`} ...${properties} prefix=${row.prefix} parent=${prefix} />`;
      const key = keyOf(row.entry);
      const chosen = selected !== null && same(key, selected);
      return html`<${Leaf} key=${`k${base64url(key)}`} entry=${row.entry} name=${lastPart(key, prefix)} chosen=${chosen} onChoose=${() => onSelect(key)} />`;
    })}
    ${error && html`<li><${Trouble} error=${error} onRetry=${again} /></li>`}
    ${busy && html`<li class="quiet pad">Loading…</li>`}
    ${!busy && !error && rows.length === 0 && html`<li class="quiet pad">${empty(prefix, slot, mayMake)}</li>`}
    ${!busy && more && html`<li><button type="button" class="small" onClick=${more}>Load ${PAGE} more behind these ${count(passed + rows.length)}</button></li>`}
  </ul>`;
}

/** @param {Key} prefix @param {string} slot @param {boolean} mayMake Why nothing is listed. */
function empty(prefix, slot, mayMake) {
  if (slot) return `Slot ${slot} has no keys.`;
  if (!("text" in prefix) || prefix.text !== "") return "No key begins so.";
  return mayMake ? html`There are no keys yet. <i>New key</i> makes one, and <a href=${link(["try"])}>Try it</a> shows more.` : "There are no keys yet.";
}

/** @param {{rights: import("../lib/rights.js").Rights, prefix: Key}} properties What one may read, where that is not what is shown. */
function Readable({ rights, prefix }) {
  const prefixes = rights.lacks("read", prefix) ? rights.prefixes("read") : [];
  if (prefixes.length === 0) return null;
  return html`<p class="readable">You may read keys that begin with
    ${prefixes.map((each, place) => html`${place ? ", " : " "}<a key=${base64url(each)} class="mono" href=${link(["keys"], { prefix: keyForLink(each) })}>${shown(each)}</a>`)}.</p>`;
}

/** @param {LevelProperties & {parent: Key}} properties */
function Folder(properties) {
  const { prefix, parent, selected, onPrefix } = properties;
  const holds = selected !== null && beginsWith(selected, prefix);
  const [open, setOpen] = useState(holds);
  // Where the key is whose value is shown.
  useEffect(() => {
    if (holds) setOpen(true);
  }, [holds]);
  return html`<li>
    <div class="folder">
      <button type="button" class="leaf" aria-expanded=${open} onClick=${() => setOpen(!open)}>
        <span aria-hidden="true">${open ? "▾" : "▸"}</span> <span class="name">${lastPart(prefix, parent)}</span>
      </button>
      <button type="button" class="plain" title="Show only this" aria-label=${`Show only ${shown(prefix)}`} onClick=${() => onPrefix(prefix)}>⤢</button>
    </div>
    ${open && html`<${Level} ...${properties} />`}
  </li>`;
}

/** @param {{prefix: string, delimiter: string}} properties Where one is, each part a link. */
function Crumbs({ prefix, delimiter }) {
  const parts = /** @type {string[]} */ ([]);
  if (delimiter) {
    for (let at = prefix.indexOf(delimiter); at >= 0; at = prefix.indexOf(delimiter, at + delimiter.length)) {
      parts.push(prefix.slice(0, at + delimiter.length));
    }
  }
  const label = (/** @type {string} */ part, /** @type {number} */ place) => shown(textKey(part.slice(place ? parts[place - 1].length : 0)));
  return html`<nav class="crumbs" aria-label="Prefixes">
    <a href=${link(["keys"])}>all keys</a>
    ${parts.map((part, place) => html`<span key=${part}> › <a href=${link(["keys"], { prefix: keyForLink(textKey(part)) })}>${label(part, place)}</a></span>`)}
  </nav>`;
}

/** @param {{place: import("../lib/places.js").Place}} properties */
export function KeysView({ place }) {
  const prefixText = place.query.get("prefix") ?? "";
  const prefix = keyFromLink(prefixText);
  const selectedText = place.query.get("key");
  const selected = selectedText === null ? null : keyFromLink(selectedText);
  const consistency = CONSISTENCIES.find((each) => each === place.query.get("consistency")) ?? CONSISTENCIES[0];
  const slot = place.query.get("slot") ?? "";
  const [delimiter, setDelimiter] = useState(localStorage.getItem(DELIMITER) ?? "/");
  const [search, setSearch] = useState(shown(prefix));
  const [turn, setTurn] = useState(0);
  const [makes, setMakes] = useState(false);
  useEffect(() => setSearch(shown(prefix)), [prefixText]);
  const to = (/** @type {{prefix?: Key, key?: Key | null, consistency?: string, slot?: string}} */ change) => {
    const key = change.key === undefined ? selected : change.key;
    go(
      link(["keys"], {
        prefix: keyForLink(change.prefix ?? prefix),
        ...(key && { key: keyForLink(key) }),
        slot: change.slot ?? slot,
        ...((change.consistency ?? consistency) !== CONSISTENCIES[0] && { consistency: change.consistency ?? consistency }),
      }),
    );
  };
  const chooseDelimiter = (/** @type {string} */ text) => {
    setDelimiter(text);
    localStorage.setItem(DELIMITER, text);
  };
  const changed = () => setTurn((before) => before + 1);
  // What was refused meanwhile is asked for again.
  useEffect(() => onSession((what) => what === "in" && changed()), []);
  const [isLive, setLive] = useState(false);
  const rights = useRights();
  const noWatch = rights.lacks("watch", prefix);
  const { changes, error: watchError, revisionOf } = useChanges(prefix, isLive, changed);
  const find = (/** @type {Event} */ event) => {
    event.preventDefault();
    to({ prefix: keyTyped(search), key: null });
  };
  return html`<h1 class=${selected ? "wide-only" : ""}>Keys</h1>
    <div class="keys ${selected ? "chosen" : ""}">
      <section class="card list" aria-label="Keys by prefix">
        <form class="row" onSubmit=${find} role="search">
          <label class="grow">Keys that begin with
            <input type="search" value=${search} placeholder="any prefix" title="Asked of the servers" onInput=${(/** @type {any} */ event) => setSearch(event.target.value)} autocomplete="off" spellcheck=${false} />
          </label>
          <label class="narrow">Delimiter <input value=${delimiter} maxlength="8" onInput=${(/** @type {any} */ event) => chooseDelimiter(event.target.value)} /></label>
          <button type="submit" class="primary low">Find</button>
        </form>
        <div class="row tools">
          <${Crumbs} prefix=${"text" in prefix ? prefix.text : ""} delimiter=${delimiter} />
          <${Act} why=${rights.lacks("write")} onClick=${() => setMakes(true)}>New key<//>
          <button type="button" class="small" onClick=${changed} title="Ask the servers again">Refresh</button>
          <label class="inline" title=${noWatch || undefined}><input type="checkbox" checked=${isLive} disabled=${noWatch !== "" && !isLive} onChange=${(/** @type {any} */ event) => setLive(event.target.checked)} /> live</label>
          ${!slot && html`<${PrefixTools} prefix=${prefix} onChange=${changed} />`}
        </div>
        ${slot && html`<p class="row only-slot"><span class="badge">only slot ${slot}</span> <button type="button" class="small" onClick=${() => to({ slot: "" })}>All slots</button> <a href=${link(["slots"])}>Slots</a></p>`}
        ${isLive && html`<${Changes} changes=${changes} error=${watchError} onSelect=${(/** @type {Key} */ key) => to({ key })} />`}
        <${Readable} rights=${rights} prefix=${prefix} />
        <${Level} prefix=${prefix} delimiter=${delimiter} consistency=${consistency} turn=${turn} slot=${slot} selected=${selected}
          onSelect=${(/** @type {Key} */ key) => to({ key })} onPrefix=${(/** @type {Key} */ next) => to({ prefix: next, key: null })} />
        <${Command} text=${rangeLine("GET", prefix, levelQuery(delimiter, consistency, slot))} />
      </section>
      ${selected
        ? html`<${ValueView} key=${base64url(selected)} name=${selected} consistency=${consistency} change=${revisionOf(selected)}
            onConsistency=${(/** @type {string} */ next) => to({ consistency: next })}
            onMoved=${(/** @type {Key | null} */ key) => { to({ key }); changed(); }}
            onClose=${() => to({ key: null })} />`
        : html`<section class="card wide-only empty"><p class="quiet">Choose a key to see its value.</p></section>`}
    </div>
    ${makes && html`<${NewKey} prefix=${shown(prefix)} onClose=${() => setMakes(false)}
      onMade=${(/** @type {Key} */ key) => { to({ key }); changed(); }} />`}`;
}

