/**
 * How wide a drawing is, so that its text is as large as that of the page on every screen.
 * @module
 */

import { useEffect, useLayoutEffect, useState } from "./preact.js";

/** The size of the page's text on a usual screen, in pixels; on a larger one it grows. */
export const TEXT = 15;

/** How much larger than usual the text of the page is. */
export function textScale() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize) / TEXT;
}

/**
 * @param {{current: Element | null}} box @param {number} usual What it is before it was measured.
 * @returns {number} The width of the box, in pixels of a page with text of the usual size.
 */
export function useWidth(box, usual) {
  const [width, setWidth] = useState(usual);
  const measure = () => {
    const found = box.current?.clientWidth;
    if (found) setWidth(Math.round(found / textScale()));
  };
  useLayoutEffect(measure, []);
  useEffect(() => {
    const observer = new ResizeObserver(measure);
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return width;
}
