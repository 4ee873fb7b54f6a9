/**
 * Figures as people read them. Whatever is not known is a dash.
 * @module
 */

export const UNKNOWN = "–";

/** @param {number | null | undefined} value */
export function isKnown(value) {
  return value !== null && value !== undefined && !Number.isNaN(value);
}

/**
 * A whole number with thin spaces between its thousands.
 * @param {number | null | undefined} value
 */
export function count(value) {
  if (!isKnown(value)) return UNKNOWN;
  return String(Math.round(/** @type {number} */ (value))).replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

/**
 * A rate with as many digits as it deserves.
 * @param {number | null | undefined} value
 */
export function rate(value) {
  if (!isKnown(value)) return UNKNOWN;
  const number = /** @type {number} */ (value);
  if (number >= 100 || number === 0) return count(number);
  return number >= 10 ? number.toFixed(0) : number.toFixed(1);
}

/** @param {number} share From 0 to 1. */
export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (!isKnown(value)) return UNKNOWN;
  let rest = /** @type {number} */ (value);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(rest) < 1024) return `${unit === "B" || rest >= 100 ? Math.round(rest) : rest.toFixed(1)} ${unit}`;
    rest /= 1024;
  }
  return `${rest.toFixed(1)} TiB`;
}

/** @param {number | null | undefined} value Milliseconds. */
export function milliseconds(value) {
  if (!isKnown(value)) return UNKNOWN;
  const number = /** @type {number} */ (value);
  if (number >= 10_000) return duration(number);
  if (number >= 1000) return `${(number / 1000).toFixed(1)} s`;
  return `${number >= 10 || Number.isInteger(number) ? Math.round(number) : number.toFixed(number < 1 ? 2 : 1)} ms`;
}

/** @param {number | null | undefined} value Milliseconds. */
export function duration(value) {
  if (!isKnown(value)) return UNKNOWN;
  const seconds = Math.floor(/** @type {number} */ (value) / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor(seconds / 3600) % 24} h`;
}

/** @param {number} ms A whole span of time, such as `15 min`: what is zero is left out. */
export function span(ms) {
  return duration(ms).replace(/ 0 (s|min|h)$/, "");
}

/** @param {string} time When something ends, as the API tells it; in the time of whoever reads. @param {number} now As the API has it. */
export function until(time, now) {
  const end = new Date(time);
  const left = end.getTime() - now;
  return left > 0 ? `in ${duration(left)}, at ${end.toLocaleString()}` : `at ${end.toLocaleString()}: read again`;
}

/** @param {number} us Microseconds since the epoch. */
export function clock(us) {
  const date = new Date(us / 1000);
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** @param {number} number @param {string} one @param {string} [many] */
export function plural(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many ?? `${one}s`}`;
}
