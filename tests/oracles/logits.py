#!/usr/bin/env python3
"""The teacher's logits against `transformers` on the same dequantised weights, in f32.

usage: logits.py RETORT MODEL.gguf TEXT [TOKENS]        exits 77 when a package or a file is absent
"""
import os
import subprocess
import sys
import tempfile

# Both sides sum 30 layers of f32 products in different orders; logits are of size 10 to 30.
TOLERANCE = 1e-3


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


try:
    import gguf
    import numpy as np
    import torch
    import transformers
except ImportError as error:
    skip(f"{error.name} is not installed (pip)")


def metadata(reader, key):
    field = reader.fields[key]
    return field.parts[field.data[0]][0]


def unpermute(weight, heads):
    """GGUF stores the rows of q and k with rope's halves interleaved."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def load(path):
    reader = gguf.GGUFReader(path)
    get = lambda key: metadata(reader, f"llama.{key}")
    heads, kv_heads = int(get("attention.head_count")), int(get("attention.head_count_kv"))
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    config = transformers.LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0], hidden_size=int(get("embedding_length")),
        intermediate_size=int(get("feed_forward_length")), num_hidden_layers=int(get("block_count")),
        num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=float(get("attention.layer_norm_rms_epsilon")),
        rope_theta=float(get("rope.freq_base")), max_position_embeddings=int(get("context_length")),
        tie_word_embeddings="output.weight" not in tensors, attn_implementation="eager")
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    state = {}
    for name, values in tensors.items():
        if name.startswith("blk."):
            _, layer, kind, _ = name.split(".")
            if kind in ("attn_q", "attn_k"):
                values = unpermute(values, heads if kind == "attn_q" else kv_heads)
            state[f"model.layers.{layer}.{names[kind]}.weight"] = values
        elif name == "token_embd.weight":
            state["model.embed_tokens.weight"] = values
        elif name == "output_norm.weight":
            state["model.norm.weight"] = values
        elif name == "output.weight":
            state["lm_head.weight"] = values
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict({k: torch.from_numpy(np.array(v, dtype=np.float32)) for k, v in state.items()}, strict=True)
    return model.eval()


def main():
    retort, path, text = sys.argv[1:4]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 512
    for file in (path, text):
        if not os.path.exists(file):
            skip(f"{file} is absent")
    tokenize = subprocess.run([retort, "tokenize", path, "--text", text, "--json"], check=True, capture_output=True, text=True)
    import json
    ids = json.loads(tokenize.stdout)["ids"][:count]
    assert len(ids) == count, f"{text} has only {len(ids)} tokens"
    with tempfile.TemporaryDirectory() as folder:
        id_file, dump = os.path.join(folder, "ids"), os.path.join(folder, "logits.f32")
        with open(id_file, "w") as out:
            out.write(" ".join(map(str, ids)))
        subprocess.run([retort, "perplexity", path, "--ids", id_file, "--ctx-size", str(count), "--weights", "f32",
                        "--dump-logits", dump], check=True, stdout=subprocess.DEVNULL)
        ours = np.fromfile(dump, dtype=np.float32).reshape(count, -1)
    model = load(path)
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].float().numpy()
    difference = np.abs(ours - theirs).max()
    print(f"{count} tokens: max |difference| {difference:.2e} of logits up to {np.abs(theirs).max():.1f}; tolerance {TOLERANCE:.0e}")
    sys.exit(0 if difference <= TOLERANCE else 1)


main()
