#!/usr/bin/env python3
"""A training step of `retort distill` beside the same step in plain PyTorch, in turn; above 1, Retort is faster.

    bench/vs_torch_train.py --teacher MODEL --data FILE [--steps N] [--seq N] [--batch N] [--rounds N] [--threads N]

The teacher is transformers' own model of the same weights (`retort convert MODEL --to hf --dtype f32` makes it), the student that model with its
attention replaced by gated linear attention (docs/mixers/gla.md) in torch operations: the recurrence in chunks of 64, everything inside chunks in
batched products, autograd behind it. It starts from Retort's own first student, and both must agree on the first loss.

- kd: both models read the rows, KL over all positions, only the mixers train, AdamW.
- align: each mixer gets the teacher's input of its layer and must give what the attention gives (relative error); no head is computed.

PyTorch runs in f32 and, where the processor multiplies bf16, under autocast; the faster one counts. Loading is on neither side: a step's time is
the median over the steps after the first.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
ROOT = pathlib.Path(__file__).resolve().parent.parent
RETORT = os.environ.get("RETORT", str(ROOT / "build/release/bin/retort"))
CHUNK = 64
RECIPE = """name: vs-torch
save_init: true
student: {{mixer: gla, window: 0, sinks: 0}}
data: {{held_out: 0, calibration_tokens: 1024}}
stages:
- {{name: {stage}, loss: {{{loss}}}, train: [mixers], seq: {seq}, batch: {batch}, steps: {steps}, lr: 1e-5, schedule: constant}}
"""
LOSSES = {"kd": "logits: {form: kl}", "align": "attn_out: {form: relative}"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1, help="rows of --seq tokens a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def command(*words):
    done = subprocess.run([RETORT, *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"retort {' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def ours(stage, folder, options):
    """Seconds of every step but the first, and the first loss."""
    recipe = folder / f"{stage}.yaml"
    recipe.write_text(RECIPE.format(stage=stage, loss=LOSSES[stage], seq=options.seq, batch=options.batch, steps=options.steps))
    run = folder / f"run-{stage}"
    command("distill", recipe, "--teacher", options.teacher, "--data", options.data, "--out", run, "-t", options.threads, "--overwrite")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [options.batch * options.seq / line["tokens_per_s"] for line in lines[1:]], lines[0]["loss"]


class Gla:
    """Made when torch is there."""

    def __new__(cls, torch, config, tensors, prefix):
        F = torch.nn.functional

        class Mixer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
                self.width = config.hidden_size // self.heads
                names = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "gk_proj.0.weight", "gk_proj.1.weight",
                         "gk_proj.1.bias", "g_proj.weight", "g_norm.weight"]
                self.w = torch.nn.ParameterList([torch.nn.Parameter(tensors[prefix + name].float()) for name in names])

            def split(self, x, heads):  # [B, heads, N, CHUNK, width]
                b, t, _ = x.shape
                x = x.view(b, t // CHUNK, CHUNK, heads, self.width).permute(0, 3, 1, 2, 4)
                return x if heads == self.heads else x.repeat_interleave(self.heads // heads, 1)

            def forward(self, hidden_states, **_):
                x = hidden_states
                wq, wk, wv, wo, down, up, bias, wg, norm = self.w
                q, k, v = (self.split(F.linear(x, w), n).float() for w, n in ((wq, self.heads), (wk, self.groups), (wv, self.groups)))
                decay = F.logsigmoid(F.linear(F.linear(x, down), up, bias).float()) / 16
                total = self.split(decay, self.groups).cumsum(3)
                reads, writes = q * self.width**-0.5 * total.exp(), k * (-total).exp()
                end = total[:, :, :, -1:].exp()
                inside = (reads @ writes.transpose(3, 4)).tril() @ v
                added = (writes * end).transpose(3, 4) @ v
                state, states = torch.zeros_like(added[:, :, 0]), []
                for i, (keep, more) in enumerate(zip(end.transpose(3, 4).unbind(2), added.unbind(2))):
                    states.append(state)
                    state = keep * state + more
                y = inside + reads @ torch.stack(states, 2)
                y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + config.rms_norm_eps) * norm
                y = y.permute(0, 2, 3, 1, 4).reshape(x.shape)
                return F.linear(y.to(x.dtype) * F.silu(F.linear(x, wg)), wo), None

        return Mixer()


def peer(teacher_folder, student_folder, tokens, options):
    """{stage: a function that makes a step and returns its loss}, in f32 or under autocast."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(options.threads)
    load = lambda: AutoModelForCausalLM.from_pretrained(teacher_folder, dtype=torch.float32).eval().requires_grad_(False)
    teacher, student = load(), load()
    tensors = load_file(student_folder / "model.safetensors")
    for i, layer in enumerate(student.model.layers):
        layer.self_attn = Gla(torch, student.config, tensors, f"model.layers.{i}.mixer.")
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0)
    rows = torch.tensor([tokens[i * options.seq:(i + 1) * options.seq] for i in range(len(tokens) // options.seq)])
    seen, count = {}, [0]
    for i, layer in enumerate(teacher.model.layers):
        layer.self_attn.register_forward_hook(
            lambda module, args, kwargs, out, i=i: seen.__setitem__(i, (kwargs["hidden_states"], out[0])), with_kwargs=True)

    def kd(row):
        with torch.no_grad():
            wanted = teacher(row, use_cache=False).logits
        got = student(row, use_cache=False).logits
        loss = torch.nn.functional.kl_div(got.float().log_softmax(-1).flatten(0, 1), wanted.float().log_softmax(-1).flatten(0, 1), log_target=True, reduction="batchmean")
        loss.backward()
        return loss.item()

    def align(row):
        with torch.no_grad():
            teacher.model(row, use_cache=False)
        total = 0.0
        for i, layer in enumerate(student.model.layers):
            x, wanted = seen[i]
            loss = (layer.self_attn(x)[0].float() - wanted.float()).square().sum() / wanted.float().square().sum()
            loss.backward()
            total += loss.item()
        return total / len(student.model.layers)

    def step(stage, autocast):
        row = rows[count[0] % len(rows)].expand(options.batch, -1)
        count[0] += 1
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = {"kd": kd, "align": align}[stage](row)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    start = [p.detach().clone() for p in trained]

    def reset():
        count[0] = 0
        with torch.no_grad():
            for p, value in zip(trained, start):
                p.copy_(value)
        optimizer.state.clear()
    return step, reset, torch.backends.cpu.get_cpu_capability()


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        command("convert", options.teacher, "--to", "hf", "--dtype", "f32", "--out", folder / "teacher")
        text, corpus = folder / "text.txt", folder / "corpus.jsonl"
        tokens = one_row(plain_text(options.data, options.seq * 16), text, options)
        # Copies of one document as long as a row: whichever a run begins with, all its rows are the same.
        corpus.write_text((json.dumps({"text": text.read_text()}) + "\n") * 2 * options.batch * (options.steps + 2))
        options.data = corpus
        ours("kd", folder, argparse.Namespace(**{**vars(options), "steps": 1}))
        step, reset, capability = peer(folder / "teacher", folder / "run-kd/student-init", tokens, options)
        kinds = {"f32": False} | ({"bf16": True} if bf16_pays() else {})
        seconds = {}
        for _ in range(options.rounds):
            for stage in LOSSES:
                taken, first = ours(stage, folder, options)
                seconds.setdefault((stage, "retort"), []).extend(taken)
                for kind, autocast in kinds.items():
                    reset()
                    for i in range(options.steps):
                        started = time.perf_counter()
                        loss = step(stage, autocast)
                        if i > 0:
                            seconds.setdefault((stage, kind), []).append(time.perf_counter() - started)
                        elif kind == "f32" and abs(loss - first) > 0.02 * first:
                            sys.exit(f"{stage}: the first loss is {first} in Retort and {loss} in PyTorch: not the same step")
        report(seconds, kinds, capability, options)


def one_row(text, file, options):
    """The ids of the beginning of `text` that has as many tokens as a row; `file` has it."""
    least, most = options.seq // 2, len(text)
    while True:
        middle = (least + most) // 2
        file.write_text(text[:middle])
        ids = json.loads(command("tokenize", options.teacher, "--text", file, "--json"))["ids"]
        if len(ids) == options.seq:
            return ids
        if least >= most:
            sys.exit(f"{options.data}: no beginning of it has exactly {options.seq} tokens; another --seq or file has")
        least, most = (middle + 1, most) if len(ids) < options.seq else (least, middle)


def plain_text(path, characters):
    """The beginning of a .txt or of the `text` of a .jsonl, either packed or not."""
    if path.endswith(".zst"):
        data = subprocess.run(["zstd", "-dc", path], capture_output=True, check=True).stdout.decode()
    elif path.endswith(".gz"):
        import gzip
        data = gzip.open(path, "rt").read()
    else:
        data = pathlib.Path(path).read_text()
    if ".jsonl" in path:
        data = "\n".join(json.loads(line)["text"] for line in data.splitlines()[:200])
    return data[:characters]


def bf16_pays():
    flags = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def report(seconds, kinds, capability, options):
    print(f"{options.batch} x {options.seq} tokens a step, {options.threads} threads, torch on {capability}; medians of {options.rounds} x {options.steps - 1} steps\n")
    print("| step | Retort, tok/s | " + " | ".join(f"PyTorch {kind}, tok/s" for kind in kinds) + " | ratio |")
    print("| --- | ---: | " + "---: | " * len(kinds) + "---: |")
    for stage in LOSSES:
        rate = {kind: options.batch * options.seq / statistics.median(seconds[stage, kind]) for kind in ("retort", *kinds)}
        print(f"| {stage} | {rate['retort']:.0f} | " + " | ".join(f"{rate[k]:.0f}" for k in kinds) + f" | {rate['retort'] / max(rate[k] for k in kinds):.2f} |")


if __name__ == "__main__":
    main()
