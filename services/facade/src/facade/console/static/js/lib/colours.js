/**
 * Light, dark, or as the system has it. What is drawn, and is no text of the page, is told when that changes.
 * @module
 */

export const THEMES = ["auto", "light", "dark"];
export const COLOURS_CHANGED = "dougdb-colours";
const THEME = "dougdb.theme";

const tell = () => dispatchEvent(new Event(COLOURS_CHANGED));

/** @param {string} theme */
export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(THEME, theme);
  tell();
}

/** Begins with what was chosen last. */
export function startColours() {
  const kept = localStorage.getItem(THEME) ?? "";
  setTheme(THEMES.includes(kept) ? kept : THEMES[0]);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
}
