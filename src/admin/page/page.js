// Asks weir once a second what is new, keeps the last minutes, and has everything drawn.
"use strict";

(() => {
  const { make, text, show, list } = dom;
  const byId = (id) => document.getElementById(id);

  /** As many seconds as weir keeps. */
  const kept = 600;
  const every = 1000;
  const timeout = 5000;
  const mostNotices = 4;

  const state = { overview: null, history: null, over: [], cpu: null, cpuBefore: [], gotAt: null, failed: null };

  // What is new.

  function take(overview) {
    const before = state.overview;
    const isNew = !before || before.weir.started_unix_ms !== overview.weir.started_unix_ms;
    const { history } = overview;
    if (isNew) {
      Object.assign(state, { history: {}, over: [], cpuBefore: [] });
    }
    for (const [name, column] of Object.entries(history)) {
      if (Array.isArray(column)) state.history[name] = (state.history[name] ?? []).concat(column).slice(-kept);
    }
    const known = new Set(overview.storms.over.map((storm) => storm.began_unix_ms));
    state.over = overview.storms.over.concat(state.over.filter((storm) => !known.has(storm.began_unix_ms))).slice(0, 16);
    takeCpu(overview);
    Object.assign(state, { overview, gotAt: performance.now(), failed: null });
  }

  /** CPU over the last ten seconds: by the second it jumps. */
  function takeCpu({ weir, now_unix_ms: now }) {
    state.cpuBefore.push([now, weir.cpu_seconds]);
    state.cpuBefore = state.cpuBefore.slice(-11);
    const [at, used] = state.cpuBefore[0];
    state.cpu = now > at ? ((weir.cpu_seconds - used) / ((now - at) / 1000)) * 100 : null;
  }

  async function ask() {
    const known = state.overview;
    const query = known ? `?since=${known.history.second}` : "";
    const answer = await fetch(`overviewz${query}`, {
      cache: "no-store",
      headers: { accept: "application/json" },
      signal: AbortSignal.timeout(timeout),
    });
    if (!answer.ok) throw new Error(`weir answers ${answer.status}`);
    const overview = await answer.json();
    if (known && known.weir.started_unix_ms !== overview.weir.started_unix_ms && query) {
      // Another process: its seconds have other numbers.
      state.overview = null;
      return ask();
    }
    take(overview);
  }

  let asking = false;

  async function turn() {
    if (asking || document.hidden) return;
    asking = true;
    try {
      await ask();
      draw();
      reports.turn();
    } catch (error) {
      state.failed = error.name === "TimeoutError" ? "it does not answer" : error.message;
    } finally {
      asking = false;
      drawAge();
    }
  }

  // Drawing.

  const ranges = [[120, "2 min"], [300, "5 min"], [600, "10 min"]];
  let range = 300;

  const course = new chart.Chart(byId("course"), byId("course-legend"), {
    height: 220,
    label: "Clients per second that arrived, were admitted and were refused",
    series: [
      { name: "admitted", of: "admitted", kind: "area", label: "admitted", unit: "" },
      { name: "arrived", of: "arrived", kind: "line", label: "arrived", unit: "" },
      { name: "refused", of: "refused", kind: "line", label: "refused", unit: "" },
      { name: "pace", of: "pace", kind: "line", label: "pace", unit: "" },
    ],
  });
  const queue = new chart.Chart(byId("queue"), byId("queue-legend"), {
    height: 110,
    label: "Clients that waited for their turn",
    series: [{ name: "waiting", of: "waiting", kind: "area", label: "waiting", unit: "" }],
  });

  function drawCourse() {
    const columns = {};
    for (const [name, column] of Object.entries(state.history)) columns[name] = column.slice(-range);
    const end = state.overview.history.unix_ms;
    const length = columns.arrived.length;
    const step = range / 5;
    const ticks = [0, 1, 2, 3, 4, 5].map((n) => Math.min(n * step, range - 1));
    const { running } = state.overview.storms;
    const all = (running ? [running] : []).concat(state.over);
    const at = (unixMs) => length - 1 - (end - unixMs) / 1000;
    const marks = all.map((storm) => ({
      key: storm.began_unix_ms,
      from: at(storm.began_unix_ms),
      to: storm.goes_on ? length - 1 : at(storm.began_unix_ms + storm.seconds * 1000),
    })).filter((mark) => mark.to > 0);
    const shown = {
      columns,
      length: range,
      ticks,
      tick: (ago) => (ago === 0 ? numbers.clock(end) : `−${numbers.duration(Math.round(ago / step) * step, true)}`),
      when: (place) => numbers.clock(end - (length - 1 - place) * 1000),
      marks,
    };
    course.show(shown);
    queue.show(shown);
  }

  function drawHead() {
    const { weir, health } = state.overview;
    const { running } = state.overview.storms;
    const kinds = { ok: running ? ["in a storm", "warn"] : ["serving", "good"] };
    sections.badge(byId("health"), kinds[health.status] ?? [health.error ?? health.status, "bad"]);
    text(byId("identity"), `${weir.version} · up ${numbers.duration(weir.uptime_seconds)}`);
    document.title = `${health.status === "ok" ? "" : "! "}weir · ${location.host}`;
  }

  /** What a warning says: how full something is, and for how long that goes on. */
  function warningWords({ of, name, connections, max_connections: most, level, growth, full }) {
    const perhaps = growth?.confidence === "low" ? "perhaps " : "";
    const lasts = !full?.seconds ? "" : `; full in ${perhaps}${numbers.duration(full.seconds)} if it grows on as it does`;
    const how = level === "full" ? "full" : "nearly full";
    return `${of} ${name}: ${how}, ${numbers.count(connections)} of ${numbers.count(most)} connections${lasts}`;
  }

  /** What somebody should know first. */
  function notices() {
    const { servers, weir, clients } = state.overview;
    const all = [];
    // A server that gets no clients says so itself.
    const told = new Set(servers.filter((one) => one.why).map((one) => `server ${one.name}`));
    for (const warning of state.overview.warnings ?? []) {
      if (told.has(`${warning.of} ${warning.name}`)) continue;
      all.push([warningWords(warning), warning.level === "full" ? "bad" : "warn"]);
    }
    for (const one of servers) {
      if (one.why && one.state !== "slow_start") all.push([`server ${one.name}: ${one.why}`, one.state === "ejected" ? "bad" : "warn"]);
    }
    if (clients.paused) all.push(["paused: an operator holds everybody until `weir resume`", "bad"]);
    if (clients.headroom === 0) all.push(["no server has room: clients wait, and are refused when their time is over", "bad"]);
    if (weir.panics > 0) all.push([`${weir.panics} panics: each is a defect of weir`, "bad"]);
    const rank = ([, kind]) => (kind === "bad" ? 0 : 1);
    all.sort((a, b) => rank(a) - rank(b));
    const shown = all.slice(0, mostNotices);
    if (all.length > shown.length) shown.push([`and ${all.length - shown.length} more: see below`, "warn"]);
    list(byId("notices"), shown.map((one, n) => [n, ...one]), ([n]) => n, () => make("li"), (item, [, words, kind]) => {
      item.className = `notice ${kind}`;
      text(item, words);
    });
  }

  function draw() {
    drawHead();
    notices();
    sections.tiles(state);
    drawCourse();
    sections.servers(state);
    sections.moves(state);
    sections.fleet(state);
    sections.refusals(state);
    sections.accounts(state);
    storms.draw(state);
    sections.leaks(state);
    sections.sources(state);
    sections.machine(state);
  }

  /** How old the numbers are, whether weir answers or not. */
  function drawAge() {
    const age = state.gotAt === null ? null : (performance.now() - state.gotAt) / 1000;
    const isGone = state.failed !== null || (age !== null && age > 3 && !document.hidden);
    document.body.classList.toggle("gone", isGone);
    text(byId("live"), isGone || age === null ? "" : "live");
    show(byId("gone"), isGone);
    if (isGone) {
      sections.badge(byId("health"), ["not reached", "bad"]);
      const old = age === null ? "There are no numbers yet."
        : `These numbers are ${numbers.duration(age)} old, of ${numbers.clock(state.overview.now_unix_ms)}.`;
      text(byId("gone"), `weir is not to be reached. ${old} This page asks again every second.`);
    }
  }

  // What the reader chooses.

  const remembered = {
    get(name) {
      try {
        return localStorage.getItem(`weir.${name}`);
      } catch {
        return null;
      }
    },
    set(name, value) {
      try {
        localStorage.setItem(`weir.${name}`, value);
      } catch {
        // A browser that keeps nothing forgets the choice.
      }
    },
  };

  function chooseRange(seconds) {
    range = seconds;
    remembered.set("range", seconds);
    for (const button of byId("range").children) button.setAttribute("aria-pressed", String(+button.value === range));
    if (state.overview) drawCourse();
  }

  const themes = ["auto", "light", "dark"];

  function chooseTheme(theme) {
    document.documentElement.dataset.theme = theme;
    remembered.set("theme", theme);
    text(byId("theme"), `theme: ${theme}`);
  }

  for (const [seconds, name] of ranges) {
    const button = make("button", "", name);
    button.type = "button";
    button.value = seconds;
    button.addEventListener("click", () => chooseRange(seconds));
    byId("range").append(button);
  }
  byId("theme").addEventListener("click", () => {
    const next = (themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length;
    chooseTheme(themes[next]);
  });
  const range0 = Number(remembered.get("range"));
  chooseRange(ranges.some(([seconds]) => seconds === range0) ? range0 : 300);
  chooseTheme(themes.includes(remembered.get("theme")) ? remembered.get("theme") : "auto");

  setInterval(turn, every);
  setInterval(drawAge, 500);
  document.addEventListener("visibilitychange", turn);
  turn();
})();
