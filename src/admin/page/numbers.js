// Numbers, sizes and times as people read them. All of one kind have the same width, so that nothing jumps.
"use strict";

const numbers = (() => {
  const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
  const pad = (n) => String(n).padStart(2, "0");

  /** A count: all digits up to a million, then three. */
  function count(n) {
    if (n === null || n === undefined) return "–";
    if (n >= 1e9) return `${(n / 1e9).toFixed(2)} G`;
    if (n >= 1e7) return `${(n / 1e6).toFixed(1)} M`;
    return whole.format(n);
  }

  /** So many a second. */
  function rate(n) {
    if (n === null || n === undefined) return "–";
    return n > 0 && n < 9.95 ? n.toFixed(1) : count(n);
  }

  function bytes(n) {
    if (n === null || n === undefined) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (n >= 1000 && unit < units.length - 1) {
      n /= 1024;
      unit += 1;
    }
    return `${unit > 0 && n < 9.95 ? n.toFixed(1) : whole.format(n)} ${units[unit]}`;
  }

  function percent(part, all) {
    return all > 0 ? `${Math.floor((part / all) * 100)} %` : "–";
  }

  /** How long, from seconds, in its two largest units; a second one of zero only where it may change. */
  function duration(seconds, isRound = false) {
    const s = Math.max(0, Math.floor(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return s % 60 === 0 && isRound ? `${s / 60} min` : `${Math.floor(s / 60)} min ${pad(s % 60)} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${pad(Math.floor((s % 3600) / 60))} min`;
    return `${Math.floor(s / 86400)} d ${pad(Math.floor((s % 86400) / 3600))} h`;
  }

  /** The time of day. */
  function clock(unixMs) {
    const at = new Date(unixMs);
    return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  }

  /** The day too, where it is not the day of `now`. */
  function moment(unixMs, now) {
    const at = new Date(unixMs);
    const day = at.toDateString() === new Date(now).toDateString();
    return day ? clock(unixMs) : `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock(unixMs)}`;
  }

  /** The end of an axis for values up to `n`, and into how many parts of whole numbers it is divided. */
  function axis(n) {
    const power = 10 ** Math.floor(Math.log10(Math.max(n, 1)));
    const ends = [[1, 2], [1.5, 3], [2, 2], [3, 3], [4, 4], [5, 5], [6, 3], [8, 4], [10, 2]];
    const [end, parts] = ends.find(([end]) => end * power >= n && Number.isInteger(end * power));
    return { end: end * power, parts: Number.isInteger((end * power) / parts) ? parts : 1 };
  }

  return { count, rate, bytes, percent, duration, clock, moment, axis };
})();
