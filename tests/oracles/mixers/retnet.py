"""Retention (mixers.md 3.5, arXiv 2307.08621) with the normalisers that a norm per head makes superfluous left out."""
import math

import torch

from case import rms, silu
from outside import Outside
from outside_cores import SCALAR, by_head, unscaled
from recurrences import decaying


def layer(case, core=decaying):
    q, k, v = case.qkv()
    head = torch.arange(case.heads).double()
    decay = 2.0 ** -(5 + head)
    if case.fields["bounded"]:
        decay = torch.exp(torch.linspace(math.log(1 / 32), math.log(1 / 512), case.heads, dtype=torch.float64))
    log_decay = torch.log1p(-decay)[None, :, None].expand(case.rows, -1, 1)
    y, state = core(case.turned(q) / case.head_dim**0.5, case.repeated(case.far(case.turned(k))), case.repeated(case.far(v)), log_decay)
    y = rms(y, case.get("g_norm.weight"), case.eps) * silu(case.split(case.linear("g_proj")))
    return case.out(case.add_window(y, q, k, v)), state


def retention(f):
    # Has its own decays, for as many heads as there are, and no state.
    return lambda q, k, v, log_decay: (f(*by_head(unscaled(q), k, v))[0].transpose(0, 1), None)


CORES = [Outside("fla ops/retention/naive.py:naive_retention", retention, suits=lambda case: not case.fields["bounded"]), *SCALAR]
