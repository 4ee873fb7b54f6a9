/**
 * A chart of some series over time, drawn by uPlot, which is loaded when the first chart is drawn.
 * @module
 */

import { COLOURS_CHANGED } from "./colours.js";
import { bytes, count, isKnown, UNKNOWN } from "./format.js";
import { html, useEffect, useRef, useState } from "./preact.js";
import { textScale } from "./width.js";

/** @typedef {{label: string, values: (number | null)[]}} Series */

const VENDOR = new URL("../../vendor/", import.meta.url);
const COLOURS = ["#2f7fd1", "#d9822b", "#2c9a5b", "#b04fc4", "#c73e3e", "#149aa5", "#8a7a1e", "#7f6ad6"];
/** Sizes in a page whose text is as large as on a usual screen; they grow with the text. */
const HEIGHT = 170;
const LABELS = 12;
/** From line to line of an axis: whole numbers where only these are shown, and powers of two for bytes. */
const STEPS = new Map(/** @type {[unknown, number[]][]} */ ([
  [count, Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat()],
  [bytes, Array.from({ length: 50 }, (_, power) => 2 ** power)],
]));

/** @type {Promise<any> | null} */
let loading = null;

/** @returns {Promise<any>} */
function load() {
  loading ??= new Promise((resolve, reject) => {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("uplot-1.6.32.min.css", VENDOR).href;
    const script = document.createElement("script");
    script.src = new URL("uplot-1.6.32.iife.min.js", VENDOR).href;
    script.onload = () => resolve(/** @type {any} */ (globalThis).uPlot);
    style.onerror = script.onerror = () => {
      // Whoever draws next tries again.
      style.remove();
      script.remove();
      loading = null;
      reject(new Error("uPlot could not be loaded"));
    };
    document.head.append(style, script);
  });
  return loading;
}

/** @param {number} seconds Since the epoch. */
function timeOf(seconds) {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}

/** What stands at the lines of an axis, each once. @param {number[]} values @param {(value: number) => string} show */
function labels(values, show) {
  const texts = values.map(show);
  return texts.map((text, at) => (text === texts[at - 1] ? "" : text));
}

/** However many samples there are, one between two that are not known is drawn. @param {any} plot @param {number} place @param {boolean} all */
function alone(plot, place, all) {
  const values = plot.data[place];
  const known = (/** @type {number} */ at) => values[at] !== null && values[at] !== undefined;
  return all ? null : values.flatMap((/** @type {unknown} */ _, /** @type {number} */ at) => (known(at) && !known(at - 1) && !known(at + 1) ? [at] : []));
}

/** While nobody points at a time, the legend tells the newest figures. @param {any} plot */
function tellNewest(plot) {
  if (plot && plot.cursor.idx === null && plot.data[0].length) plot.setLegend({ idx: plot.data[0].length - 1 }, false);
}

/** @param {{title: string, times: number[], series: Series[], show: (value: number) => string}} properties */
export function Chart({ title, times, series, show }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const [scale, setScale] = useState(textScale);
  /** How often the library could not be loaded since it last could. */
  const [failures, setFailures] = useState(0);
  const [tries, setTries] = useState(0);
  const names = series.map((each) => each.label).join("\n");
  useEffect(() => {
    let ended = false;
    /** @type {ResizeObserver | null} */
    let observer = null;
    const draw = (/** @type {any} */ uPlot) => {
      setFailures(0);
      const element = box.current;
      if (ended || element === null) return;
      // Asked at each drawing: whoever changes the colours of the page wants to read the axes all the same.
      const ink = () => getComputedStyle(element).color;
      const font = `${LABELS * scale}px system-ui, sans-serif`;
      const line = { stroke: ink, font, grid: { stroke: "#8883" }, ticks: { stroke: "#8883" } };
      plot.current = new uPlot(
        {
          width: element.clientWidth,
          height: HEIGHT * scale,
          hooks: { setCursor: [tellNewest] },
          // Half of the last time stands to the right of what is drawn.
          padding: [null, 28 * scale, null, null],
          scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ low, /** @type {number} */ high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1] } },
          axes: [
            { ...line, size: 42 * scale, space: 75 * scale, values: (/** @type {any} */ _, /** @type {number[]} */ values) => values.map(timeOf) },
            { ...line, ...(STEPS.has(show) && { incrs: STEPS.get(show) }), size: 70 * scale, space: 30 * scale, values: (/** @type {any} */ _, /** @type {number[]} */ values) => labels(values, show) },
          ],
          series: [
            { label: "at", value: (/** @type {any} */ _, /** @type {number | null} */ value) => (value ? timeOf(value) : "–") },
            ...series.map((each, place) => ({
              label: each.label,
              stroke: COLOURS[place % COLOURS.length],
              width: 1.5 * scale,
              // Filled: a sample between two that are not known is a point, and no line.
              points: { size: 5 * scale, fill: COLOURS[place % COLOURS.length], filter: alone },
              value: (/** @type {any} */ _, /** @type {number | null} */ value) => (value === null || value === undefined ? "–" : show(value)),
            })),
          ],
        },
        [times, ...series.map((each) => each.values)],
        element,
      );
      tellNewest(plot.current);
      observer = new ResizeObserver(() => {
        if (textScale() !== scale) setScale(textScale());
        else plot.current?.setSize({ width: element.clientWidth, height: HEIGHT * scale });
      });
      observer.observe(element);
    };
    load().then(draw, () => ended || setFailures((before) => before + 1));
    const drawAnew = () => plot.current?.redraw(false, true);
    addEventListener(COLOURS_CHANGED, drawAnew);
    return () => {
      ended = true;
      removeEventListener(COLOURS_CHANGED, drawAnew);
      observer?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [names, scale, tries]);
  useEffect(() => {
    if (failures) setTries((before) => before + 1);
    plot.current?.setData([times, ...series.map((each) => each.values)]);
    tellNewest(plot.current);
  }, [times, names]);
  const last = series.map(({ label, values }) => `${label} ${isKnown(values.at(-1)) ? show(/** @type {number} */ (values.at(-1))) : UNKNOWN}`).join(", ");
  return html`<figure class="chart"><figcaption>${title}</figcaption>${failures > 0 && html`<p class="warn-text">What draws could not be loaded: trying again.</p>`}<div ref=${box} role="img" aria-label=${`${title}; now: ${last}`}></div></figure>`;
}
