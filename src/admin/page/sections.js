// The parts of the page: each draws its part of the overview, and remembers nothing but its elements.
"use strict";

const sections = (() => {
  const { make, text, show, list, bar } = dom;
  const { count, rate, percent, duration } = numbers;
  const byId = (id) => document.getElementById(id);

  /** From here on a quota or a server is nearly full; weir's own warnings begin there too. */
  const warnAt = 0.8;

  /** The states of servers: what to call each, and how bad it is. */
  const states = {
    up: ["up", "good"],
    slow_start: ["slow start", "info"],
    throttled: ["throttled", "warn"],
    full: ["full", "warn"],
    stale: ["no fresh reading", "warn"],
    logins_failing: ["logins failing", "bad"],
    ejected: ["down", "bad"],
    lame_duck: ["lame duck", "warn"],
    draining: ["draining", "warn"],
    leaving: ["leaving", "info"],
    other_cluster: ["other cluster", "bad"],
  };

  /** Whether new clients go there, or would if it had room. */
  function isUsed(server) {
    return ["up", "slow_start", "throttled", "full"].includes(server.state);
  }

  function badge(element, [name, kind]) {
    text(element, name);
    element.className = `badge ${kind}`;
  }

  /** The mean of the last values. */
  function mean(values, seconds) {
    const last = values.slice(-seconds);
    return last.length > 0 ? last.reduce((sum, one) => sum + one, 0) / last.length : null;
  }

  function sum(values) {
    return values.reduce((all, one) => all + one, 0);
  }

  // Now.

  const meanSeconds = 10;

  function tiles({ overview, history }) {
    const { clients } = overview;
    const used = overview.servers.filter(isUsed);
    const limits = used.map((one) => one.max_connections);
    const capacity = used.length > 0 && limits.every((one) => one !== null) ? sum(limits) : null;
    const on = used.length === 1 ? "1 server" : `${used.length} servers`;
    const pace = clients.pace === null ? "nobody had to wait yet" : `pace ${rate(clients.pace)}/s`;
    const left = clients.pace > 0 && clients.waiting > 0 ? `, about ${duration(clients.waiting / clients.pace + 1)}` : "";
    const refused = sum(history.refused.slice(-60));
    const leafnodes = clients.leafnodes > 0 ? `${count(clients.leafnodes)} leafnodes; ` : "";
    const all = [
      ["sessions", "Sessions", count(clients.sessions), `${leafnodes}${count(clients.admitted)} since the start`,
        history.sessions],
      ["room", "Room left", clients.headroom === null ? "–" : count(clients.headroom),
        used.length === 0 ? "no server is used"
          : capacity === null ? "a server has no known limit" : `of ${count(capacity)} on ${on}`, null],
      ["waiting", "Waiting", count(clients.waiting), pace + left, history.waiting],
      ["arrived", "Arriving", `${rate(mean(history.arrived, meanSeconds))}/s`, `mean of ${meanSeconds} s`, history.arrived],
      ["admitted", "Admitted", `${rate(mean(history.admitted, meanSeconds))}/s`, `mean of ${meanSeconds} s`, history.admitted],
      ["refused", "Refused", `${rate(mean(history.refused, meanSeconds))}/s`, `${count(refused)} in the last minute`, history.refused],
    ];
    list(byId("tiles"), all, ([of]) => of, ([of]) => {
      const curve = dom.svg("svg", { class: `sparkline ${of}`, "aria-hidden": "true" });
      return make("div", `tile ${of}`, make("h2"), make("p", "figure"), make("p", "muted"), curve);
    }, (tile, [, title, figure, note, values]) => {
      const [heading, shown, below, curve] = tile.children;
      text(heading, title);
      text(shown, figure);
      text(below, note);
      if (values) chart.sparkline(curve, values, 120);
    });
    byId("tiles").querySelector(".refused").classList.toggle("alarm", refused > 0);
  }

  // Servers.

  function serverRow() {
    return make("div", "server",
      make("div", "name", make("b"), make("span", "badge")),
      make("div", "track", make("div", "bar")),
      make("div", "share"),
      make("div", "figures muted", make("span"), make("span"), make("span")),
      make("p", "why"));
  }

  function servers({ overview }) {
    const all = overview.servers;
    const largest = Math.max(1, ...all.map((one) => one.max_connections ?? one.connections * 1.25));
    list(byId("servers"), all, (one) => one.address, serverRow, (row, one) => {
      const [name, track, share, figures, why] = row.children;
      text(name.children[0], one.name);
      name.children[0].title = one.address;
      badge(name.children[1], states[one.state] ?? [one.state, "info"]);
      const max = one.max_connections;
      const reserve = max === null ? 0 : Math.min(one.reserve, max);
      const taken = one.connections;
      bar(track.firstChild, [
        { of: "sessions", value: one.sessions },
        { of: "opening", value: one.opening },
        { of: "others", value: one.others },
        { of: "free", value: Math.max(0, (max ?? largest) - reserve - taken) },
        { of: "reserve", value: Math.min(reserve, Math.max(0, (max ?? largest) - taken)) },
      ], max ?? largest);
      track.firstChild.title = `${count(one.sessions)} sessions, ${count(one.opening)} logging in, `
        + `${count(one.others)} not through weir, ${count(reserve)} kept in reserve`;
      row.classList.toggle("unused", !isUsed(one));
      row.classList.toggle("bad", states[one.state]?.[1] === "bad");
      row.classList.toggle("high", max !== null && taken >= warnAt * max);
      text(share, max === null ? `${count(taken)} ${one.limit_known ? "of no limit" : "of ?"}`
        : `${count(taken)} of ${count(max)} · ${percent(taken, max)}`);
      text(figures.children[0], `logins ${count(one.handshakes)} of ${count(one.handshake_limit)}`);
      const overdue = one.handshakes_overdue > 0 ? `${count(one.handshakes_overdue)} overdue` : "";
      text(figures.children[1], one.login_failures > 0 ? `${overdue} ${count(one.login_failures)} failed` : overdue);
      const age = one.reading_age_seconds;
      text(figures.children[2], age === null ? "not read" : `read ${age.toFixed(1)} s ago`);
      text(why, one.why ?? "");
      show(why, one.why !== null);
    });
    const used = all.filter((one) => isUsed(one) && one.state !== "full").length;
    text(byId("servers-sum"), `${used} of ${all.length} take clients`);
  }

  // Clients that weir moves to other servers.

  const moved = ["landed", "elsewhere", "rehomed"];

  /** How far a rebalance is, or how it ended. */
  function rebalanceWords({ state, by, planned, landed, elsewhere, late, on_their_way, left, seconds, seconds_left, stopped }) {
    const done = `${count(landed + elsewhere + late)} of ${count(planned)} clients moved`;
    const why = stopped ? `: ${stopped}` : "";
    if (state === "ended") return `last rebalance, by ${by}: ${done}, ${count(left)} left, in ${duration(seconds)}${why}`;
    const rest = state === "running" ? `about ${duration(seconds_left)} left` : state + why;
    return `rebalance by ${by}: ${done}, ${count(on_their_way)} on their way, ${rest}`;
  }

  function moves({ overview }) {
    const { rebalance, emptied, totals } = overview.moves;
    show(byId("moves-card"), Boolean(rebalance) || emptied.length > 0 || totals.length > 0);
    const now = emptied.map((one) => [`server ${one.server}`, one.sessions - one.left, one.sessions,
      `emptying ${one.server} (${one.cause.replaceAll("_", " ")}): ${count(one.left)} of ${count(one.sessions)} sessions `
        + `left${one.left > 0 ? `, for ${duration(one.seconds_left)}` : ""}`]);
    if (rebalance) {
      const { landed, elsewhere, late, planned } = rebalance;
      now.unshift(["rebalance", landed + elsewhere + late, planned, rebalanceWords(rebalance)]);
    }
    list(byId("moves-now"), now, ([key]) => key, () => make("li"), (item, [, done, all, words]) => {
      named(item, words, "span", [{ of: "sessions", value: done }], Math.max(1, all));
    });
    const causes = [...new Set(totals.map((one) => one.cause))];
    const of = (cause) => totals.filter((one) => one.cause === cause);
    const most = Math.max(1, ...causes.map((cause) => sum(of(cause).map((one) => one.total))));
    table(byId("moves"), {
      columns: [["cause", "wide"], ["moved", "number"]],
      items: causes,
      key: (cause) => cause,
      fill: (cells, cause) => {
        const there = sum(of(cause).filter((one) => moved.includes(one.result)).map((one) => one.total));
        named(cells[0], cause, "code", [{ of: "sessions", value: there }], most);
        text(cells[1], count(there));
      },
      note: (cause) => of(cause).filter((one) => !moved.includes(one.result))
        .map((one) => `${count(one.total)} ${one.result.replaceAll("_", " ")}`).join(", "),
      nothing: "Nobody has been moved since the start.",
    });
    text(byId("moves-sum"), now.length === 0 ? "since the start" : "");
  }

  // The weirs of the fleet.

  const modes = { lease: ["by leases", "good"], split: ["by the split", "bad"], alone: ["no other weir", "warn"] };

  function fleet({ overview }) {
    const all = overview.fleet;
    show(byId("fleet-card"), Boolean(all));
    if (!all) return;
    badge(byId("fleet-mode"), all.connected ? modes[all.mode] ?? [all.mode, "info"] : ["not connected", "bad"]);
    const missing = all.missing > 0 ? `, ${count(all.missing)} missing` : "";
    const weirs = all.live === 1 ? "1 weir" : `${count(all.live)} weirs`;
    text(byId("fleet-sum"), `${all.name}: ${weirs}${missing}, ${count(all.sessions)} sessions${all.why ? `; ${all.why}` : ""}`);
    const most = Math.max(1, ...all.weirs.map((one) => one.sessions));
    table(byId("fleet"), {
      columns: [["weir", "wide"], ["sessions", "number"], ["waiting", "number"], ["leases", ""], ["up", "number"],
        ["last beat", "number"], ["version", ""]],
      items: all.weirs,
      key: (one) => one.id,
      fill: (cells, one) => {
        named(cells[0], one.is_this ? `${one.id} (this one)` : one.id, "span", [{ of: "sessions", value: one.sessions }], most);
        text(cells[1], count(one.sessions));
        text(cells[2], count(one.waiting));
        text(cells[3], one.is_stranger ? "unknown" : one.leases_in_force ? "in force" : "none");
        text(cells[4], duration(one.uptime_seconds));
        text(cells[5], one.is_this ? "" : `${one.beat_age_seconds.toFixed(1)} s ago`);
        cells[5].classList.toggle("alarm", one.beat_age_seconds > 3);
        text(cells[6], one.version);
      },
      note: (one) => one.addresses.join(" "),
      nothing: "No weir is known.",
    });
  }

  // Who is refused, and who has how much.

  /**
   * A table: `columns` are `[title, class]`, and `note` says what stands below an item, if anything does. `nothing`
   * stands there where there is no item.
   */
  function table(box, { columns, items, key, fill, note, nothing }) {
    if (!box.firstChild) {
      const head = make("tr", "", ...columns.map(([title, of]) => make("th", of, title)));
      box.append(make("p", "nothing muted", nothing), make("table", "", make("thead", "", head)));
    }
    const [empty, all] = box.children;
    show(empty, items.length === 0);
    show(all, items.length > 0);
    const build = () => {
      const below = make("td", "muted");
      below.colSpan = columns.length;
      const row = make("tr", "", ...columns.map(([, of]) => make("td", of)));
      return make("tbody", "", row, make("tr", "note", below));
    };
    // One body for each item, behind the head.
    const bodies = { children: all.tBodies, insertBefore: (child, next) => all.insertBefore(child, next) };
    list(bodies, items, key, build, (body, item) => {
      const [row, below] = body.rows;
      fill([...row.cells], item);
      const words = note?.(item) ?? "";
      text(below.firstChild, words);
      show(below, words !== "");
    });
  }

  /** A cell with a name above a thin bar. */
  function named(cell, name, tag, parts, all) {
    if (!cell.firstChild) cell.append(make(tag, "who"), make("div", "bar thin"));
    text(cell.children[0], name);
    bar(cell.children[1], parts, all);
  }

  function refusals({ overview }) {
    const most = Math.max(1, ...overview.refusals.map((one) => one.last_ten_minutes));
    table(byId("refusals"), {
      columns: [["reason", "wide"], ["1 min", "number"], ["10 min", "number"], ["since start", "number"]],
      items: overview.refusals,
      key: (one) => one.reason,
      fill: (cells, one) => {
        named(cells[0], one.reason, "code", [{ of: "refused", value: one.last_ten_minutes }], most);
        [one.last_minute, one.last_ten_minutes, one.total].forEach((n, at) => text(cells[at + 1], count(n)));
        cells[1].classList.toggle("alarm", one.last_minute > 0);
      },
      note: (one) => (one.last_ten_minutes > 0 ? one.advice : ""),
      nothing: "Nobody has been refused.",
    });
    refusedClients({ overview });
    const bad = sum(overview.bad_logins.map((one) => one.total));
    text(byId("refusals-sum"), bad > 0 ? `and servers refused ${count(bad)} logins` : "");
  }

  function accounts({ overview }) {
    const shown = overview.accounts.slice(0, 15);
    const most = Math.max(1, ...shown.map((one) => one.connections));
    table(byId("accounts"), {
      columns: [["account", "wide"], ["connections", "number"], ["quota", "number"], ["refused", "number"]],
      items: shown,
      key: (one) => one.name,
      fill: (cells, one) => {
        const quota = one.max_connections;
        const isHigh = quota !== null && one.connections >= warnAt * quota;
        named(cells[0], one.name, "span", [{ of: isHigh ? "high" : "sessions", value: one.connections }], quota ?? most);
        cells[0].children[1].classList.toggle("open", quota === null);
        text(cells[1], count(one.connections));
        text(cells[2], quota === null ? "none" : `${count(quota)} · ${percent(one.connections, quota)}`);
        cells[2].classList.toggle("high", isHigh);
        text(cells[3], count(one.refused));
      },
      nothing: "No account has a connection.",
    });
    const left = overview.accounts_in_use - shown.filter((one) => one.connections > 0).length;
    text(byId("accounts-sum"), left > 0 ? `and ${count(left)} more` : "");
  }

  /** Who is refused, as far as they have said who they are. */
  function refusedClients({ overview }) {
    const shown = (overview.refused_clients ?? []).slice(0, 8);
    const most = Math.max(1, ...shown.map((one) => one.count));
    const said = ({ account, user, name, source }) => [["account", account], ["user", user], ["source", source]]
      .filter(([, words], at) => words && (at !== 2 || name || account || user))
      .map(([of, words]) => `${of} ${words}`).join(", ");
    table(byId("refused-clients"), {
      columns: [["client", "wide"], ["reason", ""], ["times", "number"]],
      items: shown,
      key: (one) => [one.reason, one.account, one.user, one.name, one.source].join("\n"),
      fill: (cells, one) => {
        named(cells[0], one.name || one.user || one.account || one.source, "span", [{ of: "refused", value: one.count }], most);
        if (!cells[1].firstChild) cells[1].append(make("code", "reason"));
        text(cells[1].firstChild, one.reason);
        text(cells[2], count(one.count));
      },
      note: said,
      nothing: "Nobody.",
    });
  }

  /** What sessions have in common, in words. */
  function groupName({ by, account, group }) {
    return by === "source" ? `source ${group}` : `${by} ${group}${account ? ` of ${account}` : ""}`;
  }

  function leaks({ overview }) {
    const found = overview.leaks;
    text(byId("leaks-sum"), `${count(found.idle_sessions)} of ${count(found.sessions)} sessions moved nothing for `
      + `${duration(found.idle_after_seconds, true)}, ${count(found.unnamed_sessions)} have no name`);
    const shown = found.growing.slice(0, 8);
    const most = Math.max(1, ...shown.map((one) => one.connections));
    table(byId("leaks"), {
      columns: [["only grows", "wide"], ["connections", "number"], ["idle", "number more"], ["more per min", "number"],
        ["confidence", "number more"]],
      items: shown,
      key: groupName,
      fill: (cells, one) => {
        named(cells[0], groupName(one), "span", [{ of: "high", value: one.connections }], most);
        const figures = [count(one.connections), count(one.idle), `+${rate(one.per_minute)}`, one.confidence];
        figures.forEach((figure, at) => text(cells[at + 1], figure));
        cells[3].classList.add("high");
      },
      nothing: "No name, user or source has connections that only grow.",
    });
  }

  function sources({ overview }) {
    largestSources(overview.largest_sources);
    const shown = overview.sources.slice(0, 8);
    const most = Math.max(1, ...shown.map((one) => one.bad_logins));
    table(byId("sources"), {
      columns: [["source", "wide"], ["failed logins", "number"]],
      items: shown,
      key: (one) => one.source,
      fill: (cells, one) => {
        named(cells[0], one.source, "span", [{ of: "refused", value: one.bad_logins }], most);
        text(cells[1], count(one.bad_logins));
      },
      nothing: "No server has refused a login.",
    });
  }

  function largestSources(all) {
    const shown = all.slice(0, 8);
    const most = Math.max(1, ...shown.map((one) => one.sessions));
    table(byId("largest-sources"), {
      columns: [["source", "wide"], ["sessions", "number"]],
      items: shown,
      key: (one) => one.source,
      fill: (cells, one) => {
        named(cells[0], one.source, "span", [{ of: "sessions", value: one.sessions }], most);
        text(cells[1], count(one.sessions));
      },
      nothing: "Nobody is in.",
    });
  }

  // The machine.

  function machine({ overview, history, cpu }) {
    const { weir } = overview;
    const facts = overview.listeners.map((one) => [
      `listener ${one.address}`, `${count(one.clients)} of ${count(one.max_clients)} clients`,
    ]);
    const both = (up, down, show) => `${show(mean(up, meanSeconds))}/s up, ${show(mean(down, meanSeconds))}/s down`;
    facts.push(
      ["relayed bytes", both(history.bytes_up, history.bytes_down, numbers.bytes)],
      ["relayed messages", both(history.messages_up, history.messages_down, rate)],
      ["CPU", cpu === null ? "–" : `${cpu.toFixed(1)} % of one core, ${weir.cores} there`],
      ["memory", numbers.bytes(weir.memory_bytes)],
      ["open files", `${count(weir.open_files)} of ${count(weir.max_open_files)}`],
      ["probes", `${count(overview.clients.probes)} since the start`],
    );
    if (weir.panics > 0) facts.push(["panics", `${count(weir.panics)}: each is a defect of weir, please report it`]);
    if (weir.log_lines_dropped > 0) facts.push(["lost log lines", count(weir.log_lines_dropped)]);
    list(byId("machine"), facts, ([name]) => name, ([name]) => make("div", "", make("dt", "", name), make("dd")),
      (row, [, value]) => text(row.children[1], value));
  }

  return { tiles, servers, moves, fleet, refusals, accounts, leaks, sources, machine, table, badge };
})();
