#!/usr/bin/env python3
"""What `retort convert` writes for other libraries: loaded there, the logits agree with Retort's; read back, every tensor is the same.

    export RETORT STUDENT_TOOL      exit 0: all agree, 1: something differs, 77: a package is missing

Tiny students with random weights, some with an attention layer between the others. A library that is not here is left out by name:
flash-linear-attention's classes need Triton, which runs their kernels on a CPU by its interpreter; llama.cpp is where $RETORT_LLAMA_CPP
has llama-perplexity.
"""
import pathlib
import sys
import tempfile

try:
    import gguf
    import numpy as np
    import safetensors.numpy
    import torch
    import transformers  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing} (pip install -r scripts/test-requirements.txt)")
    sys.exit(77)

from libraries import Absent, FlashLinearAttention, LlamaCpp, Transformers
from students import Workshop


class Report:
    def __init__(self):
        self.failures, self.absent = 0, set()

    def say(self, good, what):
        self.failures += not good
        print(f"{'ok' if good else 'DIFFERS':8}{what}", flush=True)


def same_tensors(ours, back):
    """The first tensor whose bits differ, or None."""
    ours, back = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (ours, back))
    if set(ours) != set(back):
        return f"names {sorted(set(ours) ^ set(back))}"
    return next((n for n in ours if not np.array_equal(ours[n].view(np.uint32), back[n].view(np.uint32))), None)


def compare(shop, report, library, student):
    """One student in one library, and back."""
    exported = shop.convert(student, library.target)
    changed = same_tensors(student, shop.convert(exported, "hf"))
    name = f"{student.name} as {library.target}"
    report.say(changed is None, f"{name}: {'read back bit for bit' if changed is None else f'reads back with another {changed}'}")
    ids = shop.ids()
    try:
        rows, theirs = library.log_probabilities(exported, ids)
    except Absent as reason:
        report.absent.add(str(reason))
        return
    ours = torch.log_softmax(torch.from_numpy(shop.logits(student, ids)).double(), -1).numpy()[rows]
    difference = np.abs(ours - theirs)[np.isfinite(theirs)].max()
    report.say(difference <= library.tolerance,
               f"{name}: log-probabilities in {type(library).__name__} differ by {difference:.1e} of {library.tolerance:.0e}")


def blocks(shop, report):
    """Quantised matrices are what pip's gguf makes of the same values."""
    folder = shop.student("blocks", "attention")
    values = safetensors.numpy.load_file(folder / "model.safetensors")
    for dtype in ["f16", "bf16", "q8_0", "q4_0", "q4_1"]:
        written = shop.convert(folder, "gguf", dtype)
        tensor = {t.name: t for t in gguf.GGUFReader(written).tensors}["blk.1.ffn_down.weight"]
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        want = gguf.quants.quantize(values["model.layers.1.mlp.down_proj.weight"], kind)
        same = tensor.tensor_type == kind and np.array_equal(np.asarray(tensor.data).view(np.uint8), want.view(np.uint8))
        report.say(same, f"{dtype}: blocks as pip's gguf makes them")


def students_of(shop):
    """(library, student) for every class and the mixers in it."""
    fla, llama = FlashLinearAttention(), LlamaCpp()
    attention, window = dict(mixer="attention"), dict(mixer="window", window=8)
    for family in ["llama", "qwen2", "qwen3"]:
        yield llama, shop.student(family, "attention", teacher_model_type=family)
    for mixer, fields in [("gla", {}), ("hgrn2", dict(forget_bias=0)), ("retnet", {}), ("deltanet", {}), ("gated_deltanet", {}),
                          ("hedgehog", dict(shared=1, output_norm=1, rope=0))]:
        yield fla, shop.student(mixer, mixer, fields)
    yield fla, shop.student("deltanet gated", "deltanet", dict(output_gate=1, allow_neg_eigval=1))
    yield fla, shop.student("gla with convolutions", "gla", dict(conv_size=4))
    yield fla, shop.student("gla beside attention", "gla", between=attention)
    yield fla, shop.student("gla beside windows", "gla", between=window)
    for mamba2 in [shop.student("mamba2", "mamba2"), shop.student("mamba2 beside attention", "mamba2", between=attention)]:
        yield from [(Transformers("bamba"), mamba2), (Transformers("granite"), mamba2), (llama, mamba2)]
    gated = shop.student("gated_deltanet 1e-6", "gated_deltanet", rms_norm_eps=1e-6)
    yield from [(Transformers("qwen3_5"), gated), (llama, gated)]
    heads_of_64 = dict(hidden_size=128, num_attention_heads=2, num_key_value_heads=1, head_dim=64)
    for tied in (False, True):
        yield llama, shop.student(f"rwkv7{' tied' if tied else ''}", "rwkv7", tie_word_embeddings=tied, **heads_of_64)
    yield Transformers("mistral"), shop.student("window", "window", window)
    for tied in (False, True):
        yield Transformers("xlstm"), shop.student(f"mlstm{' tied' if tied else ''}", "mlstm", tie_word_embeddings=tied)


def main(retort, student_tool):
    torch.set_num_threads(2)
    report = Report()
    with tempfile.TemporaryDirectory() as root:
        shop = Workshop(pathlib.Path(root), retort, student_tool)
        blocks(shop, report)
        for library, student in students_of(shop):
            compare(shop, report, library, student)
    for reason in sorted(report.absent):
        print(f"SKIP (this part only): {reason}")
    print("all agree" if not report.failures else f"{report.failures} differ")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
