#!/usr/bin/env python3
"""The selective scan's kernel (output, last state, gradients) against the plain-torch selective scan of transformers' Mamba.

    selective_scan.py SCAN_TOOL        exit 0: agree, 1: differ, 77: torch or transformers is missing
"""
import json
import subprocess
import sys

try:
    import torch
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan
except ImportError as error:
    print(f"SKIP: {error}")
    sys.exit(77)

TOLERANCE = 1e-5  # both in float32, sums of up to a hundred decayed terms; largest difference over largest value


class Case:
    def __init__(self, line):
        self.__dict__.update(json.loads(line))

    def rows(self, name):
        """[H, columns, T]"""
        return torch.tensor(getattr(self, name)).view(self.tokens, self.heads, -1).permute(1, 2, 0)

    def memory(self, name):
        """[H, channels, cells]"""
        return torch.tensor(getattr(self, name)).view(self.heads, self.cells, self.channels).transpose(1, 2)


def theirs(case):
    """Theirs has one B and C for all channels: a call per head."""
    names = ["x", "step", "rate", "k", "q"]
    leaves = [case.rows(n) if n != "rate" else case.memory(n) for n in names]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    outs = [mamba_selective_scan(x[None], dt[None], a, b[None], c[None], return_last_state=True) for x, dt, a, b, c in zip(*leaves)]
    y, state = (torch.cat([o[i].float() for o in outs]) for i in (0, 1))
    gradients = torch.autograd.grad((y * case.rows("d_out")).sum(), leaves)
    return {"output": y, "last state": state, **{f"gradient of {n}": g for n, g in zip(names, gradients)}}


def ours(case):
    """Ours takes v = step x."""
    dv, x, step = case.rows("dv"), case.rows("x"), case.rows("step")
    return {"output": case.rows("y"), "last state": case.memory("state"), "gradient of x": dv * step, "gradient of step": case.rows("dstep") + dv * x,
            "gradient of rate": case.memory("drate"), "gradient of k": case.rows("dk"), "gradient of q": case.rows("dq")}


def main():
    lines = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout.splitlines()
    failed = not lines
    for line in lines:
        case = Case(line)
        mine = ours(case)
        for name, want in theirs(case).items():
            error = ((mine[name] - want).abs().max() / want.abs().max()).item()
            verdict = "ok" if error < TOLERANCE else "DIFFERS"
            failed |= verdict != "ok"
            print(f"{verdict:8} {error:.1e}  {name}, {case.heads} heads of {case.channels} channels, {case.cells} cells, rates to -{case.strongest}")
    return 1 if failed else 0


sys.exit(main())
