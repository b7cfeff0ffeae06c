"""The storms of scripts/storm-bench. All processes run on loopback; every figure is from one run."""

import argparse, sys

from agreement import agreement
from at_once import bcrypt6, bcrypt11, plain
from beside import accounts, callout, latency
from over_tls import tls, tls_latency
from table import show
from trouble import death, readings

CASES = {
    "bcrypt11": bcrypt11,
    "bcrypt6": bcrypt6,
    "plain": plain,
    "accounts": lambda _: accounts(),
    "latency": lambda _: latency(),
    "callout": lambda _: callout(),
    "death": lambda _: death(),
    "readings": lambda _: readings(),
    "agreement": agreement,
    "tls": lambda _: tls("ecdsa"),
    "tlsrsa": lambda _: tls("rsa"),
    "tlslatency": lambda _: tls_latency(),
}
WHO = ("direct", "HAProxy", "weir")


def some_of(known):
    def read(text):
        chosen = text.split(",")
        unknown = [one for one in chosen if one not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: some of {', '.join(known)}")
        return chosen

    return read


def main():
    parser = argparse.ArgumentParser(prog="scripts/storm-bench")
    parser.add_argument("--only", type=some_of(CASES), default=list(CASES), help="some of " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="of the plain storm, which is over in a second")
    parser.add_argument("--who", type=some_of(WHO), default=WHO, help="in bcrypt11, bcrypt6 and plain; some of " + ", ".join(WHO))
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[50, 200, 500], help="of bcrypt11's storms")
    options = parser.parse_args()
    for case in options.only:
        print(f"storm-bench: {case}", file=sys.stderr, flush=True)
        CASES[case](options)
    return 0 if show() else 1


if __name__ == "__main__":
    sys.exit(main())
