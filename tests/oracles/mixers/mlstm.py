"""mLSTM as in xLSTM-7B (mixers.md 3.2, arXiv 2503.13427)."""
import torch

from case import layer_norm, log_sigmoid
from outside import Outside, called
from outside_cores import MLSTM as CORES
from recurrences import mlstm


def layer(case, core=mlstm):
    q, k, v = case.qkv()
    cap = lambda u: case.fields["soft_cap"] * torch.tanh(u / case.fields["soft_cap"])
    forget = cap(case.linear("fgate_proj"))
    write = log_sigmoid(-forget) if case.fields["coupled"] else cap(case.linear("igate_proj"))  # the logarithm of the gate
    gates = (case.repeated(case.leaving(gate)) for gate in (write, forget))
    y, state = core(case.turned(q) / case.head_dim**0.5, case.repeated(case.far(case.turned(k))), case.repeated(case.far(v)), *gates)
    y = layer_norm(y, None, case.eps).reshape(case.rows, -1) * case.get("norm.weight")
    y = case.split(torch.sigmoid(case.linear("ogate_proj")) * y)
    return case.out(case.add_window(y, q, k, v)), state


def xlstm_layer(module, case):
    """transformers' own xLSTM layer; it knows neither grouped keys and values nor biases and norms of q, k and v."""
    from transformers import xLSTMConfig

    def by_head(name, rows):
        t = case.get(name)
        return t.reshape(case.kv_heads, rows, -1).repeat_interleave(case.group, 0).reshape(case.heads * rows, *t.shape[1:])

    tensors = {"q.weight": case.get("q_proj.weight"), "ogate_preact.weight": case.get("ogate_proj.weight"),
               "multihead_norm.weight": case.get("norm.weight"), "out_proj.weight": case.get("o_proj.weight")}
    for name in "kv":
        tensors[name + ".weight"] = by_head(name + "_proj.weight", case.head_dim)
    for name in "if":
        for part in ("weight", "bias"):
            tensors[f"{name}gate_preact.{part}"] = by_head(f"{name}gate_proj.{part}", 1)
    config = xLSTMConfig(hidden_size=case.x.shape[1], num_heads=case.heads, qk_dim_factor=1.0, v_dim_factor=1.0, num_hidden_layers=1,
                         gate_soft_cap=case.fields["soft_cap"], norm_eps=case.eps, eps=0.0, mode="inference", chunk_size=8,
                         autocast_kernel_dtype="float32", inference_state_dtype="float32", return_last_states=True)
    y, (c, n, m) = called(module(config), tensors, case.x)
    return y[0], torch.cat([c[0], n[0][..., None]], -1) * m[0].reshape(-1, 1, 1).exp()


LAYERS = [Outside("transformers xlstm.modeling_xlstm:xLSTMLayer", xlstm_layer, suits=lambda case: not (
    case.window or case.fields["coupled"] or case.fields["rope"] or case.get("q_proj.bias") is not None))]
