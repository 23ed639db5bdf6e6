#!/usr/bin/env python3
"""lm-eval's `local-completions`, as it is, over `retort serve`: its log-likelihoods against those of `retort perplexity`'s logits.

usage: lm_eval_client.py RETORT MODEL TEXT        exits 77 when a package or the model is absent
"""
import json
import os
import subprocess
import sys
import tempfile

from served import Served

# The server reads prompts in chunks, the other in one piece: fp32 sums in other orders, over continuations of a few dozen tokens.
TOLERANCE = 1e-3


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


try:
    import aiohttp  # noqa: F401: the two that its API models need
    import numpy as np
    import tenacity  # noqa: F401
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI
except ImportError as error:
    skip(f"{error.name} is not installed (pip)")


def cut(text, at):
    """Context and continuation. White space goes to the continuation: the harness would move it there."""
    context = text[:at].rstrip()
    return context, text[len(context):]


def tokens_of(retort, model, text, folder):
    path = os.path.join(folder, "text")
    with open(path, "w") as out:
        out.write(text)
    done = subprocess.run([retort, "tokenize", model, "--text", path, "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["ids"]


def reference(retort, model, ids, begin, folder):
    """Sum of the log-probabilities of ids[begin:], and whether each is the likeliest."""
    id_file, dump = os.path.join(folder, "ids"), os.path.join(folder, "logits")
    with open(id_file, "w") as out:
        out.write(" ".join(map(str, ids)))
    subprocess.run([retort, "perplexity", model, "--ids", id_file, "--ctx-size", str(len(ids)), "--weights", "f32", "--dump-logits", dump], check=True,
                   stdout=subprocess.DEVNULL)
    logits = np.fromfile(dump, dtype=np.float32).reshape(len(ids), -1).astype(np.float64)
    rows, wanted = logits[begin - 1:-1], ids[begin:]
    log_sum = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
    return float(sum(rows[i, t] - log_sum[i] for i, t in enumerate(wanted))), bool((rows.argmax(1) == wanted).all())


def main():
    retort, model, text_file = sys.argv[1:4]
    for path in (model, text_file):
        if not os.path.exists(path):
            skip(f"{path} is absent")
    with open(text_file) as file:
        text = file.read()
    pairs = [("The sky is", " blue"), ("One, two, three, four,", " five"), cut(text[:380], 300), cut(text[1000:1830], 800), ("Q: 2+2=", " 5")]
    with tempfile.TemporaryDirectory() as folder, Served(retort, model, "--weights", "f32", "-np", "4") as server:
        lm = LocalCompletionsAPI(model="retort", base_url=f"{server.url}/v1/completions", tokenizer_backend="remote", num_concurrent=2, batch_size=2,
                                 max_length=1024)
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        ours = lm.loglikelihood(requests)
        rolling = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text[:400],), 0)])
        generated = lm.generate_until([Instance("generate_until", {}, ("One, two, three, four,", {"until": [" six"], "max_gen_toks": 8}), 0)])
        worst = 0
        for (context, continuation), (sum_, greedy) in zip(pairs, ours):
            ids = tokens_of(retort, model, context + continuation, folder)
            begin = len(tokens_of(retort, model, context, folder))
            expected, likeliest = reference(retort, model, ids, begin, folder)
            print(f"{sum_:.6f} {greedy}  {expected:.6f} {likeliest}  {continuation[:20]!r}")
            worst = max(worst, abs(sum_ - expected))
            assert greedy == likeliest
    assert np.isfinite(rolling[0]) and rolling[0] < 0
    assert " six" not in generated[0] and "five" in generated[0], generated
    print(f"max |difference| {worst:.2e}; tolerance {TOLERANCE:.0e}")
    sys.exit(0 if worst <= TOLERANCE else 1)


main()
