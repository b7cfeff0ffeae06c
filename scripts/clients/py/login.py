"""nats-py through weir, with every way to log in: connect, publish, request, reconnect. Usage: login.py CELLS.json"""

import asyncio
import json
import ssl
import sys

import nats

READY = "READY"


def credentials(cell):
    kind = cell["kind"]
    if kind == "user":
        return {"user": cell["user"], "password": cell["password"]}
    if kind == "token":
        return {"token": cell["token"]}
    if kind == "nkey":
        return {"nkeys_seed": cell["seed_file"]}
    if kind == "creds":
        return {"user_credentials": cell["creds_file"]}
    if kind == "bearer":
        return {"user_jwt_cb": lambda: cell["jwt"].encode(), "signature_cb": lambda nonce: b""}
    return {}


def security(cell):
    if "ca_file" not in cell:
        return {}
    return {"tls": ssl.create_default_context(cafile=cell["ca_file"]), "tls_handshake_first": "first" in cell}


async def use(client, name):
    """A message and a request, each answered by the client itself."""
    subject = f"login.py.{name}"

    async def answer(message):
        await message.respond(message.data)

    subscription = await client.subscribe(subject, cb=answer)
    try:
        await client.publish(subject, b"nobody asks")
        reply = await client.request(subject, b"who", timeout=20)
        assert reply.data == b"who"
    finally:
        await subscription.unsubscribe()


async def quiet(error):
    pass


async def run(cell, ready, go):
    name = cell["name"]
    connected = False
    try:
        again = asyncio.Event()

        async def reconnected():
            again.set()

        client = await nats.connect(
            cell["url"], reconnected_cb=reconnected, error_cb=quiet, allow_reconnect="bad" not in cell, connect_timeout=20,
            max_reconnect_attempts=60, **credentials(cell), **security(cell)
        )
        await use(client, name)
        connected = True
        ready()
        await go.wait()
        await asyncio.wait_for(again.wait(), 60)
        await use(client, name)
        await client.close()
        print(f"{name}: OK", flush=True)
    except Exception as error:
        # What libraries print about logins may hold secrets.
        said = getattr(error, "verify_message", "") if "bad" in cell else ""
        print(f"{name}: FAILED {type(error).__name__} {said}", flush=True)
        if not connected:
            ready()


async def main(path):
    with open(path) as file:
        cells = json.load(file)
    left, go = len(cells), asyncio.Event()

    def ready():
        nonlocal left
        left -= 1
        if left == 0:
            print(READY, flush=True)
            go.set()

    await asyncio.gather(*(run(cell, ready, go) for cell in cells))


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 150))
