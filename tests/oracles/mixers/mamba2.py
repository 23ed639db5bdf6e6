"""Mamba-2 (mixers.md 3.6, arXiv 2405.21060) with x and B of as many heads as the teacher's keys; elsewhere that is a group a head."""
import torch

from case import rms, silu
from outside import Outside, called
from outside_cores import CHUNK, batch
from recurrences import decaying


def stepping(x, step, rate, b, c):
    """S_t = e^(step rate) S_{t-1} + step b x^T;  y = S^T c.  x, b, c [T, H, channels], step [T, H], rate [H]."""
    return decaying(c, step[..., None] * b, x, (step * rate)[..., None])


def layer(case, core=stepping):
    e, g = case.heads * case.head_dim, case.kv_heads * case.head_dim
    conv = case.conv(case.linear("in_proj"), case.get("conv1d.weight"), case.get("conv1d.bias"))
    v, k, q = (case.split(n) for n in conv.split([g, g, e], -1))  # the window sees them without SiLU
    k, q = case.normed("k", k), case.normed("q", q * case.head_dim**0.5)
    x, b, c = silu(v), silu(k), silu(q / case.head_dim**0.5)
    step = torch.nn.functional.softplus(case.linear("dt_proj") + case.get("dt_bias"))
    far_step = case.far(step[..., None])[..., 0]
    x, b = case.repeated(x), case.repeated(case.turned(b))
    y, state = core(case.far(x), far_step, -case.get("A_log").exp(), case.far(b), case.turned(c))
    if case.get("D") is not None:
        y = y + case.get("D")[:, None] * x
    y = rms(y * silu(case.split(case.linear("in_proj_z"))), case.split(case.get("norm.weight")), case.eps)
    return case.out(case.add_window(y, q, k, v), "out_proj"), state


def chunk_scan(f):
    def core(x, step, rate, b, c):
        y, state = f(*batch(x, step), rate, *batch(b, c), CHUNK, return_final_states=True)
        return y[0], state[0].transpose(1, 2)

    return core


CORES = [Outside(f"transformers {source}:mamba2_chunk_scan", chunk_scan) for source in ("mamba2.modeling_mamba2", "bamba.modeling_bamba")]


def tensors(case):
    """With the rows of x and B for every head, and one projection for everything."""
    e, g = case.heads * case.head_dim, case.kv_heads * case.head_dim

    def by_head(rows):
        return rows.reshape(case.kv_heads, case.head_dim, -1).repeat_interleave(case.group, 0).reshape(e, *rows.shape[1:])

    def every_head(t):
        x, b, c = t.split([g, g, e])
        return torch.cat([by_head(x), by_head(b), c])

    out = dict(case.tensors)
    out["in_proj.weight"] = torch.cat([out.pop("in_proj_z.weight"), every_head(out["in_proj.weight"]), out.pop("dt_proj.weight")])
    out["conv1d.weight"] = every_head(out["conv1d.weight"])[:, None]
    out["conv1d.bias"] = every_head(out["conv1d.bias"])
    return out


def mamba2_mixer(module, case):
    from transformers import Mamba2Config

    config = Mamba2Config(hidden_size=case.x.shape[1], num_heads=case.heads, head_dim=case.head_dim, expand=1, state_size=case.head_dim,
                          n_groups=case.heads, conv_kernel=case.fields["conv_size"], chunk_size=CHUNK, num_hidden_layers=1,
                          layer_norm_epsilon=case.eps)
    return called(module(config, 0), tensors(case), case.x)[0], None


def bamba_mixer(module, case):
    from transformers import BambaConfig

    config = BambaConfig(hidden_size=case.x.shape[1], mamba_n_heads=case.heads, mamba_d_head=case.head_dim, mamba_n_groups=case.heads,
                         mamba_d_state=case.head_dim, mamba_expand=1, mamba_d_conv=case.fields["conv_size"], mamba_chunk_size=CHUNK,
                         rms_norm_eps=case.eps, num_hidden_layers=1)
    return called(module(config, 0), tensors(case), case.x)[0], None


alone = lambda case: not (case.window or case.fields["rope"] or case.get("q_norm.weight") is not None)
LAYERS = [
    Outside("transformers mamba2.modeling_mamba2:Mamba2Mixer", mamba2_mixer, suits=alone),
    Outside("transformers bamba.modeling_bamba:BambaMixer", bamba_mixer, suits=alone),
]
