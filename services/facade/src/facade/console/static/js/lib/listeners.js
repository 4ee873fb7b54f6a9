/**
 * What several parts of the page watch, and what makes a part of the page be drawn anew when it changes.
 * @module
 */

import { useEffect, useState } from "./preact.js";

/** Those who want to know of a change. */
export class Listeners {
  constructor() {
    /** @type {Set<() => void>} */
    this.all = new Set();
    this.changes = 0;
  }

  tell() {
    this.changes++;
    this.all.forEach((listener) => listener());
  }

  /** @param {() => void} listener @returns {() => void} What ends it. */
  add(listener) {
    this.all.add(listener);
    return () => {
      this.all.delete(listener);
    };
  }
}

/** Draws a part of the page anew after each change, also after one that came before it began to listen. @param {Listeners} listeners */
export function useListeners(listeners) {
  const [, draw] = useState(0);
  const drawn = listeners.changes;
  useEffect(() => {
    const look = () => draw(listeners.changes);
    if (listeners.changes !== drawn) look();
    return listeners.add(look);
  }, []);
}
