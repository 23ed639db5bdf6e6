"""Discrete Mamba-2 (mixers.md 3.12, arXiv 2502.14458)."""
from case import log_sigmoid, silu
from outside_cores import SCALAR as CORES
from recurrences import decaying


def layer(case, core=decaying):
    e, g = case.heads * case.head_dim, case.kv_heads * case.head_dim
    xbc = case.conv(case.linear("in_proj"), case.get("conv1d.weight"), case.get("conv1d.bias"))
    x, b, c = (case.split(z) for z in xbc.split([g, g, e], -1))
    b, c = case.normed("k", b), case.normed("q", c * case.head_dim**0.5) / case.head_dim**0.5
    log_decay = log_sigmoid(-case.linear("a_proj"))[..., None]
    y, state = core(case.turned(c), case.repeated(case.far(case.turned(b))), case.repeated(case.far(x)), case.far(log_decay))
    if case.get("D") is not None:
        y = y + case.get("D")[:, None] * case.repeated(x)
    y = y * silu(case.split(case.linear("in_proj_z") + case.get("z_bias")))
    return case.out(case.add_window(y, c * case.head_dim**0.5, b, x), "out_proj"), state
