"""RWKV-7 (mixers.md 3.14, arXiv 2503.14456) without its value residual."""
import math

import torch

from case import l2, layer_norm
from outside_cores import RANK_ONE as CORES
from recurrences import rank_one


def low_rank(case, name, x, inner=lambda z: z):
    return case.linear(name + ".lora.2", inner(case.linear(name + ".lora.0", x)))


def layer(case, core=rank_one):
    before = torch.cat([torch.zeros_like(case.x[:1]), case.x[:-1]])
    mixed = {c: case.x + case.get("x_" + c) * (before - case.x) for c in "rwkvag"}
    r, k, v = (case.split(case.linear(n + "_proj", mixed[n])) for n in "rkv")
    r, k = case.normed("r", r), case.normed("k", k)
    local = r * case.head_dim**0.5, k, v  # attention divides by it again
    r, k = case.turned(r), case.turned(k)
    log_decay = case.split(-math.exp(-0.5) * torch.sigmoid(low_rank(case, "w_lora", mixed["w"], torch.tanh)))
    rate = case.split(torch.sigmoid(low_rank(case, "a_lora", mixed["a"])))
    by_key = lambda name: case.split(case.get(name))
    kappa = l2(k * by_key("k_k"))
    k = k * (1 + (rate - 1) * by_key("k_a"))
    y, state = core(r, *(case.repeated(case.far(z)) for z in (k, v, -kappa, kappa * rate, log_decay)))
    y = layer_norm(y, None, case.head_dim * 1e-5).reshape(case.rows, -1) * case.get("g_norm.weight") + case.get("g_norm.bias")
    y = case.split(y)
    if case.get("r_k") is not None:
        y = y + (r * case.repeated(k) * by_key("r_k")).sum(-1, keepdim=True) * case.repeated(v)
    y = y * case.split(low_rank(case, "g_lora", mixed["g"], torch.sigmoid))
    return case.out(case.add_window(y, *local)), state
