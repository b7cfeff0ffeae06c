// Curves over time: a chart with axes and a line that follows the pointer, and a sparkline.
"use strict";

const chart = (() => {
  const margin = { top: 8, right: 10, bottom: 20, left: 46 };

  /** The points of a curve as an SVG path; where a value is null there is a gap. */
  function path(values, x, y) {
    let drawn = "";
    let isDown = false;
    values.forEach((value, at) => {
      if (value === null || value === undefined) {
        isDown = false;
        return;
      }
      drawn += `${isDown ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      isDown = true;
    });
    return drawn;
  }

  /** The same as an area above `floor`. */
  function area(values, x, y, floor) {
    if (values.length === 0) return "";
    const top = path(values.map((value) => value ?? 0), x, y);
    return `${top}L${x(values.length - 1).toFixed(1)} ${floor}L${x(0).toFixed(1)} ${floor}Z`;
  }

  /** A small curve without axes. It ends at the right; `most` points fill its width. */
  function sparkline(svg, values, most) {
    const width = 120;
    const height = 28;
    dom.set(svg, { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
    if (!svg.firstChild) svg.append(dom.svg("path", { class: "fill" }), dom.svg("path", { class: "stroke" }));
    const shown = values.slice(-most);
    const top = numbers.axis(Math.max(...shown, 1)).end;
    const x = (at) => width - ((shown.length - 1 - at) / Math.max(1, most - 1)) * width;
    const y = (value) => height - 1 - (value / top) * (height - 3);
    dom.set(svg.children[0], { d: area(shown, x, y, height) });
    dom.set(svg.children[1], { d: path(shown, x, y) });
  }

  /** A chart of several series, each `{ name, of, kind, label, unit }`: `of` is its class, `kind` "line" or "area". */
  class Chart {
    constructor(box, legend, { series, height, label }) {
      this.box = box;
      this.series = series;
      this.height = height;
      this.at = null;
      this.svg = dom.svg("svg", { class: "chart", role: "img", "aria-label": label });
      this.grid = dom.svg("g", { class: "grid" });
      this.marks = dom.svg("g", { class: "marks" });
      this.curves = series.map((one) => dom.svg("path", { class: `${one.kind} ${one.of}` }));
      this.cursor = dom.svg("line", { class: "cursor", visibility: "hidden" });
      this.svg.append(this.grid, this.marks, ...this.curves, this.cursor);
      box.append(this.svg);
      this.values = series.map((one) => {
        const value = dom.make("b", "value");
        legend.append(dom.make("span", "entry", dom.make("i", `swatch ${one.of} ${one.kind}`), one.label, " ", value));
        return value;
      });
      this.when = dom.make("span", "when muted");
      legend.append(this.when);
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerdown", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", () => this.leave());
      new ResizeObserver(() => this.draw()).observe(box);
    }

    /**
     * Shows columns: `columns[name]` for each series, all as long, `length` of which fill the width. `when(at)` says
     * in words when a value was, and `tick(ago)` what stands below the axis. With `fromLeft` it begins at the left;
     * else it ends at the right.
     */
    show({ columns, length, ticks, tick, when, marks, fromLeft }) {
      this.columns = columns;
      this.length = length;
      this.ticks = ticks;
      this.tick = tick;
      this.whenOf = when;
      this.marked = marks ?? [];
      this.fromLeft = fromLeft ?? false;
      this.draw();
    }

    get count() {
      return this.columns ? this.columns[this.series[0].name].length : 0;
    }

    draw() {
      const width = this.box.clientWidth;
      if (!this.columns || width === 0) return;
      const { height } = this;
      dom.set(this.svg, { width, height, viewBox: `0 0 ${width} ${height}` });
      const right = width - margin.right;
      const bottom = height - margin.bottom;
      const most = Math.max(1, ...this.series.flatMap((one) => this.columns[one.name].map((value) => value ?? 0)));
      const { end: top, parts } = numbers.axis(most);
      const step = (right - margin.left) / Math.max(1, this.length - 1);
      const x = (at) => (this.fromLeft ? margin.left + at * step : right - (this.count - 1 - at) * step);
      const y = (value) => bottom - (value / top) * (bottom - margin.top);
      this.x = x;
      this.drawGrid(right, bottom, { top, parts }, y);
      dom.list(this.marks, this.marked, (mark) => mark.key, () => dom.svg("rect"), (rect, mark) => {
        const from = Math.max(margin.left, x(mark.from));
        const to = Math.min(right, x(mark.to));
        dom.set(rect, { x: from, y: margin.top, width: Math.max(0, to - from), height: bottom - margin.top });
      });
      this.series.forEach((one, n) => {
        const values = this.columns[one.name];
        const d = one.kind === "area" ? area(values, x, y, bottom) : path(values, x, y);
        dom.set(this.curves[n], { d });
      });
      this.say();
    }

    drawGrid(right, bottom, { top, parts }, y) {
      const values = Array.from({ length: parts + 1 }, (_, n) => (top * n) / parts);
      const lines = values.map((value, n) => ({ key: `y${n}`, value, y: y(value) }));
      const isInside = (one) => one.x >= margin.left - 1 && one.x <= right + 1;
      const ticks = this.ticks.map((ago) => ({ key: `x${ago}`, ago, x: this.x(this.count - 1 - ago) })).filter(isInside);
      // On a narrow screen there is room for every second word only.
      const every = ticks.length > 1 && Math.abs(ticks[1].x - ticks[0].x) < 74 ? 2 : 1;
      dom.list(this.grid, [...lines, ...ticks.filter((_, n) => n % every === 0)], (one) => one.key,
        () => dom.svg("g", {}, dom.svg("line"), dom.svg("text")),
        (group, one) => {
          const [line, text] = group.children;
          if (one.ago === undefined) {
            dom.set(line, { x1: margin.left, x2: right, y1: one.y, y2: one.y });
            dom.set(text, { x: margin.left - 6, y: one.y + 4, "text-anchor": "end" });
            dom.text(text, numbers.count(one.value));
          } else {
            const anchor = one.x > right - 24 ? "end" : one.x < margin.left + 24 ? "start" : "middle";
            dom.set(line, { x1: one.x, x2: one.x, y1: bottom, y2: bottom + 4 });
            dom.set(text, { x: one.x, y: bottom + 16, "text-anchor": anchor });
            dom.text(text, this.tick(one.ago));
          }
        });
    }

    point(event) {
      if (!this.x || this.count === 0) return;
      const across = event.clientX - this.svg.getBoundingClientRect().left;
      const step = this.x(1) - this.x(0);
      const at = Math.round((across - this.x(0)) / step);
      // Counted from the end, so that it moves on with the curve.
      this.at = Math.min(this.count - 1, Math.max(0, this.count - 1 - at));
      this.say();
    }

    leave() {
      this.at = null;
      this.say();
    }

    /** The values at the pointer, or the last ones. */
    say() {
      const at = this.count - 1 - (this.at ?? 0);
      this.series.forEach((one, n) => {
        const value = this.columns?.[one.name][at];
        dom.text(this.values[n], `${one.kind === "level" ? numbers.count(value) : numbers.rate(value)}${one.unit}`);
      });
      dom.text(this.when, this.at === null || this.count === 0 ? "" : this.whenOf(at));
      const x = this.x && this.at !== null ? this.x(at) : 0;
      const visibility = this.at === null ? "hidden" : "visible";
      dom.set(this.cursor, { x1: x, x2: x, y1: margin.top, y2: this.height - margin.bottom, visibility });
    }
  }

  return { Chart, sparkline };
})();
