"""What a measurement needs before it can begin: nats-server, weir, and descriptors."""

import os, resource, subprocess, sys


def prepare(name, root):
    """For the script `name` of the repository at `root`: both programs are built or got where the environment names
    none."""
    os.chdir(root)
    if "NATS_SERVER" not in os.environ:
        os.environ["NATS_SERVER"] = subprocess.check_output(["scripts/nats-server"], text=True).strip()
    if "WEIR_BIN" not in os.environ:
        print(f"{name}: building weir", file=sys.stderr, flush=True)
        subprocess.check_call(["cargo", "build", "--quiet", "--release", "--bin", "weir"])
        os.environ["WEIR_BIN"] = f"{os.environ.get('CARGO_TARGET_DIR', 'target')}/release/weir"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
