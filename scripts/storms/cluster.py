"""A cluster of nats-servers, each with its monitoring port."""

import contextlib, json

import processes as p

PATIENCE = 120


class Server:
    """One server of a cluster. The weirs' account is WEIRS; `accounts` is the text of the clients'."""

    def __init__(self, stack, directory, name, routes, own, accounts, jetstream, most=65536):
        self.stack, self.directory, self.name = stack, directory, name
        self.port, self.monitor = p.free_port(), p.free_port()
        store = f"jetstream {{ store_dir: {directory}/{name} }}\n" if jetstream else ""
        urls = ", ".join(f"nats-route://127.0.0.1:{route}" for route in routes)
        with open(f"{directory}/{name}.conf", "w") as file:
            file.write(
                f"server_name: {name}\nlisten: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.monitor}\n"
                f"max_connections: {most}\n{store}"
                f"cluster {{ name: c, listen: 127.0.0.1:{own}, routes: [{urls}] }}\n"
                f"accounts {{\n  WEIRS {{ jetstream: enabled, users: [{{user: weir, password: pass}}] }}\n{accounts}\n}}\n"
            )
        self.start()

    def start(self):
        self.running = p.Running(self.stack, [p.NATS, "-c", f"{self.directory}/{self.name}.conf"], f"{self.directory}/{self.name}.log")

    def ask(self, path):
        with contextlib.suppress(OSError):
            return json.loads(p.get(self.monitor, path))
        return {}

    def of_account(self, account):
        found = [one["conns"] for one in self.ask("/accstatz?unused=1").get("account_statz", []) if one["acc"] == account]
        return sum(found)

    def list(self, account):
        """(begin, end or None) of all connections of the account that the server remembers."""
        def time_(text):
            seconds, _, rest = text[:-1].partition(".")
            return f"{seconds}.{rest:0<9}"
        told = self.ask(f"/connz?state=all&acc={account}&limit=100000").get("connections") or []
        return [(time_(one["start"]), time_(one["stop"]) if "stop" in one else None) for one in told]


def cluster(stack, directory, count, accounts, jetstream=lambda n: True):
    routes = [p.free_port() for _ in range(count)]
    those = [Server(stack, directory, f"n{n + 1}", routes, routes[n], accounts, jetstream(n)) for n in range(count)]
    p.until("all servers see each other", lambda: all(len({r["remote_id"] for r in s.ask("/routez").get("routes", [])}) == count - 1 for s in those), PATIENCE)
    p.until("JetStream has a leader", lambda: count == 1 or not any(map(jetstream, range(count))) or any(s.ask("/jsz").get("meta_cluster", {}).get("leader") for s in those), PATIENCE)
    return those
