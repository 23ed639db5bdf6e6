#!/usr/bin/env python3
"""What may happen to a run of `retort distill`, and what must be left: a kill at any moment, a full disk, text that changes, a loss that is not finite.

usage: never_lost_test.py RETORT TINY_MODEL killed|features|disk|data|nan [SEED]      exits 77 when retort-train is absent; no pip packages needed
"""
import glob
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

RETORT, TINY_MODEL = map(os.path.abspath, sys.argv[1:3])
PART = sys.argv[3]
TRAIN = os.path.join(os.path.dirname(RETORT), "retort-train")
SEED = int(sys.argv[4]) if len(sys.argv) > 4 else 20240611
STEPS = {"align": 30, "kd": 24}
RECIPE = """name: tiny
seed: 7
save_init: true
checkpoint_minutes: 1e-6
student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}}
data: {held_out: 0.1, calibration_tokens: 512}
defaults: {seq: 48, batch: 2, lr: 1e-3, repeat_every: 3}
stages:
- {name: align, loss: {attn_out: 1, hidden: 0.5}, steps: %d, lr_features: 5e-3, schedule: {wsd: {warmup_steps: 2, decay: 0.5}}, ema: 0.9, clip: 1}
- {name: kd, loss: {logits: {form: kl}, ce: 0.1}, steps: %d, schedule: cosine, logit_fraction: 0.5, clip: 1, accumulate: 2}
""" % (STEPS["align"], STEPS["kd"])
# What remembers something of its own between steps: attention that goes layer by layer, a cache of logits, a rate that falls on plateaus, LoRA, and a
# second teacher that comes on a plateau.
FEATURES = """name: features
seed: 7
checkpoint_minutes: 1e-6
student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}, stepwise: one_by_one}
data: {held_out: 0.1, calibration_tokens: 512}
defaults: {seq: 48, batch: 2, lr: 1e-3}
stages:
- {name: steps, loss: {logits: {form: kl}}, steps: 12, ema: 0.9}
- {name: cached, loss: {logits: {cache: kept, top_k: 8}, ce: 0.1}, steps: 10, schedule: {plateau: {every: 2, patience: 1, factor: 0.5, threshold: 0.5}}}
- {name: low, loss: {logits: {form: kl}}, train: [norms, {lora: {r: 2, alpha: 4, on: [q, o, up]}}], steps: 12,
   switch_teacher: {to: second, when: {plateau: {every: 2, patience: 1, threshold: 0.9}}}}
"""
FEATURE_ENDS = {"steps[layer0]": 4, "steps[layer2]": 8, "steps[layer1]": 12, "cached": 22, "low": 34}   # after so many steps of the run
CLOCK = {"time", "tokens_per_s", "gemm_share"}


def check(condition, *what):
    if not condition:
        print("FAILED:", *what, flush=True)
        sys.exit(1)


def command(out, *more, recipe="tiny.yaml", data=("corpus.jsonl", "other.jsonl")):
    return [TRAIN, "distill", recipe, "--teacher", "teacher", "--data", *data, "--out", out, "--threads", "2", *more]


def run(out, *more, limit=None, **options):
    """Exit code and standard error."""
    def prepare():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    done = subprocess.run(command(out, *more, **options), capture_output=True, text=True, timeout=300, preexec_fn=prepare)
    return done.returncode, done.stderr


def error_line(stderr):
    """The one line that an error is; progress may stand before it."""
    lines = [line for line in stderr.replace("\r", "\n").split("\n") if line.startswith("retort: error: ")]
    check(len(lines) == 1, "not one line of error:", stderr)
    return lines[0]


def rows(out):
    with open(f"{out}/metrics.jsonl") as file:
        return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in file]


def lines(out):
    try:
        with open(f"{out}/metrics.jsonl", "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0


def no_clock(value):
    if isinstance(value, dict):
        return {k: no_clock(v) for k, v in value.items() if k not in CLOCK and not k.endswith("seconds")}
    return [no_clock(v) for v in value] if isinstance(value, list) else value


def result(out):
    """Everything a finished run has, without what the clock writes."""
    files = {}
    for path in sorted(glob.glob(f"{out}/**", recursive=True)):
        name = os.path.relpath(path, out)
        if os.path.isdir(path) or name.startswith("events.") or name == "metrics.jsonl":
            continue
        with open(path, "rb") as file:
            content = file.read()
        files[name] = no_clock(json.loads(content)) if name.endswith(("config.json", "train.json")) else content
    files["metrics.jsonl"] = rows(out)
    return files


def same(out, straight, what):
    mine = result(out)
    check(sorted(mine) == sorted(straight), what, "other files:", sorted(set(mine) ^ set(straight)))
    for name in straight:
        check(mine[name] == straight[name], what, name, "differs from the uninterrupted run's")
    check(not os.path.exists(f"{out}/checkpoints"), what, "checkpoints of a finished run")


def temporaries(out):
    return [p for p in glob.glob(f"{out}/**", recursive=True) if ".tmp." in os.path.relpath(p, out)]


def straight_run(recipe="tiny.yaml", steps=sum(STEPS.values())):
    """What it leaves, and the seconds until its first step."""
    begin, first = time.time(), None
    process = subprocess.Popen(command("straight", recipe=recipe), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and first is None:
        first = time.time() - begin if lines("straight") else None
        time.sleep(0.001)
    stderr = process.communicate()[1]
    check(process.returncode == 0, "the uninterrupted run:", stderr)
    check(len(rows("straight")) == steps, "steps")
    return result("straight"), first


# --- kill -9 ---------------------------------------------------------------------------------------------------------------

def life(out, what, moment, pause=0.0, **options):
    """Starts or goes on with the run, kills it a pause after the moment. Says what was met, or None when it ended by itself."""
    begin = time.time()
    with open("err.txt", "w") as err:
        process = subprocess.Popen(command(out, *going_on(out), **options), stdout=subprocess.DEVNULL, stderr=err)
    while process.poll() is None and not moment():
        time.sleep(0.0005)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    if code == -signal.SIGKILL:
        return f"{what}: after {lines(out)} steps, {time.time() - begin:.2f} s, {len(temporaries(out))} unfinished files"
    with open("err.txt") as err:
        check(code == 0, what, "exit code", code, err.read())
    return None


def going_on(out):
    return ["--resume"] if os.path.exists(f"{out}/.lock") else []


def life_of_kind(out, kind, chance):
    """Ends at a moment of this kind."""
    before, begin = lines(out), time.time()
    wait = chance.uniform(0, 1) * START if kind == "start" else 0
    more = chance.randint(1, 4)
    pause = chance.uniform(0, 0.02) if kind == "steps" else 0
    moments = {
        "start": lambda: time.time() - begin >= wait,
        "steps": lambda: lines(out) >= before + more,
        "checkpoint": lambda: lines(out) >= before + more and glob.glob(f"{out}/checkpoints/*.tmp.*"),
        "stage": lambda: lines(out) >= STEPS["align"],
        "next": lambda: lines(out) >= STEPS["align"] and os.path.exists(f"{out}/checkpoints/step-{STEPS['align']}"),
        "matrices": lambda: glob.glob(f"{out}/matrices.json*"),
        "student": lambda: glob.glob(f"{out}/student.tmp.*"),
        "written": lambda: os.path.exists(f"{out}/student/config.json"),
    }
    return life(out, kind, moments[kind], pause)


def killed():
    """Twenty kills. A run that ends before its moment comes (a busy machine looks seldom) is held against the straight one, and
    the next one takes the kinds that are left."""
    global START
    straight, START = straight_run()
    chance = random.Random(SEED)
    print(f"seed {SEED}; the first step came after {START:.2f} s")
    early = ["start"] * 3 + ["steps"] * 3 + ["checkpoint"] * 2
    late = ["start"] * 2 + ["steps"] * 3 + ["checkpoint"] * 3
    chance.shuffle(early)
    chance.shuffle(late)
    kinds = early[:-1] + ["stage", "next"] + late[:-1] + ["matrices", "student", "written"] + ["start"]
    check(len(kinds) == 20, len(kinds))
    lives = deaths = 0
    while kinds and lives < 60:
        lives += 1
        met = life_of_kind("run", kinds[0], chance)
        print(" ", met or f"{kinds[0]}: ended by itself", flush=True)
        if met is None:
            same("run", straight, f"after {deaths} kills")
            shutil.rmtree("run")
        else:
            deaths += 1
            kinds.pop(0)
    check(not kinds, "only", deaths, "kills met a run; left:", kinds)
    code, stderr = run("run", *going_on("run"))
    check(code == 0, "the last life:", stderr)
    same("run", straight, "killed")
    check(not temporaries("run"), "left behind:", temporaries("run"))
    print(f"killed {deaths} times, every bit the same")


def features():
    """Kills inside every stage of FEATURES, where one ends and the next has not begun, and while a checkpoint is written."""
    with open("features.yaml", "w") as file:
        file.write(FEATURES)
    straight, _ = straight_run("features.yaml", FEATURE_ENDS["low"])
    steps = straight["metrics.jsonl"]
    ends = {step["stage"]: i + 1 for i, step in enumerate(steps)}
    check(ends == FEATURE_ENDS, "stages:", ends)
    rates = [step["lr"] for step in steps if step["stage"] == "cached"]
    teachers = [step["teacher"] for step in steps if step["stage"] == "low"]
    check(len(set(rates)) > 1, "no plateau:", rates)
    check(set(teachers) == {"teacher", "second"} and teachers.index("second") > 3, "no second teacher:", teachers)
    kept = cache()
    shutil.rmtree("kept")
    chance = random.Random(SEED)
    moments, begin = [], 0
    for stage, end in FEATURE_ENDS.items():
        moments.append((f"in {stage}", begin + chance.randint(1, end - begin - 1), None))
        if chance.random() < 0.5:
            moments.append((f"checkpoint in {stage}", begin + chance.randint(1, end - begin - 1), "run/checkpoints/*.tmp.*"))
        moments.append((f"end of {stage}", end, None))
        begin = end
    deaths = 0
    for what, after, there in sorted(moments, key=lambda moment: moment[1]):
        met = life("run", what, lambda: lines("run") >= after and (not there or glob.glob(there)), chance.uniform(0, 0.01), recipe="features.yaml")
        print(" ", met or f"{what}: ended by itself", flush=True)
        deaths += met is not None
        if met is None:
            break
    check(deaths >= len(moments) - 2, "only", deaths, "of", len(moments), "kills met a run")
    code, stderr = run("run", *going_on("run"), recipe="features.yaml")
    check(code == 0, "the last life:", stderr)
    same("run", straight, "killed")
    check(cache() == kept, "the cache of logits differs from the uninterrupted run's")
    check(not temporaries("run"), "left behind:", temporaries("run"))
    print(f"killed {deaths} times, every bit the same")


def cache():
    return {name: open(f"kept/{name}", "rb").read() for name in sorted(os.listdir("kept"))}


# --- a full disk -----------------------------------------------------------------------------------------------------------

def mount(size):
    os.makedirs("small", exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "small"], capture_output=True, text=True)
    return done.returncode == 0


def fill(path, while_):
    """Takes all room; goes on taking what becomes free for as long as it is told to."""
    with open(path, "wb", buffering=0) as ballast:
        while while_ is None or while_():
            try:
                ballast.write(bytes(1 << 12))
            except OSError:
                if while_ is None:
                    return
                time.sleep(0.0002)


def disk():
    straight, _ = straight_run()
    needs = json.loads(subprocess.run(command("dry", "--dry-run", "--json"), capture_output=True, text=True, check=True).stdout)["disk"]
    check(not os.path.exists("dry"), "a dry run wrote something")
    largest = needs["checkpoint_bytes"]
    failed = 0
    for limit in (300, 3000, 12000, largest // 3, int(largest * 0.9)):
        shutil.rmtree("limited", ignore_errors=True)
        code, stderr = run("limited", limit=limit)
        if code == 0:
            continue
        line = error_line(stderr)
        check(code == 2, limit, "exit code", code, stderr)
        check("File too large" in line or "cannot write" in line, limit, line)
        check(not temporaries("limited"), limit, "left behind:", temporaries("limited"))
        failed += 1
        kept = glob.glob("limited/checkpoints/step-*")
        print(f"  no file above {limit} bytes: {line}; {len(kept)} checkpoints", flush=True)
        code, stderr = run("limited", *(["--resume"] if os.path.exists("limited/recipe.yaml") else []))
        check(code == 0, limit, "with room:", stderr)
        same("limited", straight, f"no file above {limit} bytes")
    check(failed >= 4, "only", failed, "limits were met")

    if not mount(needs["bytes"] + (4 << 20)):
        print("SKIPPED: a real full disk: this user may not mount a tmpfs", flush=True)
        return
    try:
        process = subprocess.Popen(command("small/run"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not glob.glob("small/run/checkpoints/step-[0-9]*"):
            time.sleep(0.001)
        fill("small/ballast", lambda: process.poll() is None)
        stderr = process.communicate()[1]
        line = error_line(stderr)
        check(process.returncode == 2 and "No space left on device" in line, "a full disk:", process.returncode, line)
        kept = [p for p in glob.glob("small/run/checkpoints/step-*") if ".tmp." not in p]
        check(kept and all(os.path.exists(f"{p}/state.json") for p in kept), "the last good checkpoint:", kept)
        check(not temporaries("small/run"), "left behind:", temporaries("small/run"))
        print(f"  a full disk: {line}; {sorted(map(os.path.basename, kept))} stay", flush=True)
        fill("small/more", None)
        code, stderr = run("small/run", "--resume")
        check(code == 2, "still full: exit code", code, error_line(stderr))
        os.remove("small/ballast")
        os.remove("small/more")
        code, stderr = run("small/run", "--resume")
        check(code == 0, "with room again:", stderr)
        same("small/run", straight, "a full disk")
    finally:
        subprocess.run(["umount", "small"], check=True)
    mount(100000)
    try:
        code, stderr = run("small/run")
        check(code == 2 and "are free there" in error_line(stderr) and not os.path.exists("small/run"), "no room from the start:", stderr)
        code, stderr = run("small/run", "--dry-run")
        check(code == 2 and "are free there" in error_line(stderr), "no room, --dry-run:", stderr)
    finally:
        subprocess.run(["umount", "small"], check=True)


# --- text that vanishes or changes -----------------------------------------------------------------------------------------

def when(out, steps, action):
    """Runs, and does something after so many steps. Exit code, standard error."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and lines(out) < steps:
        time.sleep(0.001)
    action(process)
    return process.communicate()[1], process.returncode


def data():
    straight, _ = straight_run()
    with open("other.jsonl") as file:
        text = file.read()
    stderr, code = when("run", 5, lambda process: process.send_signal(signal.SIGTERM))
    check(code == 130, "interrupted: exit code", code, stderr)
    changes = {"changed": lambda: open("other.jsonl", "w").write(text.replace("a", "b", 3)),
               "longer": lambda: open("other.jsonl", "w").write(text + '{"text": "And one more."}\n'),
               "broken": lambda: open("other.jsonl", "w").write(text[:len(text) // 2 + 7]),
               "empty": lambda: open("other.jsonl", "w").close(),
               "gone": lambda: os.remove("other.jsonl")}
    for name, change in changes.items():
        change()
        code, stderr = run("run", "--resume")
        line = error_line(stderr)
        check(code == 2 and "other.jsonl" in line and "corpus.jsonl" not in line, name, code, line)
        print(f"  {name}: {line}")
        with open("other.jsonl", "w") as file:
            file.write(text)
    code, stderr = run("run", "--resume", data=("corpus.jsonl",))
    check(code == 2 and "other.jsonl" in error_line(stderr), "one file less:", stderr)
    os.makedirs("elsewhere")
    shutil.move("other.jsonl", "elsewhere/moved.jsonl")
    code, stderr = run("run", "--resume", data=("corpus.jsonl", "elsewhere/moved.jsonl"))
    check(code == 0, "the same text elsewhere:", stderr)
    check(result("run")["student/model.safetensors"] == straight["student/model.safetensors"], "the same text elsewhere: other bits")
    shutil.move("elsewhere/moved.jsonl", "other.jsonl")
    # A run has read its text before its first step: what happens to the files later is nothing to it.
    stderr, code = when("during", 3, lambda process: (os.remove("other.jsonl"), open("corpus.jsonl", "w").close()))
    check(code == 0, "text that goes during a run:", stderr)
    same("during", straight, "text that goes during a run")
    files = json.loads(open("straight/student/config.json").read())["distill_config"]["data"]
    check([f["file"] for f in files] == ["corpus.jsonl", "other.jsonl"] and all(len(f["sha256"]) == 64 for f in files), "distill_config.data:", files)


# --- losses that are not finite ---------------------------------------------------------------------------------------------

def nan():
    with open("absurd.yaml", "w") as file:  # decay of 10 at a rate of 10: every step multiplies the weights by -99
        file.write(RECIPE.replace("lr: 1e-3", "lr: 10, weight_decay: 10").replace("clip: 1", "clip: 0").replace("wsd: {warmup_steps: 2, decay: 0.5}", "wsd: {decay: 0}"))
    for more, least in ((), 5), (("--set", "align.max_skipped=2"), 2):
        shutil.rmtree("absurd", ignore_errors=True)
        code, stderr = run("absurd", *more, recipe="absurd.yaml")
        line = error_line(stderr)
        check(code == 2 and f"not finite in {least} steps in a row" in line and "absurd/bad_step.json" in line, code, line)
        print(f"  {line}")
        log = rows("absurd")
        check(all(r["loss"] is None or r["grad_norm"] is None for r in log[-least:]) and isinstance(log[0]["loss"], float), "skipped steps:", log)
        with open("absurd/bad_step.json") as file:
            step = json.load(file)
        check(step["stage"] == log[-1]["stage"] and step["step"] == log[-1]["step"] and step["skipped_in_a_row"] == least, step)
        check(not all(isinstance(step[key], float) for key in ("loss", "grad_norm")), "nothing in it is not finite:", step)
        check({"loss/attn_out", "loss/hidden"} <= set(step) and len(step["layers"]["attn_out"]) == 3, "losses:", list(step))
        batch, = step["batches"]
        check(len(batch["tokens"]) == 96 == batch["rows"] * batch["seq"] and batch["starts"][0] == 0 and batch["seed"] >= 0, batch)
        check(not os.path.exists("absurd/student"), "a student of a run that failed")


def main():
    if not os.access(TRAIN, os.X_OK):
        print("skipped: retort-train was not built")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([TINY_MODEL, "."], check=True)
        with open("tiny.yaml", "w") as file:
            file.write(RECIPE)
        {"killed": killed, "features": features, "disk": disk, "data": data, "nan": nan}[PART]()
        os.chdir("/")
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
