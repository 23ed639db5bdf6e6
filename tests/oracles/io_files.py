#!/usr/bin/env python3
"""Retort's file readers and writer against pip's `gguf`, `safetensors` and `transformers`, bit for bit.

  io_files.py IO_DUMP [TEACHER.gguf]

Random blocks of every GGUF type decode to the same f32; safetensors written by either side are read by the other; the
configuration and the q/k rows of llama GGUFs come back as `transformers` has them. Exit code 77: a package is missing.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
    import safetensors
    import safetensors.numpy
    import torch
    import safetensors.torch
except ImportError as missing:
    print(f"skipped: {missing} (pip install -r scripts/test-requirements.txt)")
    sys.exit(77)

DUMP = sys.argv[1]
failures = 0


def check(condition, what):
    global failures
    if not condition:
        failures += 1
        print("FAILED:", what)


def dump(mode, path):
    folder = pathlib.Path(tempfile.mkdtemp(dir=ROOT))
    subprocess.run([DUMP, mode, str(path), str(folder)], check=True)
    table = json.loads((folder / "tensors.json").read_text())
    values = {n: np.fromfile(folder / f"{n}.f32", dtype=np.float32).reshape(t["shape"]) for n, t in table.items()}
    config = folder / "config.json"
    return table, values, json.loads(config.read_text()) if config.exists() else None


def same(a, b):
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def random_blocks(kind, blocks, random):
    """Random bytes, with f16 scales that are finite: NaN payloads are nobody's contract."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (blocks, size), dtype=np.uint8)
    scales = {"Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}.get(kind.name, [0, 2])
    for at in scales:
        data[:, at:at + 2] = random.normal(0, 1, blocks).astype(np.float16).view(np.uint8).reshape(blocks, 2)
    return data


def gguf_types():
    random = np.random.default_rng(1)
    path = ROOT / "types.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    expected = {}
    for name in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]:
        kind = gguf.GGMLQuantizationType[name]
        rows, per_row = 7, 3
        data = random_blocks(kind, rows * per_row, random).reshape(rows, -1)
        writer.add_tensor(name, data, raw_dtype=kind)
        expected[name] = gguf.quants.dequantize(data, kind).astype(np.float32)
    halves = np.arange(65536, dtype=np.uint16)
    f16 = halves[np.isfinite(halves.view(np.float16))]
    writer.add_tensor("F16", f16.view(np.float16))
    expected["F16"] = f16.view(np.float16).astype(np.float32)
    bf16 = halves[(halves & 0x7F80) != 0x7F80]
    writer.add_tensor("BF16", bf16.view(np.uint8).reshape(1, -1), raw_dtype=gguf.GGMLQuantizationType.BF16)
    expected["BF16"] = (bf16.astype(np.uint32) << 16).view(np.float32).reshape(1, -1)
    f32 = random.normal(0, 1, (3, 5)).astype(np.float32)
    writer.add_tensor("F32", f32)
    expected["F32"] = f32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    table, values, _ = dump("gguf", path)
    for name, want in expected.items():
        check(table[name]["type"] == name, f"{name}: type {table[name]['type']}")
        check(same(values[name], want), f"{name}: values differ")
    print(f"gguf: {len(expected)} types decode bit for bit")


def safetensors_both_ways():
    path = ROOT / "ours.safetensors"
    subprocess.run([DUMP, "write", str(path)], check=True)
    read = safetensors.torch.load_file(path)
    want = (torch.arange(15, dtype=torch.float32) - torch.tensor(3.3)).reshape(3, 5)
    for name, dtype in [("t.F32", torch.float32), ("t.BF16", torch.bfloat16), ("t.F16", torch.float16)]:
        check(read[name].dtype == dtype and torch.equal(read[name], want.to(dtype)), f"pip reads our {name} differently")
    with safetensors.safe_open(path, "pt") as file:
        check(file.metadata() == {"by": "retort", "format": "pt"}, f"metadata {file.metadata()}")
    path = ROOT / "theirs.safetensors"
    theirs = {"a": torch.randn(3, 7), "b": torch.randn(5).bfloat16(), "c": torch.randn(2, 3, 4).half(), "scalar": torch.tensor(2.5),
              "integers": torch.arange(4)}
    safetensors.torch.save_file(theirs, path, metadata={"format": "pt"})
    _, values, _ = dump("safetensors", path)
    check("integers" not in values, "integers are no weights")
    for name in ["a", "b", "c", "scalar"]:
        check(same(values[name], theirs[name].float().numpy()), f"we read {name} differently")
    print("safetensors: written and read alike by both sides")


def hugging_face_folders():
    try:
        import transformers
    except ImportError:
        print("transformers is missing: folders not compared")
        return
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sizes = dict(vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 max_position_embeddings=16384)
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 8192}
    for kind, extra in [("Llama", dict(rope_parameters=llama3)), ("Mistral", dict(sliding_window=None, head_dim=16)),
                        ("Qwen2", dict(tie_word_embeddings=True)), ("Qwen3", dict(head_dim=16))]:
        config = getattr(transformers, kind + "Config")(**sizes, **extra)
        model = getattr(transformers, kind + "ForCausalLM")(config)
        folder = ROOT / kind
        model.save_pretrained(folder, max_shard_size="20KB" if kind == "Qwen3" else "5GB")
        _, values, ours = dump("model", folder)
        state = model.state_dict()
        if config.tie_word_embeddings:
            state.pop("lm_head.weight")
        check(set(values) == set(state), f"{kind}: names {set(values) ^ set(state)}")
        for name in values:
            check(same(values[name], state[name].float().numpy()), f"{kind}: {name} differs")
        (folder / "config.json").write_text(json.dumps(ours))
        again = transformers.AutoConfig.from_pretrained(folder)
        for key in ["hidden_size", "head_dim", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size"]:
            if hasattr(config, key):
                check(getattr(again, key) == getattr(config, key), f"{kind}: {key} of the written config")
        before, after = dict(config.rope_parameters), dict(again.rope_parameters)
        check(before == after, f"{kind}: rope {before} became {after}")
    print("folders: llama, mistral, qwen2, qwen3 read as transformers wrote them, config.json written back alike")


def teacher(path):
    if not path or not pathlib.Path(path).exists():
        print(f"{path or 'teacher'} is not there: the real GGUF is not compared")
        return
    reader = gguf.GGUFReader(path)
    _, values, config = dump("model", path)
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "mlp.down_proj": "ffn_down"}
    tensors = {t.name: t for t in reader.tensors}
    for layer in [0, config["num_hidden_layers"] - 1]:
        for hf, name in names.items():
            tensor = tensors[f"blk.{layer}.{name}.weight"]
            want = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            if name in ("attn_q", "attn_k"):
                n = heads[name[-1]]
                want = want.reshape(n, want.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(want.shape)
            check(same(values[f"model.layers.{layer}.{hf}.weight"], np.ascontiguousarray(want)), f"layer {layer} {hf} differs")
    print("teacher: rows of q and k come back half-split, every value bit for bit")


with tempfile.TemporaryDirectory() as root:
    ROOT = pathlib.Path(root)
    gguf_types()
    safetensors_both_ways()
    hugging_face_folders()
    teacher(sys.argv[2] if len(sys.argv) > 2 else None)
print("ok" if not failures else f"{failures} failures")
sys.exit(1 if failures else 0)
