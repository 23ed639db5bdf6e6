"""Slots: cells written by a softmax and read by an exponential, under one normaliser with the window."""
import torch

from outside_cores import SUMMING as CORES
from recurrences import summing


def layer(case, core=summing):
    q, k, v = case.qkv()
    phi = torch.einsum("tgd,gmd->tgm", case.leaving(k), case.get("write.weight")) + case.get("write.bias")
    read = torch.einsum("thd,hmd->thm", q, case.get("read.weight")) + case.get("read.bias")
    largest = read.detach().amax(-1, keepdim=True)
    written = case.repeated(phi.softmax(-1) * case.alive)
    far, total, state = core((read - largest).exp(), written, case.repeated(case.far(v)), 0.0)
    return case.out(case.under_one_normaliser(far, total, largest[..., 0], q, k, v)), state
