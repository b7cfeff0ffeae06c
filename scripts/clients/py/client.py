"""nats-py through weir: connect, publish, subscribe, request, JetStream. Usage: client.py nats://HOST:PORT"""

import asyncio
import sys
from importlib.metadata import version

import nats
from nats.errors import NoRespondersError, TimeoutError
from nats.js.errors import ServiceUnavailableError


async def answer(message):
    await message.respond(message.data.upper())


async def main(url):
    ours = await nats.connect(url, name="matrix-py-a", connect_timeout=20)
    theirs = await nats.connect(url, name="matrix-py-b", connect_timeout=20)
    assert not ours.discovered_servers, f"weir must not lead past itself: {ours.discovered_servers}"

    numbers = await ours.subscribe("matrix.py.numbers")
    await ours.subscribe("matrix.py.upper", cb=answer)
    await ours.flush()

    # Once the other client's request is answered, all servers know both subscriptions.
    for _ in range(100):
        try:
            reply = await theirs.request("matrix.py.upper", b"request", timeout=5)
            break
        except (NoRespondersError, TimeoutError):
            await asyncio.sleep(0.1)
    assert reply.data == b"REQUEST", reply.data

    for i in range(100):
        await theirs.publish("matrix.py.numbers", str(i).encode() * (1 + i * 50))
    for i in range(100):
        message = await numbers.next_msg(timeout=30)
        assert message.data == str(i).encode() * (1 + i * 50), f"message {i}"

    js = ours.jetstream(timeout=30)
    await js.add_stream(name="MATRIX_PY", subjects=["matrix.py.js.*"])
    for i in range(50):
        ack = await js.publish(f"matrix.py.js.{i}", str(i).encode())
        assert ack.seq == i + 1, ack
    reader = await theirs.jetstream(timeout=30).pull_subscribe("matrix.py.js.*", durable="reader")
    seen = 0
    unavailable = 0
    while seen < 50:
        try:
            batch = await reader.fetch(10, timeout=30)
        except ServiceUnavailableError:
            # The servers tell each other where the new consumer is a moment after it has its leader. Until then a server
            # that has not heard of it answers that nobody responds, past weir too; an application asks again.
            unavailable += 1
            assert unavailable < 100, "the consumer stays unavailable"
            await asyncio.sleep(0.1)
            continue
        for message in batch:
            assert message.data == str(seen).encode(), f"stream message {seen}: {message.data}"
            await message.ack()
            seen += 1
    assert await js.delete_stream("MATRIX_PY")

    await theirs.drain()
    await ours.drain()
    print(f"nats-py {version('nats-py')}: OK")


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 120))
