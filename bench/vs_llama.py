#!/usr/bin/env python3
"""Retort beside llama.cpp in one run: the same threads, in turn, round after round; above 1, Retort is faster.

    bench/vs_llama.py --llama-bench PATH --model TEACHER.gguf [--peer OTHER.gguf ...] [--student FOLDER] [--threads N] [--rounds N]

Retort runs TEACHER.gguf as it is. llama.cpp runs it and every --peer file (the same model in its other formats: llama-quantize
makes Q4_0, Q8_0 and BF16), each with flash attention and without; the best of them counts. The student's rows are set against
llama.cpp's teacher at the same context. Medians of the rounds.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

RETORT = os.environ.get("RETORT", str(pathlib.Path(__file__).resolve().parent.parent / "build/release/bin/retort"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer", nargs="*", default=[])
    parser.add_argument("--student")
    parser.add_argument("--student-weights", default="q4_1")
    parser.add_argument("--prefill", default="512", help="prompt lengths, separated by commas")
    parser.add_argument("--decode", default="128,4096", help="contexts to decode at, separated by commas")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def output(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def ours(model, weights, contexts, threads):
    """{context: (prefill, decode)} in tokens/s; prefill is from an empty state to the context."""
    rows = {}
    for context in contexts:
        found = output([RETORT, "bench", model, "-t", str(threads), "--weights", weights, "--contexts", str(context), "-n", "32", "-r", "2", "--json"])
        row = found["models"][0]["results"][-1]
        rows[context] = row["prefill_tokens_per_second"], row["decode_tokens_per_second"]
    return rows


def theirs(bench, model, prefill, decode, threads):
    """{("prefill" | "decode", context): {label: tokens/s}}"""
    rows = {}
    for flash in "01":
        base = [bench, "-m", model, "-t", str(threads), "-fa", flash, "-r", "1", "-o", "json"]
        label = f"{pathlib.Path(model).stem.split('.')[-1]}{' fa' if flash == '1' else ''}"
        for context in prefill:
            rows.setdefault(("prefill", context), {})[label] = output(base + ["-p", str(context), "-n", "0"])[-1]["avg_ts"]
        for context in decode:
            rows.setdefault(("decode", context), {})[label] = output(base + ["-p", "0", "-n", "32", "-d", str(context)])[-1]["avg_ts"]
    return rows


def main():
    options = arguments()
    prefill, decode = ([int(n) for n in text.split(",")] for text in (options.prefill, options.decode))
    contexts = sorted(set(prefill + decode))
    samples = {}  # (who, what, context, label) -> [tokens/s]
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        models = [("teacher", options.model, "auto")] + ([("student", options.student, options.student_weights)] if options.student else [])
        for who, model, weights in models:
            for context, (fill, step) in ours(model, weights, contexts, options.threads).items():
                samples.setdefault((who, "prefill", context, ""), []).append(fill)
                samples.setdefault((who, "decode", context, ""), []).append(step)
        for model in [options.model] + options.peer:
            for (what, context), found in theirs(options.llama_bench, model, prefill, decode, options.threads).items():
                for label, rate in found.items():
                    samples.setdefault(("llama.cpp", what, context, label), []).append(rate)
    median = {key: statistics.median(values) for key, values in samples.items()}
    rows = []
    for what, wanted in (("prefill", prefill), ("decode", decode)):
        for context in wanted:
            peers = {label: rate for (who, kind, at, label), rate in median.items() if (who, kind, at) == ("llama.cpp", what, context)}
            best = max(peers, key=peers.get)
            for who in ("teacher", "student"):
                if (who, what, context, "") in median:
                    mine = median[who, what, context, ""]
                    rows.append({"model": who, "what": what, "context": context, "retort": mine, "llama_cpp": peers[best],
                                 "llama_cpp_setting": best, "ratio": mine / peers[best], "all": peers})
    if options.json:
        print(json.dumps({"threads": options.threads, "rounds": options.rounds, "rows": rows}, indent=1))
        return
    print(f"| tokens/s, {options.threads} threads, median of {options.rounds} | Retort | llama.cpp's teacher, best setting | ratio |\n|---|---:|---:|---:|")
    for row in rows:
        print(f"| {row['model']}, {row['what']} {'of' if row['what'] == 'prefill' else 'at'} {row['context']:,} | {row['retort']:.0f} | "
              f"{row['llama_cpp']:.0f} ({row['llama_cpp_setting']}) | {row['ratio']:.2f} |")


main()
