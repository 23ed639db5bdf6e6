#!/usr/bin/env python3
"""Every mixer, written again from its equations in numpy, against what `mixer_tool` computed; and the gated linear attention
recurrence against flash-linear-attention's naive form when that package is there.

    mixers.py MIXER_TOOL        exit 0: agree, 1: differ, 77: numpy is missing
"""
import importlib.util
import json
import pathlib
import subprocess
import sys

try:
    import numpy as np
except ImportError:
    print("SKIP: numpy is not installed in this Python")
    sys.exit(77)

TOLERANCE = 1e-9  # double against double; weights pass through JSON exactly


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def silu(z):
    return z * sigmoid(z)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


class Case:
    def __init__(self, line):
        self.__dict__.update(json.loads(line))
        self.tensors = {n: np.array(t["values"]).reshape(t["shape"]) for n, t in self.tensors.items()}
        self.x = np.array(self.x).reshape(self.rows, -1)
        self.y = np.array(self.y).reshape(self.rows, -1)
        self.group = self.heads // self.kv_heads
        self.first = self.window + self.sinks if self.window else 0

    def get(self, name):
        return self.tensors.get(name)

    def split(self, z):
        return z.reshape(self.rows, -1, self.head_dim)

    def qkv(self):
        out = []
        for n in "qkv":
            z = self.x @ self.tensors[n + "_proj.weight"].T
            if self.get(n + "_proj.bias") is not None:
                z = z + self.get(n + "_proj.bias")
            z = self.split(z)
            if self.get(n + "_norm.weight") is not None:
                z = rms(z, self.get(n + "_norm.weight"), self.eps)
            out.append(z)
        return out

    def rope(self, z):
        half = self.head_dim // 2
        angle = np.arange(self.rows)[:, None] * self.rope_base ** (-np.arange(half) / half)
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = z[..., :half], z[..., half:]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    def attention(self, q, k, v):
        """Output [T, H, V] and log of the normaliser [T, H]; k and v have as many heads as they like."""
        q, k = self.rope(q), self.rope(k)
        k, v = (np.repeat(z, self.heads // z.shape[1], 1) for z in (k, v))
        t, s = np.arange(self.rows)[:, None], np.arange(self.rows)[None]
        seen = s <= t
        if self.window:
            seen &= (s > t - self.window) | (s < self.sinks)
        z = np.einsum("thd,shd->hts", q, k) / np.sqrt(self.head_dim)
        e = np.where(seen, np.exp(z), 0)
        total = e.sum(-1)
        return np.einsum("hts,shv->thv", e / total[..., None], v), np.log(total).T

    def leaving(self, z):
        if not self.window:
            return z
        return np.concatenate([np.zeros_like(z[: self.window]), z[: -self.window]])[: self.rows]

    def out(self, y, name="o_proj.weight"):
        return y.reshape(self.rows, -1) @ self.tensors[name].T

    def join_gate(self):
        return self.x @ self.tensors["join.gate.weight"].T + self.tensors["join.gate.bias"]


def attention(case):
    return case.out(case.attention(*case.qkv())[0])


def decaying(case, q, k, v, log_decay):
    """Mixing matrix by mixing matrix: [T, H, K] x 2, [T, H, V], [T, H, K or 1]; tokens before case.first do nothing."""
    alive = (np.arange(case.rows) >= case.first)[:, None, None]
    k, total = k * alive, np.cumsum(log_decay * alive, 0)
    y = np.zeros_like(v)
    for t in range(case.rows):
        for s in range(t + 1):
            y[t] += (q[t] * k[s] * np.exp(total[t] - total[s])).sum(-1, keepdims=True) * v[s]
    return y


def gla_inputs(case):
    q, k, v = case.qkv()
    z = case.x @ case.get("gk_proj.0.weight").T @ case.get("gk_proj.1.weight").T + case.get("gk_proj.1.bias")
    log_decay = case.split(case.leaving(-np.logaddexp(0, -z) / case.fields["gate_temperature"]))
    far = [np.repeat(case.leaving(n), case.group, 1) for n in (k, v)]
    return q / np.sqrt(case.head_dim), far[0], far[1], np.repeat(log_decay, case.group, 1)


def gla(case):
    y = rms(decaying(case, *gla_inputs(case)), case.get("g_norm.weight"), case.eps)
    y = y * silu(case.split(case.x @ case.get("g_proj.weight").T))
    if case.window:
        y = case.attention(*case.qkv())[0] + sigmoid(case.join_gate())[..., None] * y
    return case.out(y)


def discrete_mamba2(case):
    e = case.heads * case.head_dim
    p = case.x @ case.get("in_proj.weight").T
    taps = case.fields["conv_size"]
    padded = np.concatenate([np.zeros((taps - 1, 3 * e)), p[:, : 3 * e]])
    conv = case.get("conv1d.bias") + sum(padded[i : i + case.rows] * case.get("conv1d.weight")[:, i] for i in range(taps))
    x, b, c = (case.split(conv[:, i * e : (i + 1) * e]) for i in range(3))
    log_decay = case.leaving(-np.logaddexp(0, p[:, 4 * e :]))[..., None]
    y = decaying(case, c, case.leaving(b), case.leaving(x), log_decay)
    if case.get("D") is not None:
        y = y + case.get("D")[:, None] * x
    y = y * silu(case.split(p[:, 3 * e : 4 * e] + case.get("z_bias")))
    if case.window:
        y = case.attention(c * np.sqrt(case.head_dim), b, x)[0] + sigmoid(case.join_gate())[..., None] * y
    return case.out(y, "out_proj.weight")


def slots(case):
    q, k, v = case.qkv()
    gone, values = case.leaving(k), np.repeat(case.leaving(v), case.group, 1)
    phi = softmax(np.einsum("tgd,gmd->tgm", gone, case.get("write.weight")) + case.get("write.bias"))
    read = np.exp(np.einsum("thd,hmd->thm", q, case.get("read.weight")) + case.get("read.bias"))
    phi = np.repeat(phi, case.group, 1)
    t = np.arange(case.rows)
    seen = (t[None] <= t[:, None]) & (t[None] >= case.first)
    weights = np.where(seen, np.einsum("thm,shm->hts", read, phi), 0)
    total = weights.sum(-1)
    if not case.window:
        return case.out(np.einsum("hts,shv->thv", weights / total[..., None], values))
    near, log_near = case.attention(q, k, v)
    far = np.einsum("hts,shv->thv", weights, values)
    with np.errstate(divide="ignore"):
        log_far = case.join_gate() + case.get("join.gamma") * np.log(total.T) - (case.get("join.rho") - 1) * log_near
    share = np.exp(log_far) / (np.exp(log_far) + np.exp(log_near))
    mean = far / np.where(total.T > 0, total.T, 1)[..., None]
    return case.out(near + share[..., None] * (mean - near))


ORACLES = {"attention": attention, "window": attention, "gla": gla, "discrete_mamba2": discrete_mamba2, "slots": slots}


def fla_naive_gla():
    """flash-linear-attention's plain-torch recurrence, loaded by itself: the package as a whole wants a GPU compiler."""
    spec = importlib.util.find_spec("fla")
    if spec is None or importlib.util.find_spec("torch") is None:
        return None
    for folder in spec.submodule_search_locations:
        path = pathlib.Path(folder) / "ops" / "gla" / "naive.py"
        if path.exists():
            module_spec = importlib.util.spec_from_file_location("fla_naive_gla", path)
            module = importlib.util.module_from_spec(module_spec)
            module_spec.loader.exec_module(module)
            return module.naive_recurrent_gla
    return None


def check_fla(case, naive):
    import torch

    q, k, v, log_decay = (torch.from_numpy(z.copy())[None] for z in gla_inputs(case))
    scale = case.head_dim ** 0.5  # theirs divides by it once more
    try:
        theirs = naive(q * scale, k, v, log_decay)[0][0].double().numpy()
    except (RuntimeError, ValueError):  # versions that want heads before time
        theirs = naive(*((z.transpose(1, 2)) for z in (q * scale, k, v, log_decay)))[0][0].double().numpy().transpose(1, 0, 2)
    ours = decaying(case, *gla_inputs(case))
    return abs(theirs - ours).max() / abs(ours).max()


def main():
    lines = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout.splitlines()
    naive, failed = fla_naive_gla(), 0
    if naive is None:
        print("SKIP (this part only): flash-linear-attention and torch are not both installed; its naive form is not compared")
    for line in lines:
        case = Case(line)
        oracle = ORACLES.get(case.mixer)
        if oracle is None:
            print(f"no oracle for mixer '{case.mixer}' yet: write one in {__file__}")
            failed += 1
            continue
        error = abs(oracle(case) - case.y).max() / abs(case.y).max()
        verdict = "ok" if error < TOLERANCE else "DIFFERS"
        failed += verdict != "ok"
        print(f"{verdict:8} {error:.1e}  {case.name}")
        if naive is not None and case.mixer == "gla" and not case.window:
            error = check_fla(case, naive)  # theirs computes in float32
            failed += not error < 1e-5
            print(f"{'ok' if error < 1e-5 else 'DIFFERS':8} {error:.1e}  {case.name}: the recurrence against fla's naive form")
    if not lines:
        failed = 1
        print("mixer_tool printed nothing")
    return 1 if failed else 0


sys.exit(main())
