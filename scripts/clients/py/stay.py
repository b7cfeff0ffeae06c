"""nats-py through weir, while its session is moved from server to server: subscribes, works for a queue, asks,
publishes to JetStream and reads from it, until it is told to end. Prints READY, and at the end what it has had,
as JSON. Usage: stay.py nats://HOST:PORT"""

import asyncio
import json
import sys
from importlib.metadata import version

import nats


async def main(url):
    report = {"client": f"nats-py {version('nats-py')}", "disconnects": 0, "all": [], "jobs": []}
    report |= {"asked": 0, "unanswered": 0, "published": 0, "unconfirmed": 0}
    read_numbers = set()
    end = asyncio.Event()

    async def disconnected():
        report["disconnects"] += not end.is_set()

    async def ignored(_):
        pass

    client = await nats.connect(url, name="stay-py", connect_timeout=20, disconnected_cb=disconnected, error_cb=ignored)

    async def heard(message):
        if message.data == b"end":
            end.set()
        else:
            report["all"].append(int(message.data))

    async def job(message):
        report["jobs"].append(int(message.data))

    async def ask():
        while not end.is_set():
            report["asked"] += 1
            try:
                answer = await client.request("moves.echo", b"py", timeout=10)
                assert answer.data == b"py", answer.data
            except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
                report["unanswered"] += 1
            await asyncio.sleep(0.02)

    js = client.jetstream(timeout=5)

    async def publish():
        while not end.is_set():
            number = str(report["published"])
            try:
                # JetStream drops what comes twice under one id, where an acknowledgement was lost.
                await js.publish("moves.js.py", number.encode(), headers={"Nats-Msg-Id": "py" + number})
                report["published"] += 1
            except Exception:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)

    async def read():
        reader = await js.pull_subscribe("moves.js.py", durable="py")
        while not (end.is_set() and len(read_numbers) >= report["published"]):
            try:
                messages = await reader.fetch(10, timeout=1)
            except Exception:
                await asyncio.sleep(0.05)
                continue
            for message in messages:
                read_numbers.add(int(message.data))
                try:
                    await message.ack_sync(timeout=5)
                except Exception:
                    # A consumer's leader may be killed between what it stores and what it answers.
                    report["unconfirmed"] += 1

    await client.subscribe("moves.all", cb=heard)
    await client.subscribe("moves.jobs", queue="workers", cb=job)
    await client.flush()
    loops = [asyncio.ensure_future(loop()) for loop in (ask, publish, read)]
    print("READY", flush=True)
    await end.wait()
    # The last jobs are on their way.
    await asyncio.sleep(1)
    done, _ = await asyncio.wait(loops, timeout=60)
    for loop in done:
        loop.result()
    report["read"] = sorted(read_numbers)
    print(json.dumps(report), flush=True)
    await client.close()


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 170))
