"""DeltaNet (mixers.md 3.8, arXiv 2406.06484); and what it shares with gated DeltaNet."""
import torch

from case import l2, rms, silu
from outside_cores import DELTA as CORES
from recurrences import delta


def activated(case, z, name):
    """SiLU(conv(z)) where there are convolutions."""
    if not case.fields["conv_size"]:
        return z
    return case.split(silu(case.conv(z.reshape(case.rows, -1), case.get(name + "_conv1d.weight"))))


def corrected(case, core, log_decay):
    """What the delta rule gives for this layer's q, k, v and beta; and its last state."""
    q, k, v = (activated(case, z, n) for n, z in zip("qkv", case.qkv()))
    beta = torch.sigmoid(case.linear("b_proj")) * (2 if case.fields["allow_neg_eigval"] else 1)
    far = [case.repeated(case.far(z)) for z in (case.turned(l2(k)), v, beta[..., None], log_decay[..., None])]
    return core(case.turned(l2(q)) / case.head_dim**0.5, far[0], far[1], far[2][..., 0], far[3][..., 0])


def layer(case, core=delta):
    y, state = corrected(case, core, torch.zeros(case.rows, case.kv_heads, dtype=torch.float64))
    y = rms(y, case.get("o_norm.weight"), case.eps)
    if case.fields["output_gate"]:
        y = y * silu(case.split(case.linear("g_proj")))
    return case.out(case.add_window(y, *case.qkv())), state
