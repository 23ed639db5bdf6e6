"""Gated linear attention (mixers.md 3.3, arXiv 2312.06635)."""
from case import log_sigmoid, rms, silu
from outside_cores import PER_KEY as CORES
from recurrences import decaying


def layer(case, core=decaying):
    q, k, v = case.qkv()
    z = case.linear("gk_proj.1", case.linear("gk_proj.0"))
    log_decay = case.split(log_sigmoid(z) / case.fields["gate_temperature"])
    q_far, k_far, v_far = case.turned(convolved(case, q, "q")), case.turned(convolved(case, k, "k")), convolved(case, v, "v")
    y, state = core(q_far / case.head_dim**0.5, *(case.repeated(case.far(n)) for n in (k_far, v_far, log_decay)))
    y = rms(y, case.get("g_norm.weight"), case.eps) * silu(case.split(case.linear("g_proj")))
    return case.out(case.add_window(y, q, k, v)), state


def convolved(case, z, name):
    if not case.fields["conv_size"]:
        return z
    return case.split(silu(case.conv(z.reshape(case.rows, -1), case.get(name + "_conv1d.weight"))))
