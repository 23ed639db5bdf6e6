"""HGRN2 (mixers.md 3.4, arXiv 2404.07904)."""
import torch

from case import rms, silu
from outside_cores import PER_KEY as CORES
from recurrences import decaying


def layer(case, core=decaying):
    q = case.normed("q", case.split(case.linear("q_proj")))
    v = case.split(case.linear("i_proj"))
    bound = case.fields["lower_bound"]
    forget = bound + (1 - bound) * torch.sigmoid(case.linear("f_proj"))
    k, log_decay = case.split(1 - forget), case.split(forget.log())
    y, state = core(silu(q) / case.head_dim**0.5, *(case.repeated(case.far(n)) for n in (k, v, log_decay)))
    y = case.split(rms(y.reshape(case.rows, -1), case.get("g_norm.weight"), case.eps))
    if case.window:  # with the keys that the recurrence has no use for
        y = case.add_window(y, q, case.normed("k", case.split(case.linear("k_proj"))), v)
    return case.out(y), state
