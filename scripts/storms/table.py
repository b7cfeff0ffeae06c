"""The table: what was measured, the target, and whether it was met."""

import sys

rows = []


def row(case, what, value, target="", met=None):
    rows.append((case, what, value, target, met))
    verdict = "" if met is None else ("met" if met else "NOT MET")
    print(f"  {case}: {what}: {value}  {target}  {verdict}", file=sys.stderr, flush=True)


def show():
    """Prints the table; returns whether all targets were met."""
    print("| case | what | measured | target | met |\n|---|---|---|---|---|")
    for case, what, value, target, met in rows:
        print(f"| {case} | {what} | {value} | {target} | {'' if met is None else 'yes' if met else '**no**'} |")
    return not any(met is False for *_, met in rows)
