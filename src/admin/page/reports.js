// What only a report knows: who leaks connections, and who is refused most. The page asks /reportz every ten seconds,
// and leaves these sections out where there is no answer.
"use strict";

const reports = (() => {
  const { make, text, show } = dom;
  const { count, rate, duration } = numbers;
  const byId = (id) => document.getElementById(id);

  /** Asked every so many milliseconds: a leak is no matter of a second. */
  const every = 10_000;
  const rows = 8;

  let askedAt = -every;
  let isThere = true;

  /** Asks, if it is time to, and draws the answer. What goes wrong here is no matter: the overview tells of it. */
  async function turn() {
    if (!isThere || performance.now() - askedAt < every) return;
    askedAt = performance.now();
    try {
      const answer = await fetch(`reportz?report=leaks,refusals&limit=${rows}`, {
        cache: "no-store",
        headers: { accept: "application/json" },
        signal: AbortSignal.timeout(5000),
      });
      isThere = answer.status !== 404;
      if (answer.ok) draw(await answer.json());
    } catch {
      // The next one may do better.
    }
  }

  function draw({ leaks, refusals }) {
    show(byId("leaks-card"), Boolean(leaks));
    if (leaks) drawLeaks(leaks);
    if (refusals) drawRefused(refusals);
  }

  /** What sessions have in common, in words. */
  function groupName({ by, account, group }) {
    return by === "source" ? `source ${group}` : `${by} ${group}${account ? ` of ${account}` : ""}`;
  }

  function drawLeaks(leaks) {
    text(byId("leaks-sum"), `${count(leaks.idle_sessions)} of ${count(leaks.sessions)} sessions moved nothing for `
      + `${duration(leaks.idle_after_seconds, true)}, ${count(leaks.unnamed_sessions)} have no name`);
    const most = Math.max(1, ...leaks.growing.map((one) => one.connections));
    sections.table(byId("leaks"), {
      columns: [["only grows", "wide"], ["connections", "number"], ["idle", "number"], ["more per min", "number"]],
      items: leaks.growing,
      key: groupName,
      fill: (cells, one) => {
        sections.named(cells[0], groupName(one), "span", [{ of: "high", value: one.connections }], most);
        [count(one.connections), count(one.idle), rate(one.per_minute)].forEach((shown, at) => text(cells[at + 1], shown));
        cells[3].classList.add("high");
      },
      nothing: "No name, user or source has connections that only grow.",
    });
  }

  /** Who is refused most, below the reasons. */
  function drawRefused(refusals) {
    const kinds = [["account", "accounts"], ["user", "users"], ["name", "names"], ["source", "sources"]];
    const all = kinds.map(([kind, list]) => [kind, refusals[list].slice(0, 3)]).filter(([, list]) => list.length > 0);
    const box = byId("refused-most");
    show(box, all.length > 0);
    dom.list(box, all, ([kind]) => kind, () => make("div", "", make("dt"), make("dd")), (row, [kind, list]) => {
      text(row.children[0], `${kind}, last ${duration(refusals.seconds, true)}`);
      text(row.children[1], list.map((one) => `${one.name} ${count(one.count)}`).join(", "));
    });
  }

  return { turn };
})();
