#!/usr/bin/env python3
"""`retort eval` against lm-evaluation-harness itself (`hf` backend, f32): rows, prompts, log-likelihoods, results, table.

usage: lm_eval_parity.py RETORT [--model FOLDER] [--data FOLDER] [--limit N] [--tasks A,B] [--shots 0,5] [--all]
exits 77 when a package is absent

Without --model: a small random Llama, and tokenizers trained on the spot, one of which puts a BOS in front of everything. Without --data:
a few documents of every task, written below, with whatever is awkward in them. The harness's own task definitions are used in both cases;
only its access to the Hugging Face hub is replaced by the same files that Retort reads.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", DISABLE_MULTIPROC="1")
TOLERANCE = 1e-3  # of a document's log-likelihood: both sides sum f32 products in different orders


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


try:
    import datasets
    import lm_eval
    import torch
    import transformers
    import zstandard
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import hash_string, make_table
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
except ImportError as error:
    skip(f"{error.name} is not installed (pip)")

# The harness's dataset and its configuration: Retort's files, and the splits that the harness asks for.
FILES = {
    ("allenai/ai2_arc", "ARC-Easy"): ("arc_easy", ["train", "validation", "test"]),
    ("allenai/ai2_arc", "ARC-Challenge"): ("arc_challenge", ["train", "validation", "test"]),
    ("Rowan/hellaswag", None): ("hellaswag", ["train", "validation"]),
    ("baber/piqa", None): ("piqa", ["train", "validation"]),
    ("allenai/winogrande", "winogrande_xl"): ("winogrande_xl", ["train", "validation"]),
    ("EleutherAI/lambada_openai", "default"): ("lambada_openai", ["test"]),
    ("cimec/lambada", None): ("lambada_standard", ["validation", "test"]),
    ("cais/mmlu", None): ("mmlu", ["dev", "test"]),
    ("allenai/openbookqa", "main"): ("openbookqa_main", ["train", "validation", "test"]),
    ("EleutherAI/race", "high"): ("race_high", ["test"]),
    ("truthfulqa/truthful_qa", "multiple_choice"): ("truthfulqa_mc", ["validation"]),
    ("bigbio/pubmed_qa", "pubmed_qa_labeled_fold0_source"): ("pubmedqa", ["train", "validation", "test"]),
    ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1"): ("wikitext", ["train", "validation", "test"]),
}
TASKS = ["arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "lambada_openai", "lambada_standard", "mmlu", "openbookqa", "race",
         "truthfulqa_mc1", "truthfulqa_mc2", "pubmedqa", "wikitext"]
MMLU = ["abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge", "college_biology", "college_chemistry",
        "college_computer_science", "college_mathematics", "college_medicine", "college_physics", "computer_security", "conceptual_physics",
        "econometrics", "electrical_engineering", "elementary_mathematics", "formal_logic", "global_facts", "high_school_biology",
        "high_school_chemistry", "high_school_computer_science", "high_school_european_history", "high_school_geography",
        "high_school_government_and_politics", "high_school_macroeconomics", "high_school_mathematics", "high_school_microeconomics",
        "high_school_physics", "high_school_psychology", "high_school_statistics", "high_school_us_history", "high_school_world_history",
        "human_aging", "human_sexuality", "international_law", "jurisprudence", "logical_fallacies", "machine_learning", "management",
        "marketing", "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios", "nutrition", "philosophy", "prehistory",
        "professional_accounting", "professional_law", "professional_medicine", "professional_psychology", "public_relations",
        "security_studies", "sociology", "us_foreign_policy", "virology", "world_religions"]
WORDS = ("the river had been high all spring and nobody on the farm could remember a year like it ; Åse counted naïve façades — ‘quoted’ words , "
         "2 @,@ 000 of them , while 3 @.@ 5 °C was measured at the well @-@ known gate . ( See also ) the \" old \" mill 's wheel !").split()


def prose(seed, count):
    state, out = seed * 2654435761 % 2**32, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append(WORDS[(state >> 8) % len(WORDS)])
    return " ".join(out)


def written_rows(name, split, seed):
    """Documents of a dataset in its schema on the hub."""
    rows = []
    for i in range(9):
        s = seed * 1000 + i * 17
        question = prose(s, 6 + i) + ("?" if i % 2 else "  ?  ")
        answers = [prose(s + c + 1, 1 + (s + c) % 4) for c in range(4)]
        answers[3] = answers[2] + " indeed"
        labels = ["1", "2", "3", "4"] if i % 3 == 0 else ["A", "B", "C", "D"]
        count = 3 if i == 4 else 5 if i == 5 else 4
        labelled = {"text": (answers + ["none"])[:count], "label": (labels + ["E"])[:count]}
        if name.startswith("arc"):
            rows.append({"id": f"r{i}", "question": question, "choices": labelled, "answerKey": labelled["label"][i % count]})
        elif name == "openbookqa_main":
            rows.append({"id": f"o{i}", "question_stem": question, "choices": labelled, "answerKey": " " * (i % 2) + labelled["label"][i % count]})
        elif name == "hellaswag":
            rows.append({"ind": i, "activity_label": "Mending NETS", "ctx_a": f"[header] {prose(s, 5)} [title] {prose(s + 1, 3)}",
                         "ctx_b": "" if i % 3 == 0 else "Åse THEN " + prose(s + 2, 2), "endings": [a + " [step] so  there." for a in answers],
                         "split": "val", "label": str(i % 4)})
        elif name == "piqa":
            rows.append({"goal": question, "sol1": answers[0], "sol2": answers[1] + " ", "label": i % 2})
        elif name == "winogrande_xl":
            rows.append({"sentence": f"{prose(s, 4)} as _ {prose(s + 1, 3)}. " if i != 6 else "It was then that she saw _ and left_",
                         "option1": "Åse", "option2": "the miller", "answer": str(1 + i % 2)})
        elif name.startswith("lambada"):
            rows.append({"text": prose(s, 20 + i) + ("" if i % 2 else " " + WORDS[i])})
        elif name == "mmlu":
            rows += [{"question": f" {question}\n", "subject": subject, "choices": answers, "answer": (i + k) % 4}
                     for k, subject in enumerate(MMLU) if i < 3]
        elif name == "race_high":
            problems = [{"question": prose(s + p, 5) + ("  _  ." if p == 1 else "?"), "answer": "ABCD"[(i + p) % 4],
                         "options": [a + ("'s \"\\" if p == 0 else "") for a in answers]} for p in range(1 + i % 3)]
            rows.append({"article": prose(s, 60) + "\n" + prose(s + 3, 20), "problems": repr(problems)})
        elif name == "truthfulqa_mc":
            rows.append({"question": question, "mc1_targets": {"choices": answers, "labels": [1, 0, 0, 0]},
                         "mc2_targets": {"choices": answers + ["maybe"], "labels": [1, 1, 0, 0, i % 2]}})
        elif name == "pubmedqa":
            rows.append({"QUESTION": question, "CONTEXTS": [prose(s, 15), prose(s + 1, 12)], "LABELS": ["BACKGROUND", "RESULTS"],
                         "final_decision": ["yes", "no", "maybe"][i % 3]})
        elif name == "wikitext":
            rows.append({"page": f" = {prose(s, 2)} = \n \n {prose(s + 1, 40 + 90 * i)} \n"})
    if name in ("piqa", "winogrande_xl") and split in ("train", "validation"):
        rows.append(rows[2])  # a document that stands there twice
    return rows


def rows_of_file(folder, name, split, limit):
    for end in (".jsonl", ".jsonl.zst"):
        path = pathlib.Path(folder) / f"{name}_{split}{end}"
        if path.exists():
            with open(path, "rb") as packed:
                data = packed.read() if end == ".jsonl" else zstandard.ZstdDecompressor().stream_reader(packed).read()
            rows = [json.loads(line) for line in data.decode().split("\n") if line.strip()]
            return rows if name == "mmlu" else rows[:limit]
    return None


def write_data(folder, source, limit):
    """Every split that either side may ask for: from `source` where it is there, a neighbouring split in place of one that is not."""
    tables = {}
    for name, splits in FILES.values():
        found = {s: rows_of_file(source, name, s, limit) for s in splits} if source else {}
        for n, split in enumerate(splits):
            rows = found.get(split) or next((r for r in found.values() if r), None) or written_rows(name, split, n + 1)
            tables[name, split] = rows
            (pathlib.Path(folder) / f"{name}_{split}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return tables


def serve_to_harness(tables):
    def load_dataset(path, name=None, **_):
        file, splits = FILES.get((path, name)) or FILES[path, None]
        chosen = lambda split: [r for r in tables[file, split] if file != "mmlu" or r["subject"] == name]
        return datasets.DatasetDict({split: datasets.Dataset.from_list(chosen(split)) for split in splits})
    datasets.load_dataset = load_dataset


def make_tokenizer(folder, with_bos, tables):
    texts = [" ".join(WORDS)] + [json.dumps(rows[:20], ensure_ascii=False) for rows in tables.values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    if with_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return tokenizer.get_vocab_size()


def make_model(folder, vocabulary):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, max_position_embeddings=384, initializer_range=0.2, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def ours(retort, model, data, tasks, shots, extra):
    with tempfile.TemporaryDirectory() as out:
        command = [retort, "eval", model, "--data", data, "--tasks", ",".join(tasks), "--num-fewshot", str(shots), "--weights", "f32",
                   "--out", out, "--log-samples", *extra]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}\n{done.stderr}")
        folder = next(pathlib.Path(out).iterdir())
        results = json.loads(next(folder.glob("results_*.json")).read_text())
        samples = {}
        for path in folder.glob("samples_*.jsonl"):
            name = path.name[len("samples_"):].rsplit("_", 1)[0]
            samples[name] = [json.loads(line) for line in path.read_text().split("\n") if line]
        return results, samples, done.stdout


def number(text):
    return float(text)


class Comparison:
    def __init__(self):
        self.problems, self.documents, self.worst, self.close = [], 0, 0.0, 0

    def problem(self, text):
        self.problems.append(text)
        if len(self.problems) <= 20:
            print(f"DIFFERENT: {text}")

    def sample(self, task, a, b):
        """a: the harness's logged sample, b: a line of ours."""
        where = f"{task} document {a['doc_id']}"
        self.documents += 1
        for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash", "filter", "metrics"):
            if a[key] != b[key]:
                self.problem(f"{where}: {key} {a[key]} is {b[key]}")
        arguments = [[b["arguments"][f"gen_args_{i}"][f"arg_{j}"] for j in range(len(arg))] for i, arg in enumerate(a["arguments"])]
        if arguments != [list(arg) for arg in a["arguments"]]:
            self.problem(f"{where}: prompts {a['arguments']} are {arguments}")
        rolling = not isinstance(a["filtered_resps"][0], (list, tuple))
        for c, (x, y) in enumerate(zip(a["filtered_resps"], b["filtered_resps"], strict=True)):
            x, y = ((x, None), (number(y), None)) if rolling else (x, (number(y[0]), y[1] == "True"))
            difference = abs(x[0] - y[0]) / (max(1, abs(x[0]) / 100) if rolling else 1)
            self.worst = max(self.worst, difference)
            if difference > TOLERANCE or x[1] != y[1]:
                self.problem(f"{where} choice {c}: {x} is {y}")
        for metric in a["metrics"]:
            x, y = a[metric], b[metric]
            x, y = (x, y) if isinstance(x, tuple) else ((x,), (y,))
            if any(abs(p - q) > max(TOLERANCE, TOLERANCE * abs(p)) for p, q in zip(x, y, strict=True)):
                scores = sorted((r[0] for r in a["filtered_resps"]), reverse=True)
                if len(scores) > 1 and scores[0] - scores[1] < TOLERANCE:
                    self.close += 1  # two choices closer than the tolerance
                else:
                    self.problem(f"{where}: {metric} {x} is {y}")

    def results(self, a, b, table):
        for task, expected in a["results"].items():
            found = b["results"].get(task, {})
            for key, value in expected.items():
                other = found.get(key)
                same = abs(value - other) <= 2 * TOLERANCE * max(1, abs(value)) if isinstance(value, float) and isinstance(other, float) else value == other
                if not same and not self.close:
                    self.problem(f"{task}: results[{key!r}] {value} is {other}")
            if set(found) != set(expected):
                self.problem(f"{task}: keys of results {sorted(expected)} are {sorted(found)}")
        for key in ("group_subtasks", "versions", "higher_is_better", "n-samples", "n-shot"):
            plain = lambda d: json.loads(json.dumps(d, sort_keys=True))
            x, y = plain(a.get(key, {})), plain(b.get(key, {}))
            if key == "group_subtasks":
                x, y = ({g: sorted(m) for g, m in v.items()} for v in (x, y))
            if key == "n-shot":
                x.pop("wikitext", None), y.pop("wikitext", None)  # the harness shows the number although it does not use it
            if x != y:
                self.problem(f"{key}: {x} is {y}")
        if set(a.get("groups", {})) != set(b.get("groups", {})):
            self.problem(f"groups {sorted(a.get('groups', {}))} are {sorted(b.get('groups', {}))}")
        samples = a["samples"]
        for task, rows in samples.items():
            digest = hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in rows))
            if b["task_hashes"].get(task) != digest:
                self.problem(f"{task}: task_hashes")
        if not self.close and "wikitext" not in a["results"]:  # its n-shot differs, see above
            for line in make_table(a).splitlines() + (make_table(a, "groups").splitlines() if "groups" in a else []):
                if line.strip() and not same_line(line, table):
                    self.problem(f"the table has no line {line!r}")


def same_line(line, table):
    """In the table, up to the last digit."""
    if line in table:
        return True
    cells = line.split("|")
    for other in table.splitlines():
        others = other.split("|")
        if len(others) == len(cells) and all(x == y or close_number(x, y) for x, y in zip(cells, others)):
            return True
    return False


def close_number(x, y):
    try:
        return abs(float(x) - float(y)) <= 2 * TOLERANCE * max(1, abs(float(x))) and len(x) == len(y)
    except ValueError:
        return False


def compare(comparison, retort, model, data, tasks, shots, limit, add_bos, max_length=None):
    extra = [] if limit is None else ["--limit", str(limit)]
    if max_length is not None:
        extra += ["--max-length", str(max_length)]
    options = {} if add_bos is None else {"add_bos_token": add_bos}
    if add_bos is not None:
        extra += ["--add-bos", "yes" if add_bos else "no"]
    mine, samples, table = ours(retort, model, data, tasks, shots, extra)
    backend = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=8, max_length=max_length, **options)
    theirs = lm_eval.simple_evaluate(model=backend, tasks=tasks, num_fewshot=shots, limit=limit, log_samples=True)
    for task, rows in theirs["samples"].items():
        if len(rows) != len(samples.get(task, [])):
            comparison.problem(f"{task}: {len(rows)} documents, {len(samples.get(task, []))} of ours")
            continue
        for a, b in zip(sorted(rows, key=lambda s: s["doc_id"]), samples[task]):
            comparison.sample(task, a, b)
    comparison.results(theirs, mine, table)
    print(f"{shots} examples, add_bos {add_bos}, max_length {max_length}: {comparison.documents} documents so far, "
          f"largest difference {comparison.worst:.1e}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retort")
    parser.add_argument("--model", help="a Hugging Face folder, as `retort convert` writes it")
    parser.add_argument("--data")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tasks", help="default: all, MMLU with its 57 subjects only with --all")
    parser.add_argument("--all", action="store_true", help="also MMLU, examples, BOS, and inputs too long for the model: minutes")
    parser.add_argument("--shots", default="0", help="with --model: numbers of examples, separated by commas")
    options = parser.parse_args()
    tasks = options.tasks.split(",") if options.tasks else [t for t in TASKS if options.all or t != "mmlu"]
    shots = [int(n) for n in options.shots.split(",")]
    comparison = Comparison()
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        os.mkdir(data)
        tables = write_data(data, options.data, 4 * options.limit if options.limit else None)
        serve_to_harness(tables)
        if options.model:
            for count in shots:
                compare(comparison, options.retort, options.model, data, tasks, count, options.limit, None)
        else:
            folders = {name: os.path.join(folder, name) for name in ("without_bos", "with_bos")}
            for name, model in folders.items():
                make_model(model, make_tokenizer(model, name == "with_bos", tables))
            few = [t for t in tasks if t not in ("mmlu", "race")]
            compare(comparison, options.retort, folders["without_bos"], data, tasks, 0, options.limit, None)
            if options.all:
                # As the tokenizer does, and against it; inputs that are too long for the model lose their beginning.
                compare(comparison, options.retort, folders["with_bos"], data, tasks, 2, options.limit, None)
                compare(comparison, options.retort, folders["without_bos"], data, few, 2, options.limit, True, max_length=100)
                compare(comparison, options.retort, folders["with_bos"], data, few, 0, options.limit, False)
    print(f"{comparison.documents} documents: {len(comparison.problems)} differences, {comparison.close} between choices closer than {TOLERANCE}; "
          f"largest difference of a log-likelihood {comparison.worst:.1e}")
    sys.exit(1 if comparison.problems else 0)


if __name__ == "__main__":
    main()
