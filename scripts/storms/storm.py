"""Runs `weir storm` and reads its report."""

import json, subprocess

from processes import WEIR


def begin_storm(urls, clients, seconds, like="go", more=(), nice=0):
    """With a `nice` of 19 the clients leave the CPU to servers and weirs, as if they had machines of their own."""
    command = ["nice", "-n", str(nice), WEIR, "storm", "--json", "--clients", str(clients)]
    command += ["--like", like, "--for", f"{seconds:.0f}s", *more]
    for url in urls:
        command += ["--url", url]
    # With --json it shows no progress; its stderr holds only errors.
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def end_storm(process):
    report = process.communicate()[0]
    if not report:
        raise SystemExit(f"weir storm has no report: exit code {process.returncode}")
    return json.loads(report)


def storm(*args, **kwargs):
    return end_storm(begin_storm(*args, **kwargs))


def seconds(report):
    return report["phases"][0]["seconds_to_100"]


def told(report, cap):
    phase, all_in = report["phases"][0], seconds(report)
    time_ = f"{all_in:.2f} s" if all_in else f"{phase['came_in']} of {report['clients']} in {cap} s"
    return f"{time_}, {phase['tries']} tries, {phase['most_tries']} at most, {report['given_up']} given up"


def back(phase):
    times = [phase[f"seconds_to_{share}"] for share in (50, 90, 99, 100)]
    return " / ".join(f"{time_:.2f}" if time_ else "not" for time_ in times) + " s"
