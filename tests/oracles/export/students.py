"""Tiny students with random weights, and what the programs make of them."""
import json
import subprocess

import numpy as np

TEXT = "The river has seven stones and a house. " * 8
TOKENS = 32
VOCABULARY = 260  # bytes, and rows that no token has


class Workshop:
    def __init__(self, root, retort, student_tool):
        self.root, self.retort, self.student_tool = root, retort, student_tool

    def ids(self):
        """A byte is its own token."""
        return list(TEXT.encode())[:TOKENS]

    def run(self, *arguments):
        done = subprocess.run([self.retort, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, f"retort {' '.join(map(str, arguments))}: {done.stderr}"

    def student(self, name, mixer, fields=None, between=None, **changes):
        """A folder with `mixer` in all three layers, or another part in the one between."""
        config = dict(model_type="retort", teacher_model_type="llama", num_hidden_layers=3, hidden_size=64, num_attention_heads=4,
                      num_key_value_heads=2, head_dim=16, intermediate_size=128, vocab_size=VOCABULARY, max_position_embeddings=128,
                      rms_norm_eps=1e-5, tie_word_embeddings=False, rope_theta=10000.0, bos_token_id=None, eos_token_id=None)
        config.update(changes)
        heads = list(range(config["num_key_value_heads"]))
        own = dict(fields or {}, mixer=mixer)
        config["mixers"] = [[dict(part, kv_heads=heads)] for part in (own, between or own, own)]
        written = self.root / f"{name}.json"
        written.write_text(json.dumps(config))
        subprocess.run([self.student_tool, str(written), str(self.root / name)], check=True)
        return self.root / name

    def convert(self, model, target, dtype="f32"):
        out = self.root / f"{model.name}.{target}"
        self.run("convert", model, "--to", target, "--dtype", dtype, "--out", out)
        return out

    def logits(self, model, ids):
        """[tokens, vocabulary], from Retort in f32."""
        (self.root / "ids").write_text(" ".join(map(str, ids)))
        dump = self.root / "logits"
        self.run("perplexity", model, "--ids", self.root / "ids", "--ctx-size", len(ids), "--weights", "f32", "--dump-logits", dump)
        return np.fromfile(dump, dtype=np.float32).reshape(len(ids), -1)
