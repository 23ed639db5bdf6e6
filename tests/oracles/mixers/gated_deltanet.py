"""Gated DeltaNet (mixers.md 3.13, arXiv 2412.06464)."""
import torch

from case import rms, silu
from deltanet import corrected
from outside import Outside, called
from outside_cores import GATED_DELTA as CORES
from recurrences import delta


def layer(case, core=delta):
    step = torch.nn.functional.softplus(case.linear("a_proj") + case.get("dt_bias"))
    y, state = corrected(case, core, -case.get("A_log").exp() * step)
    y = rms(y, case.get("o_norm.weight"), case.eps) * silu(case.split(case.linear("g_proj")))
    return case.out(case.add_window(y, *case.qkv())), state


def qwen_layer(module, case):
    """transformers' layer of Qwen3.5, which knows neither biases and norms of q, k and v nor layers without convolution."""
    from transformers import Qwen3_5TextConfig

    def by_head(name, rows):
        t = case.get(name)
        return t.reshape(case.kv_heads, rows, -1).repeat_interleave(case.group, 0).reshape(case.heads * rows, *t.shape[1:])

    together = lambda q, k, v: torch.cat([case.get(q), by_head(k, case.head_dim), by_head(v, case.head_dim)])
    tensors = {"in_proj_qkv.weight": together("q_proj.weight", "k_proj.weight", "v_proj.weight"),
               "conv1d.weight": together("q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight")[:, None],
               "in_proj_z.weight": case.get("g_proj.weight"), "norm.weight": case.get("o_norm.weight"),
               "in_proj_a.weight": by_head("a_proj.weight", 1), "in_proj_b.weight": by_head("b_proj.weight", 1),
               "A_log": by_head("A_log", 1), "dt_bias": by_head("dt_bias", 1), "out_proj.weight": case.get("o_proj.weight")}
    config = Qwen3_5TextConfig(hidden_size=case.x.shape[1], linear_num_key_heads=case.heads, linear_num_value_heads=case.heads,
                               linear_key_head_dim=case.head_dim, linear_value_head_dim=case.head_dim, rms_norm_eps=case.eps,
                               linear_conv_kernel_dim=case.fields["conv_size"], num_hidden_layers=1, layer_types=["linear_attention"])
    return called(module(config, 0), tensors, case.x)[0], None


LAYERS = [Outside("transformers qwen3_5.modeling_qwen3_5:Qwen3_5GatedDeltaNet", qwen_layer, suits=lambda case: not (
    case.window or case.fields["rope"] or case.fields["allow_neg_eigval"] or not case.fields["conv_size"] or case.get("q_proj.bias") is not None))]
