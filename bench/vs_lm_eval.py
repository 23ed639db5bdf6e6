#!/usr/bin/env python3
"""`retort eval` beside `lm-eval --model hf` in one run: the same task, documents and threads, in turn; above 1, Retort is faster.

    bench/vs_lm_eval.py --model FOLDER [--gguf FILE] --data FOLDER [--tasks A,B] [--limit N] [--shots N] [--batch-sizes 1,8] [--rounds N]

FOLDER is a Hugging Face folder (`retort convert MODEL --to hf --out FOLDER`). Retort runs it in f32, as the harness does here, and in bf16, and the
GGUF that it came from if that is named. Of the harness's batch sizes the fastest counts. Starting programs and loading models counts on neither side: the harness's time is that
of simple_evaluate() with a loaded model, Retort's the difference to a run of one document. Wall time, and processor time, which a busy
machine disturbs less.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
ROOT = pathlib.Path(__file__).resolve().parent.parent
RETORT = os.environ.get("RETORT", str(ROOT / "build/release/bin/retort"))
sys.path.insert(0, str(ROOT / "tests/oracles"))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf")
    parser.add_argument("--data", required=True)
    parser.add_argument("--tasks", default="arc_easy,hellaswag,winogrande")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--batch-sizes", default="1,8")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(model, data, task, limit, options):
    """Wall and processor seconds, and the accuracy."""
    path, *weights = model
    command = [RETORT, "eval", path, "--data", data, "--tasks", task, "--limit", str(limit), "--num-fewshot", str(options.shots),
               "-t", str(options.threads), "--json", *weights]
    started, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started, processor_seconds() - before
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return seconds, json.loads(done.stdout)["results"][task]["acc,none"]


def main():
    options = arguments()
    import lm_eval_parity as parity  # skips with a reason when a package is absent
    import torch
    torch.set_num_threads(options.threads)
    batch_sizes = [int(n) for n in options.batch_sizes.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as data:
        parity.serve_to_harness(parity.write_data(data, options.data, None))
        backends = {n: parity.HFLM(pretrained=options.model, dtype="float32", device="cpu", batch_size=n) for n in batch_sizes}
        models = {"folder, f32": (options.model, "--weights", "f32"), "folder, bf16": (options.model, "--weights", "bf16")}
        models |= {"gguf": (options.gguf,)} if options.gguf else {}
        for task in options.tasks.split(","):
            seconds, accuracy = {}, {}
            for _ in range(options.rounds):
                for name, model in models.items():
                    start, _ = ours(model, data, task, 1, options)
                    total, accuracy[name] = ours(model, data, task, options.limit, options)
                    seconds.setdefault(name, []).append((total[0] - start[0], total[1] - start[1]))
                for n, backend in backends.items():
                    started, before = time.perf_counter(), time.process_time()
                    found = parity.lm_eval.simple_evaluate(model=backend, tasks=[task], num_fewshot=options.shots, limit=options.limit,
                                                           bootstrap_iters=0)
                    seconds.setdefault(f"hf, batch {n}", []).append((time.perf_counter() - started, time.process_time() - before))
                    accuracy[f"hf, batch {n}"] = found["results"][task]["acc,none"]
            median = {name: [statistics.median(column) for column in zip(*values)] for name, values in seconds.items()}
            best = min((name for name in median if name.startswith("hf")), key=lambda name: median[name][0])
            rows += [(task, name, median[name], best, median[best], accuracy[name], accuracy[best]) for name in models]
    print(f"| {options.limit} documents, {options.shots} examples, {options.threads} threads, median of {options.rounds} "
          "| Retort, s (processor) | lm-eval, s (processor) | ratio | of processor time | acc |\n|---|---:|---:|---:|---:|---:|")
    for task, name, mine, best, theirs, a, b in rows:
        print(f"| {task}, {name} beside {best} | {mine[0]:.2f} ({mine[1]:.2f}) | {theirs[0]:.2f} ({theirs[1]:.2f}) | {theirs[0] / mine[0]:.1f} "
              f"| {theirs[1] / mine[1]:.1f} | {a:.3f}, {b:.3f} |")


main()
