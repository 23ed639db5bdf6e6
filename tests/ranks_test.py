#!/usr/bin/env python3
"""One run on 1, 2 and 4 ranks: the same losses at every step and the same students; what recomputing and dying change of it (nothing).

ranks_test.py RETORT_TRAIN TINY_MODEL [TORCHRUN]
"""
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import math

PROGRAM, TINY_MODEL = map(os.path.abspath, sys.argv[1:3])
TORCHRUN = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 and os.access(sys.argv[3], os.X_OK) else None
if not os.access(PROGRAM, os.X_OK):
    print("skipped: retort-train was not built")
    sys.exit(77)

# Sums of f32 in another order: the first steps of an end-to-end stage agree to f32's precision. Layer-wise stages multiply all rows of a rank at
# once and round that to bf16, so they agree to that. After some steps weights that differ in their last bit become bf16 that differ in theirs.
FIRST_STEPS, LATER = 2, 2e-2
NORMS = 2e-3
STEPS = 6
HEAD = """
name: ranks
student: {mixer: gla, window: 8, sinks: 2}
data: {held_out: 0.1, calibration_tokens: 512}
defaults: {seq: 48, batch: 4, steps: %d, lr: 1e-3, clip: 1}
stages:
""" % STEPS
LAYERS = HEAD + """
- {name: align, loss: {attn_out: {form: relative}, matrix: 0.5}}
- {name: blocks, loss: {hidden: {form: l2}}, ema: 0.5, train: [mixers, mlp, norms], accumulate: 2}
"""
WHOLE = HEAD + """
- {name: kd, loss: {logits: {form: kl}, ce: 0.2}, train: [all], logit_fraction: 0.5, ema: 0.9, accumulate: 2}
- {name: sft, loss: {ce: {mask: labels}}, train: [mixers]}
- {name: dpo, loss: {dpo: {reference: start}}, seq: 96}
"""

# Attention that goes layer by layer, a cache of logits, LoRA with a second teacher.
MORE = HEAD.replace("sinks: 2}", "sinks: 2, stepwise: one_by_one}") + """
- {name: steps, loss: {logits: {form: kl}}, train: [mixers]}
- {name: cached, loss: {logits: {form: kl, cache: kept, top_k: 8}}, train: [all], schedule: {plateau: {every: 2, patience: 1, factor: 0.5}}}
- {name: low, loss: {logits: {form: kl}, ce: 0.1}, train: [norms, {lora: {r: 2, alpha: 4, on: [q, o, up]}}], switch_teacher: {to: teacher, when: {step: 3}}}
- {name: heads, loss: {attn_out: {form: relative}}, train: [{lora: {r: 2, alpha: 4, on: [v]}}]}
"""

failures = []


def check(condition, *what):
    if not condition:
        failures.append(" ".join(str(w) for w in what))
        print("FAILED:", failures[-1], flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(ranks, out, *more, recipe="whole.yaml", last=(), absent=(), patience=None, port=None):
    """The processes of a run, by rank, as torchrun would start them. `last`: flags of the last one alone; `absent`: ranks that are not started;
    `port`: where they meet, if others are to come later."""
    command = [PROGRAM, "distill", recipe, "--teacher", "teacher", "--data", "corpus.jsonl", "pairs.jsonl", "--out", out, *more]
    command += [] if "--threads" in more else ["--threads", "1"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE")}
    port, processes = port or str(free_port()), []
    for rank in range(ranks):
        own = {} if ranks == 1 else {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own |= {"RETORT_RANKS_TIMEOUT": str(patience)} if patience else {}
        flags = list(last) if rank + 1 == ranks else []
        if rank in absent:
            continue
        processes.append(subprocess.Popen(command + flags, env=environment | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return processes


def finish(processes):
    """Exit codes and standard errors, by rank."""
    said = [p.communicate(timeout=300)[1] for p in processes]
    return [p.returncode for p in processes], said


def run(ranks, out, *more, **recipe):
    codes, said = finish(start(ranks, out, *more, **recipe))
    check(codes == [0] * ranks, f"{ranks} ranks, {out} {more}: exit codes {codes}: {said}")
    check(all(not text for text in said[1:]), f"{ranks} ranks, {out}: other ranks say {said[1:]}")


def metrics(out):
    return [json.loads(line) for line in open(pathlib.Path(out) / "metrics.jsonl")]


def tensors(out):
    data = (pathlib.Path(out) / "student" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, at in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        raw = data[8 + size + at["data_offsets"][0]:8 + size + at["data_offsets"][1]]
        if at["dtype"] == "BF16":
            raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
        found[name] = struct.unpack(f"<{len(raw) // 4}f", raw)
    return found


def compare(a, b, exactly=False, first=1e-6):
    """Every step's loss, to `first` in the first steps, then the students."""
    rows, others = metrics(a), metrics(b)
    check([(r["stage"], r["step"], r["tokens"]) for r in rows] == [(r["stage"], r["step"], r["tokens"]) for r in others], a, b, "other steps")
    worst = {}
    for i, (x, y) in enumerate(zip(rows, others)):
        apart = abs(x["loss"] - y["loss"]) / abs(x["loss"])
        stage = x["stage"] if i >= FIRST_STEPS else "first steps"
        worst[stage] = max(worst.get(stage, 0), apart)
        if i == 0:   # AdamW and clipping would hide a wrong factor on all gradients
            check(abs(x["grad_norm"] - y["grad_norm"]) <= NORMS * x["grad_norm"], a, b, "first gradient norm", x["grad_norm"], y["grad_norm"])
        check(apart == 0 if exactly else apart < (first if i < FIRST_STEPS else LATER), a, b, x["stage"], x["step"], x["loss"], y["loss"])
    x, y = tensors(a), tensors(b)
    check(x.keys() == y.keys(), a, b, "other tensors")
    square = sum((p - q) ** 2 for name in x for p, q in zip(x[name], y[name]))
    whole = sum(p * p for name in x for p in x[name])
    students = math.sqrt(square / whole)
    check(students == 0 if exactly else students < 1e-2, a, b, "students differ by", students)
    print(f"{a} {b}:", ", ".join(f"{stage} {value:.1e}" for stage, value in worst.items()), f"students {students:.1e}", flush=True)


def prepare():
    subprocess.run([TINY_MODEL, "."], check=True)
    tokenizer = json.load(open("teacher/tokenizer.json"))
    for i, content in enumerate(["<|im_start|>", "<|im_end|>"]):
        tokenizer["added_tokens"].append({"id": 256 + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                          "normalized": False, "special": True})
    json.dump(tokenizer, open("teacher/tokenizer.json", "w"))
    template = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
                "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template},
              open("teacher/tokenizer_config.json", "w"))
    with open("pairs.jsonl", "w") as pairs:
        for i in range(40):
            print(json.dumps({"prompt": f"say {i}", "chosen": f"it is {i}" + " and so" * (i % 4), "rejected": f"no {7 * i}"}), file=pairs)
    open("layers.yaml", "w").write(LAYERS)
    open("whole.yaml", "w").write(WHOLE)
    open("more.yaml", "w").write(MORE)


def leftovers(out):
    return [str(p) for p in pathlib.Path(out).rglob("*.tmp.*")]


def wait_for(condition, seconds=120):
    for _ in range(int(seconds * 50)):
        if condition():
            return
        time.sleep(0.02)
    raise SystemExit("nothing happened")


def rows_in(out):
    path = pathlib.Path(out) / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def killed_and_resumed():
    """A rank is killed; the others leave, one line at most each; the run goes on with another number of ranks."""
    often = ("--set", "checkpoint_minutes=0.000001")
    processes = start(4, "killed", *often)
    wait_for(lambda: rows_in("killed") > STEPS + 2)
    processes[2].kill()
    codes, said = finish(processes)
    check(codes[2] == -9 and all(code == 2 for i, code in enumerate(codes) if i != 2), "killed: exit codes", codes, said)
    errors = [[line for line in said[i].splitlines() if line.startswith("retort: error: ")] for i in (0, 1, 3)]
    check(all(len(lines) <= 1 for lines in errors) and any("lost rank 2" in line for lines in errors for line in lines), "killed: said", said)
    check(not leftovers("killed") and not os.path.exists("killed/student"), "killed: left behind", leftovers("killed"))
    run(2, "killed", *often, "--resume")
    compare("one", "killed")


def interrupted_and_resumed(out, like, before, after, rows, **recipe):
    """SIGTERM for one rank ends all of them after the same step; another number of ranks goes on."""
    processes = start(before, out, **recipe)
    wait_for(lambda: rows_in(out) > rows)
    processes[-1].send_signal(signal.SIGTERM)
    codes, said = finish(processes)
    check(codes == [130] * before, out, "exit codes", codes, said)
    check("Go on with" in said[0] and not any(said[1:]), out, "said", said)
    run(after, out, "--resume", **recipe)
    compare(like, out, first=2e-4)


def under_torchrun():
    """As users start it; then a killed rank ends the job."""
    command = [TORCHRUN, "--no-python", "--nproc-per-node", "2", "--master-port", str(free_port()), PROGRAM, "distill", "whole.yaml", "--teacher", "teacher",
               "--data", "corpus.jsonl", "pairs.jsonl", "--threads", "1", "--out", "torchrun", "--set", "checkpoint_minutes=0.000001"]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: rows_in("torchrun") > 2)
    children = subprocess.run(["pgrep", "-P", str(job.pid), "-f", "retort-train"], capture_output=True, text=True).stdout.split()
    if children:
        os.kill(int(children[-1]), signal.SIGKILL)
    said = job.communicate(timeout=300)[0]
    check(children and job.returncode not in (0, None), "torchrun: a killed rank: exit code", job.returncode, children, said)
    check(subprocess.run(["pgrep", "-f", "--out torchrun"], capture_output=True, text=True).stdout == "", "torchrun: processes left behind")
    done = subprocess.run(command + ["--resume"], capture_output=True, text=True)
    check(done.returncode == 0, "torchrun --resume:", done.returncode, done.stderr)
    compare("two", "torchrun")


def more():
    """What one run writes into a cache of logits another number of ranks reads, or writes to the same bytes."""
    cache = pathlib.Path("kept")
    run(1, "more1", recipe="more.yaml")
    kept = (cache / "rows.bin").read_bytes()
    run(2, "more2", recipe="more.yaml")
    check((cache / "rows.bin").read_bytes() == kept, "a cache that is complete was changed")
    shutil.rmtree(cache)
    run(4, "more4", recipe="more.yaml")
    check((cache / "rows.bin").read_bytes() == kept, "the cache of 4 ranks is another")
    compare("more1", "more2", first=2e-4)
    compare("more1", "more4", first=2e-4)
    heads = [json.load(open(pathlib.Path(out) / "matrices.json"))["heads"] for out in ("more1", "more2")]
    check(heads[0] and [h["mixer"] for h in heads[0]] == [h["mixer"] for h in heads[1]], "matrices.json:", heads)
    check(all(abs(a["distance"] - b["distance"]) < 5e-2 * a["distance"] for a, b in zip(*heads) if "distance" in a), "matrices.json: distances", heads)


def dry_run():
    processes = start(2, "dry", "--dry-run", "--json")
    said = [p.communicate(timeout=300) for p in processes]
    check([p.returncode for p in processes] == [0, 0] and not said[1][0] and not said[1][1], "dry run:", said)
    described = json.loads(said[0][0])
    check(described["ranks"] == 2 and described["expected"]["peak_bytes"] > 0 and not os.path.exists("dry"), "dry run:", described)


def refused():
    codes, said = finish(start(3, "refused"))
    check(codes == [2, 2, 2] and not said[1] and not said[2], "4 rows for 3 ranks: exit codes", codes, said)
    expected = "retort: error: recipe: kd.batch is 4 rows, which 3 ranks cannot share alike; expected a multiple of 3, such as --set kd.batch=6\n"
    check(said[0] == expected, "4 rows for 3 ranks:", said[0])
    check(not os.path.exists("refused"), "4 rows for 3 ranks: a folder was made")
    for flags in (["--seed", "7"], ["--set", "kd.lr=1e-1"], ["--set", "kd.checkpoint_activations=true"], ["--dry-run"]):
        codes, said = finish(start(2, "refused", last=flags))
        expected = "retort: error: rank 1: the recipe, or --resume, --overwrite or --dry-run, is not that of rank 0\n"
        check(codes == [2, 2] and said[0] + said[1] == expected, "rank 1 alone has", flags, codes, said)
    done = subprocess.run([PROGRAM, "distill", "whole.yaml"], capture_output=True, text=True, env=os.environ | {"WORLD_SIZE": "2", "RANK": "2"})
    check(done.returncode == 2 and "RANK is '2'; expected a number from 0 to 1" in done.stderr, "a rank too many:", done.stderr)


def missing():
    """Ranks that never come, and what one rank alone has wrong: all leave soon, and one says why."""
    begin = time.time()
    codes, said = finish(start(4, "missing", absent=(1, 3), patience=3))
    expected = "retort: error: ranks: ranks 1,3 of 4 never came within 3 s (RETORT_RANKS_TIMEOUT); the others leave\n"
    check(codes == [2, 2] and "".join(said) == expected, "ranks 1 and 3 never came:", codes, said)
    codes, said = finish(start(2, "missing", absent=(0,), patience=3))
    check(codes == [2] and said[0].startswith("retort: error: rank 1: nothing answers at 127.0.0.1:") and said[0].count("\n") == 1, "rank 0 never came:", codes, said)
    for flags, expected in ((["--threds", "1"], "distill: unknown flag '--threds'"), (["--data", "vanished.jsonl"], "vanished.jsonl"),
                            (["--set", "kd.lr=fast"], "'lr' is 'fast'")):
        codes, said = finish(start(3, "missing", last=flags, recipe="layers.yaml" if "--data" in flags else "whole.yaml"))
        lines = [line for text in said for line in text.splitlines()]
        check(codes == [2, 2, 2] and len(lines) == 1 and expected in lines[0], "rank 2 alone has", flags, codes, said)
    check(time.time() - begin < 60 and not os.path.exists("missing"), "missing ranks took", time.time() - begin, "s")
    # One that comes late is waited for, with a word.
    port = str(free_port())
    processes = start(2, "late", "--dry-run", absent=(1,), patience=100, port=port)
    time.sleep(11)
    processes += start(2, "late", "--dry-run", absent=(0,), patience=100, port=port)
    codes, said = finish(processes)
    check(codes == [0, 0] and said[0].startswith("retort: waiting for rank 1 of 2, 10 s so far, at most 100\n"), "rank 1 came late:", codes, said)
    done = subprocess.run([PROGRAM, "distill", "whole.yaml"], capture_output=True, text=True,
                          env=os.environ | {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1", "MASTER_ADDR": "127.0.0.1", "RETORT_RANKS_TIMEOUT": "soon"})
    check(done.returncode == 2 and "RETORT_RANKS_TIMEOUT is 'soon'; expected how many seconds" in done.stderr, "a timeout that is none:", done.stderr)


def main():
    prepare()
    again = ("--set", *(f"{stage}.checkpoint_activations=true" for stage in ("kd", "sft", "dpo")))
    for ranks in (1, 2, 4):
        run(ranks, f"layers{ranks}", recipe="layers.yaml")
    compare("layers1", "layers2", first=2e-4)
    compare("layers1", "layers4", first=2e-4)
    run(1, "one", "--threads", "2")
    run(2, "two")
    compare("one", "two")
    run(4, "four", *again)
    compare("one", "four")
    run(1, "recomputed", "--threads", "2", *again)
    compare("one", "recomputed", exactly=True)
    more()
    killed_and_resumed()
    interrupted_and_resumed("interrupted", "one", 2, 1, STEPS + 1)
    interrupted_and_resumed("in_steps", "more1", 4, 2, 2, recipe="more.yaml")
    interrupted_and_resumed("in_lora", "more1", 2, 4, 2 * STEPS + 3, recipe="more.yaml")
    dry_run()
    refused()
    missing()
    if TORCHRUN:
        under_torchrun()
    else:
        print("skipped: no torchrun")


if __name__ == "__main__":
    folder = tempfile.mkdtemp()
    try:
        os.chdir(folder)
        main()
    finally:
        os.chdir("/")
        shutil.rmtree(folder)
    print("FAILED" if failures else "ok")
    sys.exit(1 if failures else 0)
