"""Starts `retort serve` for an oracle that is a client of it."""
import json
import os
import re
import subprocess

# A conversation as text: enough for a model of bytes.
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}<assistant>"


def tiny_model(program, folder):
    """A tiny random model with a chat template. Its path."""
    subprocess.run([program, folder], check=True)
    model = os.path.join(folder, "teacher")
    with open(os.path.join(model, "tokenizer_config.json"), "w") as out:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}, out)
    return model


class Served:
    """with Served(retort, model, flags...) as server: server.url is where it listens."""

    def __init__(self, retort, model, *flags):
        self.process = subprocess.Popen([retort, "serve", model, "--port", "0", *flags], stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        found = re.search(r"http://[0-9.]+:\d+", line)
        assert found, line
        self.url = found.group(0)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        assert code == 0, f"the server ended with {code}: {self.process.stderr.read()}"
