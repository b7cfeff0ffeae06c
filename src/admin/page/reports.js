// What only a report knows: who was refused most in the last hour. The page asks /reportz every ten seconds, and leaves
// that out where there is no answer.
"use strict";

const reports = (() => {
  const { make, text, show } = dom;
  const { count, duration } = numbers;
  const byId = (id) => document.getElementById(id);

  /** Asked every so many milliseconds: an hour is no matter of a second. */
  const every = 10_000;
  const rows = 3;

  let askedAt = -every;
  let isThere = true;

  /** Asks, if it is time to, and draws the answer. What goes wrong here is no matter: the overview tells of it. */
  async function turn() {
    if (!isThere || performance.now() - askedAt < every) return;
    askedAt = performance.now();
    try {
      const answer = await fetch(`reportz?report=refusals&limit=${rows}`, {
        cache: "no-store",
        headers: { accept: "application/json" },
        signal: AbortSignal.timeout(5000),
      });
      isThere = answer.status !== 404;
      if (answer.ok) drawRefused((await answer.json()).refusals);
    } catch {
      // The next one may do better.
    }
  }

  /** Who is refused most, below the reasons. */
  function drawRefused(refusals) {
    const kinds = [["account", "accounts"], ["user", "users"], ["name", "names"], ["source", "sources"]];
    const all = kinds.map(([kind, list]) => [kind, refusals[list].slice(0, rows)]).filter(([, list]) => list.length > 0);
    const box = byId("refused-most");
    show(box, all.length > 0);
    dom.list(box, all, ([kind]) => kind, () => make("div", "", make("dt"), make("dd")), (row, [kind, list]) => {
      text(row.children[0], `${kind}, last ${duration(refusals.seconds, true)}`);
      text(row.children[1], list.map((one) => `${one.name}\u00a0${count(one.count)}`).join(", "));
    });
  }

  return { turn };
})();
