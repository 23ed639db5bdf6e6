#!/usr/bin/env python3
"""`retort serve` beside llama-server under the same mixed streaming load, in turn, round after round: tokens/s, latencies, ratios.

    bench/vs_llama_server.py RETORT LLAMA_SERVER MODEL.gguf [STUDENT] [--clients 16] [--slots 16] [--threads N] [--requests 4] [--rounds 3]
                             [--tokens 64] [--cache] [--student-weights q4_1]

Both serve the same file with the same number of slots and threads; the student's row is set against llama-server's teacher. Each of `clients`
sends `requests` requests, one after another: prompts of 3 to 250 words, answers of a half to all of `tokens` tokens, greedy and sampled; all servers
get the same ones. Every answer has its whole length (ignore_eos). --cache: prompts begin with a text that they share, and the servers may use that;
without it they may not. Medians of the rounds; above 1, Retort is better.
"""
import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import serve_load


def request_of(number, arguments):
    rng = random.Random(number)
    length = rng.choice([3, 10, 30, 100, 250])
    words = [rng.choice(serve_load.WORDS) for _ in range(length)]
    if arguments.cache:
        shared = random.Random(1)
        words = [shared.choice(serve_load.WORDS) for _ in range(400)] + words
    return {"prompt": " ".join(words), "max_tokens": rng.choice([arguments.tokens // 2, arguments.tokens]), "seed": number, "ignore_eos": True,
            "temperature": rng.choice([0, 0.8]), "cache_prompt": arguments.cache}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(command, port):
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return server
        except OSError:
            pass
        if server.poll() is not None:
            break
        time.sleep(0.1)
    server.kill()
    sys.exit(f"it did not start: {' '.join(command)}")


async def client(port, number, arguments, measured):
    for i in range(arguments.requests):
        body, arrivals, started = request_of(number * 1000 + i, arguments), [], time.perf_counter()
        status, *_ = await serve_load.ask(port, body, arrivals=arrivals)
        if status != 200 or not arrivals:
            sys.exit(f"port {port}: status {status} for {body}")
        measured["tokens"] += body["max_tokens"]
        measured["first"].append(arrivals[0] - started)
        measured["total"].append(time.perf_counter() - started)
        measured["gap"] += [b - a for a, b in zip(arrivals, arrivals[1:])]


async def load(port, arguments):
    await serve_load.ask(port, {"prompt": "a", "max_tokens": 4, "ignore_eos": True})
    measured = {"tokens": 0, "first": [], "total": [], "gap": []}
    started = time.perf_counter()
    await asyncio.gather(*(client(port, i, arguments, measured) for i in range(arguments.clients)))
    return measured, time.perf_counter() - started


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, len(values) * p // 100)]


def one_run(command, arguments):
    port = free_port()
    server = start([*command, "--host", "127.0.0.1", "--port", str(port)], port)
    try:
        measured, seconds = asyncio.run(load(port, arguments))
        row = {"tokens/s": measured["tokens"] / seconds}
        for name, key in (("first token", "first"), ("between pieces", "gap"), ("whole answer", "total")):
            for p in (50, 99):
                row[f"{name}, p{p} (s)"] = percentile(measured[key], p)
        row["memory (MB)"] = serve_load.memory_mb(server.pid)["VmHWM"]
        return row
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retort")
    parser.add_argument("llama_server")
    parser.add_argument("model")
    parser.add_argument("student", nargs="?")
    for flag, default in (("--clients", 16), ("--slots", 16), ("--threads", os.cpu_count()), ("--requests", 4), ("--rounds", 3), ("--tokens", 64)):
        parser.add_argument(flag, type=int, default=default)
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--student-weights", default="q4_1")
    arguments = parser.parse_args()
    context = 2048
    ours = ["-np", str(arguments.slots), "-t", str(arguments.threads), "-c", str(context)]
    theirs = [*([sys.executable] if arguments.llama_server.endswith(".py") else []), arguments.llama_server, "-m", arguments.model, "-np", str(arguments.slots), "-t", str(arguments.threads), "-tb", str(arguments.threads), "-c",
              str(context * arguments.slots), "-fa", "on", "--no-webui"]
    servers = {"llama-server": theirs, "Retort": [arguments.retort, "serve", arguments.model, *ours]}
    if arguments.student:
        servers["Retort, student"] = [arguments.retort, "serve", arguments.student, "--weights", arguments.student_weights, *ours]
    rounds = {name: [] for name in servers}
    for i in range(arguments.rounds):
        for name, command in servers.items():
            rounds[name].append(one_run(command, arguments))
            print(f"round {i + 1}: {name}: {rounds[name][-1]['tokens/s']:.1f} tokens/s", file=sys.stderr, flush=True)
    medians = {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in rounds.items()}
    names = list(servers)
    print("| | " + " | ".join([*names, *(f"{n}: ratio" for n in names[1:])]) + " |")
    print("|---|" + "---:|" * (2 * len(names) - 1))
    for key, base in medians["llama-server"].items():
        values = [medians[n][key] for n in names]
        ratios = [v / base if key == "tokens/s" else base / v for v in values[1:]]
        print(f"| {key} | " + " | ".join([*(f"{v:.3g}" for v in values), *(f"{r:.2f}" for r in ratios)]) + " |")


main()
