#!/usr/bin/env python3
"""Many streaming clients at once on `retort serve`, on loopback only: is every reply the one computed alone, how late, how many tokens/s.

usage: serve_load.py RETORT MODEL [--clients 100] [--seconds 60] [--requests 24] [--tokens 32] [--rough 0.1] [--watch 0]
                     [-- FLAGS OF serve]

Each of `clients` (at most 2,000) asks again and again, for `seconds` (at most 3,600), one of `requests` different requests of mixed lengths;
each of those was asked alone before. A share `rough` of the turns is none: the client leaves in mid-stream, reads slowly, or sends nonsense.
With `--watch N` the server's memory is printed every N seconds. The server's own time limit is ten hours unless the flags say
otherwise: an answer that it cut short would look wrong. Refusals (429, 503) are counted, waited for as Retry-After says, and no error. Exit code 1 when a reply was wrong.
"""
import argparse
import asyncio
import json
import random
import re
import resource
import subprocess
import sys
import time

WORDS = "the river had been low for weeks and nobody in the village could say when it would rain again".split()


def request_of(i, tokens):
    rng = random.Random(i)
    length = rng.choice([3, 10, 30, 100, 250])
    prompt = " ".join(rng.choice(WORDS) for _ in range(length))
    return {"prompt": prompt, "max_tokens": rng.choice([1, tokens // 2, tokens]) or 1, "seed": i, "temperature": rng.choice([0, 0.8]), "ignore_eos": True}


async def open_request(port, body):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = body if isinstance(body, bytes) else json.dumps({**body, "stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    return reader, writer, int(head.split()[1]), head


async def ask(port, body, slow=0.0, leave_after=None, arrivals=None):
    """status, text, seconds to the first token, seconds, pieces, Retry-After; `arrivals` gets the time of every piece"""
    started = time.perf_counter()
    reader, writer, status, head = await open_request(port, body)
    text, first, pieces, done = "", None, 0, False
    try:
        if status != 200:
            await reader.read()
            found = re.search(r"^Retry-After: (\d+)", head, re.M | re.I)
            return status, "", 0, 0, 0, int(found.group(1)) if found else None
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                done = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return event["error"]["code"], "", 0, 0, 0, 1
            if not event["choices"]:
                continue
            now = time.perf_counter()
            first = first or now - started
            if arrivals is not None:
                arrivals.append(now)
            text += event["choices"][0]["text"]
            pieces += 1
            if leave_after and pieces >= leave_after:
                return -1, text, first, 0, pieces, None
            if slow:
                await asyncio.sleep(slow)
        return (200 if done else -2), text, first, time.perf_counter() - started, pieces, None
    finally:
        writer.close()


async def client(port, number, jobs, expected, end, rough, tally):
    rng = random.Random(1000 + number)
    while time.perf_counter() < end:
        job = rng.randrange(len(jobs))
        kind = rng.choice(["leave", "slow", "nonsense"]) if rng.random() < rough else "plain"
        try:
            if kind == "nonsense":
                status, *_ = await ask(port, rng.choice([b"{", b"[]", b'{"prompt": 5}', b"\xff" * 50]))
                tally["nonsense"] += 1
                tally["wrong"] += status not in (400, 429, 503)
                continue
            status, text, first, seconds, pieces, wait = await ask(port, jobs[job], slow=0.02 if kind == "slow" else 0,
                                                                   leave_after=2 if kind == "leave" else None)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            tally["broken"] += 1
            tally["reasons"].add(repr(error)[:80])
            continue
        if status in (429, 503):
            tally["refused"] += 1
            tally["wrong"] += wait is None
            await asyncio.sleep(min(wait or 1, 5) * rng.uniform(0.5, 1.5))
        elif status == -1:
            tally["left"] += 1
            tally["wrong"] += not expected[job].startswith(text)
        elif status != 200 or text != expected[job]:
            tally["wrong"] += 1
            tally["reasons"].add(f"status {status}, request {job}")
        else:
            tally["right"] += 1
            tally["tokens"] += jobs[job]["max_tokens"]
            if kind == "plain":
                tally["first"].append(first)
                tally["total"].append(seconds)


def memory_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return {k: int(v) / 1024 for k, v in re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status.read(), re.M)}


async def watch(pid, every):
    started = time.perf_counter()
    while every > 0:
        await asyncio.sleep(every)
        print(f"after {time.perf_counter() - started:.0f} s: {memory_mb(pid)['VmRSS']:.1f} MB", flush=True)


def percentiles(values):
    values = sorted(values)
    return ", ".join(f"p{p} {values[min(len(values) - 1, len(values) * p // 100)]:.2f}" for p in (50, 90, 99)) if values else "none"


async def load(port, pid, arguments):
    jobs = [request_of(i, arguments.tokens) for i in range(arguments.requests)]
    expected = []
    for job in jobs:
        status, text, *_ = await ask(port, job)
        assert status == 200, (status, job)
        expected.append(text)
    print(f"{len(jobs)} requests computed alone; memory {memory_mb(pid)['VmRSS']:.0f} MB", flush=True)
    tally = {"right": 0, "wrong": 0, "refused": 0, "left": 0, "nonsense": 0, "broken": 0, "tokens": 0, "first": [], "total": [], "reasons": set()}
    started = time.perf_counter()
    watching = asyncio.create_task(watch(pid, arguments.watch))
    await asyncio.gather(*(client(port, i, jobs, expected, started + arguments.seconds, arguments.rough, tally) for i in range(arguments.clients)))
    watching.cancel()
    seconds = time.perf_counter() - started
    memory = memory_mb(pid)
    print(f"{arguments.clients} clients, {seconds:.1f} s: {tally['right']} right, {tally['wrong']} wrong, {tally['broken']} broken, {tally['refused']} refused, "
          f"{tally['left']} left in mid-stream, {tally['nonsense']} nonsense")
    print(f"{tally['tokens'] / seconds:.1f} tokens/s in whole replies")
    print(f"seconds to the first token: {percentiles(tally['first'])}; to the last: {percentiles(tally['total'])}")
    print(f"memory {memory['VmRSS']:.0f} MB, at most {memory['VmHWM']:.0f} MB")
    for reason in sorted(tally["reasons"]):
        print(f"  {reason}")
    return tally["wrong"] == 0 and tally["broken"] == 0 and tally["right"] > 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("retort")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rough", type=float, default=0.1)
    parser.add_argument("--watch", type=float, default=0)
    mine, theirs = sys.argv[1:], []
    if "--" in mine:
        theirs = mine[mine.index("--") + 1:]
        mine = mine[:mine.index("--")]
    arguments = parser.parse_args(mine)
    arguments.clients = min(arguments.clients, 2000)
    arguments.seconds = min(arguments.seconds, 3600)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = subprocess.Popen([arguments.retort, "serve", arguments.model, "--port", "0", "--timeout", "36000", *theirs], stderr=subprocess.PIPE, text=True)
    try:
        line = server.stderr.readline()
        found = re.search(r"http://127.0.0.1:(\d+)", line)
        assert found, line
        fine = asyncio.run(load(int(found.group(1)), server.pid, arguments))
        server.terminate()
        fine = server.wait(60) == 0 and fine
    finally:
        server.kill()
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
