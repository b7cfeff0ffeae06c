// Storms: one of them as a large curve with its figures, and all of them as a list to choose from.
"use strict";

const storms = (() => {
  const { make, text, show, list } = dom;
  const { count, rate, duration } = numbers;
  const byId = (id) => document.getElementById(id);

  /** When the chosen storm began; null shows the latest. */
  let chosen = null;
  let large = null;
  /** What was drawn last. */
  let drawn = null;

  /** How its columns read: rates are by second, whatever a point is of. */
  function columnsOf({ curve }) {
    const perSecond = (values) => values.map((value) => value / curve.seconds_per_point);
    return {
      arrived: perSecond(curve.arrived),
      admitted: perSecond(curve.admitted),
      refused: perSecond(curve.refused),
      waiting: curve.waiting,
    };
  }

  function figures(one) {
    const names = (groups) => groups.slice(0, 3).map((group) => `${group.name} ${count(group.total)}`).join(", ") || "–";
    return [
      ["lasted", one.goes_on ? `${duration(one.seconds)} so far` : duration(one.seconds)],
      ["arrived", `${count(one.arrived)}, at most ${count(one.peak_arrivals)}/s`],
      ["admitted", `${count(one.admitted)}, ${count(one.admitted_after_wait)} after a wait`],
      ["waited at once", count(one.most_waiting)],
      ["refused", one.refused > 0 ? `${count(one.refused)}: ${names(one.reasons)}` : "nobody"],
      ["left while waiting", count(one.left)],
      ["pace", one.pace === null ? "–" : `${rate(one.pace)} clients/s`],
      ["sessions", `${count(one.sessions_before)} before, ${count(one.sessions_after)} ${one.goes_on ? "now" : "after"}`],
      ["accounts", names(one.accounts)],
      ["languages", names(one.languages)],
    ];
  }

  function drawLarge(one, now) {
    const box = byId("storm");
    if (!large) {
      const [title, legend, curve] = [make("h3"), make("div", "legend"), make("div")];
      const facts = make("dl", "facts storm");
      box.append(make("div", "head", title, legend), curve, facts);
      const series = [
        { name: "waiting", of: "waiting", kind: "area", label: "waiting", unit: "" },
        { name: "arrived", of: "arrived", kind: "line", label: "arrived", unit: "/s" },
        { name: "admitted", of: "admitted", kind: "line", label: "admitted", unit: "/s" },
        { name: "refused", of: "refused", kind: "line", label: "refused", unit: "/s" },
      ];
      large = { title, facts, chart: new chart.Chart(curve, legend, { series, height: 200, label: "Course of the storm" }) };
    }
    text(large.title, `${one.goes_on ? "Going on since" : "At"} ${numbers.moment(one.began_unix_ms, now)}`);
    const columns = columnsOf(one);
    const points = columns.arrived.length;
    const perPoint = one.curve.seconds_per_point;
    const steps = [5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600];
    const step = steps.find((step) => (points * perPoint) / step <= 8) ?? 3600;
    // Ticks stand at whole steps from the beginning.
    const ticks = [];
    for (let second = step; second <= points * perPoint; second += step) {
      ticks.push(points - Math.ceil(second / perPoint));
    }
    large.chart.show({
      columns,
      length: Math.max(points, 15),
      ticks,
      tick: (ago) => duration((points - ago) * perPoint),
      when: (at) => `${duration((at + 1) * perPoint)} after its beginning`,
      fromLeft: true,
    });
    list(large.facts, figures(one), ([name]) => name, ([name]) => make("div", "", make("dt", "", name), make("dd")),
      (row, [, value]) => text(row.children[1], value));
  }

  function draw(state) {
    drawn = state;
    const { overview, over } = state;
    const now = overview.now_unix_ms;
    const { running } = overview.storms;
    const all = (running ? [running] : []).concat(over);
    text(byId("storms-sum"), running ? "one goes on" : "");
    show(byId("storm"), all.length > 0);
    const one = all.find((storm) => storm.began_unix_ms === chosen) ?? all[0];
    if (one) drawLarge(one, now);
    sections.table(byId("storms"), {
      columns: [["began", "wide"], ["lasted", "number"], ["arrived", "number"], ["peak", "number more"],
        ["most waiting", "number more"], ["admitted", "number more"], ["refused", "number"]],
      items: all,
      key: (storm) => storm.began_unix_ms,
      fill: (cells, storm) => {
        if (!cells[0].firstChild) cells[0].append(chooser(storm), make("span", "muted"));
        text(cells[0].children[0], numbers.moment(storm.began_unix_ms, now));
        const ago = storm.goes_on ? "goes on" : `${duration((now - storm.began_unix_ms) / 1000)} ago`;
        text(cells[0].children[1], ago);
        cells[0].parentElement.classList.toggle("chosen", storm === one);
        cells[0].children[0].setAttribute("aria-pressed", String(storm === one));
        const shown = [duration(storm.seconds), count(storm.arrived), `${count(storm.peak_arrivals)}/s`,
          count(storm.most_waiting), count(storm.admitted), count(storm.refused)];
        shown.forEach((value, at) => text(cells[at + 1], value));
      },
      nothing: "None since weir's start: never did ten clients in one second have to wait, or find no room.",
    });
  }

  /** The button that chooses a storm. */
  function chooser(storm) {
    const button = make("button", "link");
    button.type = "button";
    button.addEventListener("click", () => {
      chosen = storm.began_unix_ms;
      draw(drawn);
    });
    return button;
  }

  return { draw };
})();
