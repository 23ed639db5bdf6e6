"""S6 as in The Mamba in the Llama (mixers.md 3.11, arXiv 2312.00752 and 2408.15237)."""
import torch

from case import silu
from outside_cores import SELECTIVE as CORES
from recurrences import selective


def layer(case, core=selective):
    raw = case.split(case.linear("in_proj_x"))
    b = case.normed("k", case.split(case.linear("B_proj")))
    c = case.normed("q", case.split(case.linear("C_proj")) * case.head_dim**0.5) / case.head_dim**0.5
    x = case.split(silu(case.conv(case.repeated(raw).reshape(case.rows, -1), case.get("conv1d.weight"), case.get("conv1d.bias"))))
    step = case.split(torch.nn.functional.softplus(case.linear("dt_proj", case.linear("dt_proj_down"))))
    rate = -case.get("A_log").exp().reshape(case.heads, case.head_dim, -1)
    y, state = core(case.far(x), case.far(step), rate, case.repeated(case.far(case.turned(b))), case.turned(c))
    if case.get("D") is not None:
        y = y + case.split(case.get("D")) * x
    y = y * silu(case.split(case.linear("in_proj_z")))
    return case.out(case.add_window(y, c * case.head_dim**0.5, b, raw), "out_proj"), state
