#!/usr/bin/env python3
"""A student's folder with nothing of its teacher: matrices from N(0, 0.02), norms 1, gates' biases as they are. `student.start` takes it, to train
from scratch what others begin with the teacher's weights.

    scripts/scratch_student.py STUDENT OUT [SEED]
"""
import pathlib
import shutil
import sys

import safetensors.torch
import torch


def main(student, out, seed="1"):
    student, out = pathlib.Path(student), pathlib.Path(out)
    if out.exists():
        sys.exit(f"scratch_student.py: {out}: is there already")
    tensors = safetensors.torch.load_file(student / "model.safetensors")
    generator = torch.Generator().manual_seed(int(seed))
    for name in sorted(tensors):
        tensor = tensors[name]
        if name.endswith("norm.weight"):
            tensors[name] = torch.ones_like(tensor)
        elif tensor.dim() > 1:
            tensors[name] = (torch.randn(tensor.shape, generator=generator) * 0.02).to(tensor.dtype)
    shutil.copytree(student, out, ignore=shutil.ignore_patterns("*.safetensors"))
    safetensors.torch.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
main(*sys.argv[1:])
