"""The libraries that an exported model runs in. Each has `target`, what `retort convert --to` calls it, `tolerance`, and

    log_probabilities(path, ids)    (which rows, [rows, vocabulary]); what a library does not tell is not finite
"""
import os
import pathlib
import struct
import subprocess
import unittest.mock

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton's kernels are defined

import numpy as np
import torch
import transformers
from transformers.integrations import hub_kernels

from students import TEXT, VOCABULARY

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Absent(Exception):
    """Not installed here; the message says what is missing."""


class Transformers:
    tolerance = 1e-4  # the same f32 products in other orders

    def __init__(self, target):
        self.target = target

    def load(self, path):
        """The model, and what of its tensors did not fit."""
        # Where other packages are installed transformers takes their layers, which want GPU kernels, instead of its own.
        patch = unittest.mock.patch.object
        no_xlstm = patch(transformers.utils, "is_xlstm_available", lambda: False)
        with no_xlstm, patch(hub_kernels, "resolve_internal_import", side_effect=ImportError):
            return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)

    def log_probabilities(self, path, ids):
        model, info = self.load(path)
        wrong = {what: names for what, names in info.items() if names}
        assert not wrong, f"{path.name}: {wrong}"
        with torch.no_grad():
            logits = model.eval()(torch.tensor([ids]), use_cache=False).logits[0]
        return slice(None), torch.log_softmax(logits.double(), -1).numpy()


class FlashLinearAttention(Transformers):
    """Its own classes and kernels, the kernels in Triton's interpreter; the layers that are kept call a package for GPUs, which torch's
    attention stands in for. Not over 64 tokens: from there it takes kernels that the interpreter cannot run."""

    def __init__(self):
        super().__init__("fla")

    def load(self, path):
        try:
            import fla.layers.attn
            import fla.models
            from triton.runtime.autotuner import Autotuner
        except (ImportError, RuntimeError) as missing:
            raise Absent(f"flash-linear-attention: {missing}") from missing
        Autotuner.run = first_configuration
        fla.layers.attn.flash_attn_func = attention
        return super().load(path)


def attention(q, k, v, causal, window_size):
    """flash_attn_func: [batch, tokens, heads, head_dim], window_size tokens before the current one, -1 for all."""
    assert causal
    before = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
    seen = (before >= 0) & (before <= (window_size[0] if window_size[0] >= 0 else q.shape[1]))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)


def first_configuration(tuner, *arguments, **options):
    """Autotuner.run without measuring which configuration is fastest, which wants a GPU."""
    tuner.nargs = dict(zip(tuner.arg_names, arguments))
    chosen = tuner.configs[0]
    if chosen.pre_hook:
        chosen.pre_hook({**tuner.nargs, **options, **chosen.all_kwargs()})
    return tuner.fn.run(*arguments, **options, **chosen.all_kwargs())


class LlamaCpp:
    """llama-perplexity keeps log-probabilities in 16 bits over a range of 16 and more: steps of 2.5e-4."""
    target = "gguf"
    tolerance = 5e-4

    def log_probabilities(self, path, ids):
        """The second half of the window; values it cut off are -inf."""
        folder = os.environ.get("RETORT_LLAMA_CPP")
        if not folder:
            raise Absent("llama.cpp: $RETORT_LLAMA_CPP does not name a folder with llama-perplexity")
        text, base = path.with_suffix(".txt"), path.with_suffix(".kld")
        text.write_text(TEXT)
        program = pathlib.Path(folder) / "llama-perplexity"
        run = subprocess.run([program, "-m", path, "-f", text, "-c", str(len(ids)), "--chunks", "1", "-t", "2", "-ctk", "f32", "-ctv", "f32",
                              "-fa", "off", "--kl-divergence-base", base], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-1500:]
        data = base.read_bytes()
        magic, window, vocabulary, chunks = struct.unpack_from("<8siii", data)
        assert (magic, window, vocabulary) == (b"_logits_", len(ids), VOCABULARY)
        read = np.frombuffer(data, np.int32, window * chunks, 20)[:window]
        assert read.tolist() == ids, f"llama.cpp's ids are {read.tolist()}"
        rows, width = window - 1 - window // 2, 2 * ((vocabulary + 1) // 2) + 4
        packed = np.frombuffer(data, np.uint16, rows * width, 20 + 4 * window * chunks).reshape(rows, width)
        scale, least = np.ascontiguousarray(packed[:, :4]).view(np.float32).T
        steps = packed[:, 4:4 + vocabulary].astype(np.float64)
        return slice(window // 2, window - 1), np.where(steps > 0, scale[:, None] * steps + least[:, None], -np.inf)
