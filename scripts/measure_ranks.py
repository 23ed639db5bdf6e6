#!/usr/bin/env python3
"""Memory per rank and time per step of a recipe on several numbers of ranks on this machine (docs/scale.md).

measure_ranks.py RETORT_TRAIN RANKS[,RANKS...] -- RECIPE --teacher MODEL --data FILE... [flags of distill]

Each number of ranks is one run in a folder that is removed. Memory is anonymous resident memory (RssAnon: what a process has made, without mapped
files), sampled ten times a second: the most while stages trained, of the rank that has most.
"""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def anonymous_bytes(pid):
    try:
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def rows_of(folder):
    try:
        return [json.loads(line) for line in open(folder / "metrics.jsonl") if line.endswith("\n")]
    except OSError:
        return []


def measure(program, ranks, flags):
    folder = pathlib.Path(tempfile.mkdtemp())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    processes = []
    for rank in range(ranks):
        own = {} if ranks == 1 else {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                                     "MASTER_PORT": port}
        processes.append(subprocess.Popen([program, "distill", *flags, "--out", str(folder / "run")], env=os.environ | own, stdout=subprocess.DEVNULL,
                                          stderr=None if rank == 0 else subprocess.DEVNULL))
    start, training = 0, {}
    while any(p.poll() is None for p in processes):
        most = max(anonymous_bytes(p.pid) for p in processes)
        rows = rows_of(folder / "run")
        stage = rows[-1]["stage"] if rows else None
        if stage is None:
            start = max(start, most)
        else:
            training[stage] = max(training.get(stage, 0), most)
        time.sleep(0.1)
    codes = [p.returncode for p in processes]
    rows = rows_of(folder / "run")
    shutil.rmtree(folder)
    if any(codes):
        sys.exit(f"{ranks} ranks: exit codes {codes}")
    for stage in training:
        of_stage = [r for r in rows if r["stage"] == stage]
        seconds = (of_stage[-1]["time"] - of_stage[0]["time"]) / max(1, len(of_stage) - 1)
        print(f"| {ranks} | {stage} | {start / 1e6:.0f} | {training[stage] / 1e6:.0f} | {seconds:.2f} | {of_stage[0]['loss']:.6f} | {of_stage[-1]['loss']:.6f} |",
              flush=True)


def main():
    split = sys.argv.index("--")
    program, numbers = sys.argv[1:3]
    print("| ranks | stage | MB at the start | MB while training | s a step | first loss | last loss |\n|---|---|---|---|---|---|---|")
    for ranks in numbers.split(","):
        measure(program, int(ranks), sys.argv[split + 1:])


main()
