/**
 * The one place that knows which file of the library is used.
 * @module
 */

// @ts-ignore The library is minified and has no types here.
import * as library from "../../vendor/htm-preact-3.1.1.module.js";

/** @type {any} */
const all = library;

/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = all.html;
/** @type {(node: any, into: Element) => void} */
export const render = all.render;
/** @type {<T>(first: T | (() => T)) => [T, (next: T | ((before: T) => T)) => void]} */
export const useState = all.useState;
/** @type {(effect: () => (void | (() => void)), inputs?: any[]) => void} */
export const useEffect = all.useEffect;
/** @type {(effect: () => (void | (() => void)), inputs?: any[]) => void} */
export const useLayoutEffect = all.useLayoutEffect;
/** @type {<T>(first: T) => {current: T}} */
export const useRef = all.useRef;
/** @type {<T>(make: () => T, inputs: any[]) => T} */
export const useMemo = all.useMemo;
