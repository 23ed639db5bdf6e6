"""Softmax attention (mixers.md 3.15), whole or through a window with sinks."""
import torch

from outside import Outside


def layer(case):
    return case.out(case.attention(*case.qkv())[0]), None


def fused(f, case):
    q, k, v = case.qkv()
    q, k, v = case.rope(q), case.repeated(case.rope(k)), case.repeated(v)
    y = f(*(z.transpose(0, 1)[None] for z in (q, k, v)), attn_mask=case.seen())
    return case.out(y[0].transpose(0, 1)), None


LAYERS = [Outside("torch nn.functional:scaled_dot_product_attention", fused)]
