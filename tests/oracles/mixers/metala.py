"""MetaLA (mixers.md 3.7, arXiv 2411.10741)."""
import torch

from case import layer_norm, log_sigmoid, silu
from outside_cores import PER_KEY as CORES
from recurrences import decaying


def layer(case, core=decaying):
    u = silu(case.conv(case.x, case.get("conv1d.weight"))) if case.fields["conv_size"] else case.x
    q = case.normed("q", case.split(case.linear("q_proj", u)))
    v = case.split(case.linear("v_proj", u))
    log_decay = case.split(log_sigmoid(case.linear("a_proj", u)) / case.fields["gate_temperature"])
    k = 1 - log_decay.exp()
    y, state = core(q / case.head_dim**0.5, *(case.repeated(case.far(n)) for n in (k, v, log_decay)))
    if case.get("aug_balance") is not None:
        share = (q * case.split(case.get("aug_balance")) * case.repeated(k)).sum(-1, keepdim=True)
        y = y + torch.sigmoid(share * case.repeated(v))
    y = layer_norm(y, None, case.eps) * silu(case.split(case.linear("g_proj", u)))
    return case.out(case.add_window(y, *case.qkv()) if case.window else y), state
