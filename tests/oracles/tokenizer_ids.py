#!/usr/bin/env python3
"""Token ids and decoded text against pip's tokenizers: real text, nasty Unicode, added tokens.

tokenizer_ids.py TOOL      (the built tokenizer_tool)
  RETORT_TEACHER     SmolLM2-135M-Instruct GGUF (default models/SmolLM2-135M-Instruct.Q4_1.gguf)
  RETORT_TOKENIZERS  folder with {llama3_1,qwen3,llama2}/package/models and mistral/mistral_common/data
                     (default .cache/tokenizers, which scripts/fetch_tokenizers.sh fills)
  RETORT_DATA        folder with text/*.zst (default ../shared/data)
  RETORT_ONLY        only the tokenizers whose name contains this
  RETORT_FULL=1      all text for every tokenizer; otherwise all of it for SmolLM2 and a sample for the others
"""
import io
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIP = 77


def skip(why):
    print("SKIPPED:", why)
    sys.exit(SKIP)


try:
    import gguf
    import tokenizers
    import zstandard
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
except ImportError as e:
    skip(f"pip package missing: {e}")

MARK = "\u2581"


def nasty_texts():
    """Deterministic texts that break tokenizers."""
    spaces = "\t\n\x0b\x0c\r \x85\xa0\u1680\u180e\u2000\u2001\u2002\u2003\u2007\u2009\u200a\u200b\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
    digits = "0123456789٠١٢٣٤٥۰۱۲०१२০১২௧௨௩๐๑๒༠༡᠐᠑０１２𝟎𝟏𝟐²³¹½⅓Ⅷⅻ①②㊿〇一二𐒠𖩠𑁦"
    words = ["Hello", "world", "don't", "DON'T", "I'LL", "we'Ve", "it'ſ", "naïve", "na\u0131ve", "e\u0301te\u0301", "été", "ﬁﬂ", "Straße",
             "İstanbul", "ДОМ", "привет", "γειά", "שָׁלוֹם", "مرحبا", "بِسْمِ", "हिन्दी", "க்ஷ", "ไทย", "日本語", "中文", "한국어", "\u1112\u1161\u11ab",
             "Việt", "Vie\u0302\u0323t", "a\u0323\u0307", "a\u0307\u0323", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "1️⃣", "\u200bzero", "𝕬𝖇𝖈", "𐐀𐐨",
             "\U000e0041", "\U0010ffff", "\ufffd", "\ufffe", "\ud7ff", "\ue000", "ȺȾ", "ǅ", "ʰ", "ª", "_x_", "__init__", "#@!$%^&*()",
             "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>", "<|begin_of_text|>", "<|eot_id|>", "<think>",
             "</think>", "<tool_call>", "[INST]", "[/INST]", "<|im_start", "im_end|>", "<", "<|", "▁", "▁▁", "Ġ", "Ċ", "Ã©", "\\n", "http://x.y/z?a=1&b=2",
             "3.14159", "1,000,000", "0x1F", "''", "'s", "'", "''s", "' s", "...", "—", "“quoted”", "\x00", "\x01\x02", "\x1b[0m", "\x7f", "\x80", "\x9f"]
    texts = ["", " ", "  ", "\n", "\r", "\r\n", "\n\n \n", "a", " a", "a ", "  a  ", "\ta", "a\r\rb\r\n\r\nc", "\u00a0a", "a\u00a0", "\ufeffa",
             spaces, "".join("x" + s for s in spaces), "".join(s + s + "y" for s in spaces), "".join(" " + s for s in spaces),
             digits, " ".join(digits), "a".join(digits), "a" * 5000, " " * 3000, "\n" * 1000, "ab" * 3000, "0" * 1000, "!" * 1000,
             "日" * 1000, "👍" * 500, "\u0301" * 300, "a" + "\u0301" * 50 + "\u0323" * 20, "\x00" * 20, "\t " * 200, "▁" * 200, " ▁ ▁▁  ▁a",
             "".join(map(chr, range(0x00, 0x250))), "".join(map(chr, range(0x250, 0x700))), "".join(map(chr, range(0x2000, 0x2c00))),
             "".join(map(chr, range(0xfb00, 0xfffe))), "".join(map(chr, range(0x1f300, 0x1f700))), "".join(words), " ".join(words)]
    # every code point: assigned, unassigned, private, none
    for first in range(0x700, 0x110000, 4096):
        cps = [c for c in range(first, min(first + 4096, 0x110000)) if not 0xD800 <= c < 0xE000]
        if cps and (first < 0x33000 or 0xE0000 <= first < 0xE1000 or first > 0x10F000):
            texts += ["".join(map(chr, cps)), " ".join(map(chr, cps[::7])), "1".join(map(chr, cps[::11]))]
    rng = random.Random(20)
    pool = words + list(spaces) + list(digits) + [" "] * 60 + ["\n"] * 10
    for _ in range(600):
        texts.append("".join(rng.choice(pool) for _ in range(rng.randrange(1, 60))))
    for _ in range(300):
        texts.append("".join(chr(rng.choice([rng.randrange(0x20, 0x7f), rng.randrange(0xa0, 0x600), rng.randrange(0x900, 0x3000),
                                             rng.randrange(0x4e00, 0x9fff), rng.randrange(0x1f300, 0x1f9ff), 0x20, 0x0a, 0x300, 0x200d]))
                             for _ in range(rng.randrange(1, 80))))
    return texts


def shared_texts():
    folder = pathlib.Path(os.environ.get("RETORT_DATA", ROOT / ".." / "shared" / "data")) / "text"
    texts = []
    for path in sorted(folder.glob("*.zst")):
        raw = zstandard.ZstdDecompressor().stream_reader(path.open("rb"))
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        if path.name.endswith(".jsonl.zst"):
            texts += [json.loads(line)["text"] for line in text if line.strip()]
        else:
            texts.append(text.read())
    if not texts:
        print("SKIPPED PART: no text/*.zst in", folder)
    return texts


def call(tool, model, mode, payloads, item):
    """Feeds records to the tool and returns the records it answers."""
    data = b"".join(struct.pack("<I", len(p) // item) + p for p in payloads)
    out_item = 4 if mode.startswith("encode") else 1
    started = time.time()
    out = subprocess.run([tool, str(model), mode], input=data, capture_output=True)
    if out.returncode:
        sys.exit(f"FAILED: {model} {mode}: {out.stderr.decode()}")
    records, pos = [], 0
    while pos < len(out.stdout):
        n = struct.unpack_from("<I", out.stdout, pos)[0] * out_item
        records.append(out.stdout[pos + 4:pos + 4 + n])
        pos += 4 + n
    if len(records) != len(payloads):
        sys.exit(f"FAILED: {model} {mode}: {len(records)} answers for {len(payloads)} questions")
    return records, time.time() - started


def pack(ids):
    return struct.pack(f"<{len(ids)}i", *ids)


def first_difference(ours, theirs):
    n = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"at {n}: ours {ours[max(0, n - 3):n + 5]} theirs {theirs[max(0, n - 3):n + 5]}"


def encode_all(oracle, texts, **kw):
    ids = []
    for i in range(0, len(texts), 64):
        ids += [e.ids for e in oracle.encode_batch(texts[i:i + 64], **kw)]
    return ids


def compare(tool, name, model, oracle, texts, what):
    bad = 0

    def report(kind, text, ours, theirs):
        nonlocal bad
        bad += 1
        if bad <= 6:
            print(f"  DIFFERS {name} {what} {kind}: {text[:60]!r} {first_difference(ours, theirs)}")

    payloads = [t.encode() for t in texts]
    theirs = encode_all(oracle, texts)
    ours, seconds = call(tool, model, "encode", payloads, 1)
    for text, a, b in zip(texts, ours, theirs):
        if a != pack(b):
            report("encode", text, list(struct.unpack(f"<{len(a) // 4}i", a)), b)
    oracle.encode_special_tokens = True
    plain = encode_all(oracle, texts, add_special_tokens=False)
    oracle.encode_special_tokens = False
    ours, _ = call(tool, model, "encode-plain", payloads, 1)
    for text, a, b in zip(texts, ours, plain):
        if a != pack(b):
            report("encode-plain", text, list(struct.unpack(f"<{len(a) // 4}i", a)), b)
    for mode, skip_special in (("decode", False), ("decode-skip", True)):
        ours, _ = call(tool, model, mode, [pack(i) for i in theirs], 4)
        want = oracle.decode_batch(theirs, skip_special_tokens=skip_special)
        for text, a, b in zip(texts, ours, want):
            if a != b.encode():
                report(mode, text, a, b.encode())
    # Cuts inside characters: decoding must repair what `tokenizers` repairs.
    cut = [i[k % 3 + 1:len(i) - k % 4] for k, i in enumerate(theirs[:400])]
    ours, _ = call(tool, model, "decode", [pack(i) for i in cut], 4)
    for i, a, b in zip(cut, ours, oracle.decode_batch(cut, skip_special_tokens=False)):
        if a != b.encode():
            report("decode-cut", str(i[:20]), a, b.encode())
    size = sum(map(len, payloads))
    print(f"{'ok  ' if bad == 0 else 'FAIL'} {name} {what}: {len(texts)} texts, {size / 1e6:.1f} MB, "
          f"{sum(map(len, theirs))} tokens, {bad} differences; encode with loading {seconds:.2f} s")
    return bad


def smollm2_oracle(path):
    reader = gguf.GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    t = tokenizers.Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, types) if k == 3])
    return t


def sentencepiece_oracle(model_path):
    """A tokenizer.json for a SentencePiece BPE model, the way transformers' converter of Llama does it."""
    from sentencepiece import SentencePieceProcessor
    from transformers.convert_slow_tokenizer import generate_merges
    sp = SentencePieceProcessor(model_file=str(model_path))
    pieces = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())]
    vocab = {p: i for i, (p, _) in enumerate(pieces)}
    merges = generate_merges(vocab, dict(pieces), [sp.id_to_piece(i) for i in range(len(pieces)) if sp.is_control(i)])
    t = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=pieces[sp.unk_id()][0], fuse_unk=True, byte_fallback=True))
    t.add_special_tokens([AddedToken(pieces[i][0], special=True, normalized=False) for i in range(len(pieces))
                          if sp.is_control(i) or sp.is_unknown(i)])
    t.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    t.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    bos = pieces[sp.bos_id()][0]
    t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, sp.bos_id())])
    return t, sp


def write_llama_gguf(sp, path):
    """The same SentencePiece model as GGUF metadata."""
    n = sp.get_piece_size()
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("llama")
    w.add_token_list([sp.id_to_piece(i) for i in range(n)])
    w.add_token_scores([sp.get_score(i) for i in range(n)])
    w.add_token_types([2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(n)])
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    w.add_add_bos_token(True)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def write_byte_level_gguf(folder, pre, path):
    """A byte-level tokenizer.json as GGUF metadata."""
    root = json.loads((folder / "tokenizer.json").read_text())
    tokens = dict((i, (t, 1)) for t, i in root["model"]["vocab"].items())
    tokens.update((a["id"], (a["content"], 3 if a["special"] else 4)) for a in root["added_tokens"])
    rows = [tokens[i] for i in range(len(tokens))]
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list([t for t, _ in rows])
    w.add_token_types([k for _, k in rows])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in root["model"]["merges"]])
    if pre == "llama-bpe":
        w.add_bos_token_id(128000)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def tekken_oracle(path):
    """Tekken's vocabulary as a tokenizer.json: merges are every cut into two ranked pieces, by rank."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    import base64
    raw = json.loads(path.read_text())
    special, n = raw["config"]["default_num_special_tokens"], raw["config"]["default_vocab_size"]
    pieces = [base64.b64decode(v["token_bytes"]) for v in raw["vocab"][:n - special]]
    letters = bytes_to_unicode()
    spell = {p: "".join(letters[b] for b in p) for p in pieces}
    rank = {p: i for i, p in enumerate(pieces)}
    merges = []
    for p in pieces:
        cuts = [(rank[p[:k]], rank[p[k:]], p[:k], p[k:]) for k in range(1, len(p)) if p[:k] in rank and p[k:] in rank]
        merges += [(spell[a], spell[b]) for _, _, a, b in sorted(cuts)]
    names = {t["rank"]: t["token_str"] for t in raw.get("special_tokens") or []}
    names = [names.get(i, f"<SPECIAL_{i}>") for i in range(special)]
    if "<s>" not in names:
        names[:3] = ["<unk>", "<s>", "</s>"]
    vocab = {s: i for i, s in enumerate(names)}
    vocab.update((spell[p], special + i) for p, i in rank.items())
    t = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(raw["config"]["pattern"]), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in names])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])])
    return t


def odd_tokenizers():
    """Small files for flags that the real ones do not use."""
    vocab = {"<unk>": 0, "a": 1, "b": 2, "ab": 3, MARK: 4, MARK + "a": 5, "c": 6, "1": 7, "2": 8, ".": 9, "B": 10, "abc": 11}
    merges = [("a", "b"), (MARK, "a"), ("ab", "c")]
    for name, scheme, split, unk_fuse in (("metaspace-first", "first", False, True), ("metaspace-always", "always", True, False),
                                          ("metaspace-never", "never", True, True)):
        t = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=unk_fuse))
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=scheme, split=split)
        t.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme=scheme)
        t.add_special_tokens([AddedToken("<s>", special=True, lstrip=True), AddedToken("</s>", special=True, rstrip=True)])
        t.add_tokens([AddedToken("word", single_word=True, normalized=True), AddedToken("AB", normalized=True, lstrip=True, rstrip=True)])
        yield name, t
    forms = [("nfc", normalizers.NFC()), ("nfd", normalizers.NFD()), ("nfkc", normalizers.NFKC()), ("nfkd", normalizers.NFKD()),
             ("lower-strip", normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()]))]
    letters = {c: i for i, c in enumerate(["<unk>"] + [chr(c) for c in [*range(0x21, 0x250), *range(0x300, 0x370)]])}
    for name, form in forms:
        t = tokenizers.Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
        t.normalizer = form
        t.add_tokens([AddedToken("Été", normalized=True), AddedToken("X Y", normalized=False)])
        t.decoder = decoders.Fuse()
        yield "form-" + name, t
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            t = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
            t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"[b\s]|\p{Lu}|\d+(?=\.)"), behavior, invert),
                                                       pre_tokenizers.Digits(individual_digits=False)])
            t.decoder = decoders.Fuse()
            yield f"split-{behavior}-{invert}", t
    t = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.WhitespaceSplit()])
    t.decoder = decoders.Fuse()
    yield "punctuation", t


def odd_texts():
    rng = random.Random(3)
    pool = ["a", "b", "c", "ab", "abc", " ", "  ", MARK, "1", "2", "12.", ".", "\n", "B", "<s>", "</s>", "word", "sword", "AB", "Ab", "é", "e\u0301", "Été", "X Y", "?"]
    return ["", " ", "a b", " word ", "a  <s>  b", "</s>   a"] + ["".join(rng.choice(pool) for _ in range(rng.randrange(1, 20))) for _ in range(1500)]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tool = sys.argv[1]
    full = os.environ.get("RETORT_FULL") == "1"
    teacher = pathlib.Path(os.environ.get("RETORT_TEACHER", ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    files = pathlib.Path(os.environ.get("RETORT_TOKENIZERS", ROOT / ".cache/tokenizers"))
    nasty, text = nasty_texts(), shared_texts()
    sample = text if full else random.Random(7).sample(text, min(len(text), 300))
    bad = done = 0
    with tempfile.TemporaryDirectory() as temporary:
        temp = pathlib.Path(temporary)

        def wanted(name):
            return os.environ.get("RETORT_ONLY", "") in name

        def both(name, model, oracle, texts):
            nonlocal bad, done
            done += 1
            bad += compare(tool, name, model, oracle, nasty, "nasty")
            for i in range(0, len(texts), 2000):  # in parts: everything at once takes gigabytes
                bad += compare(tool, name, model, oracle, texts[i:i + 2000], f"text {i // 2000 + 1}")

        def saved(name, model, oracle):
            """What we write must be what pip reads."""
            nonlocal bad
            out = temp / (name + "-saved")
            out.mkdir()
            subprocess.run([tool, str(model), "save", str(out)], check=True)
            again = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
            differs = sum(a != b for a, b in zip(encode_all(again, nasty), encode_all(oracle, nasty)))
            print(f"{'FAIL' if differs else 'ok  '} {name}: written tokenizer.json read by pip, {differs} of {len(nasty)} differ")
            bad += differs
            bad += compare(tool, name + "-saved", out, oracle, nasty, "nasty")

        odd = odd_texts()
        for name, oracle in odd_tokenizers():
            if not wanted(name):
                continue
            path = temp / (name + ".json")
            oracle.save(str(path))
            bad += compare(tool, name, path, oracle, odd, "odd")
            done += 1
        if not wanted("smollm2"):
            pass
        elif teacher.exists():
            oracle = smollm2_oracle(teacher)
            both("smollm2-gguf", teacher, oracle, text)
            saved("smollm2", teacher, oracle)
        else:
            print("SKIPPED PART: no", teacher)
        for name, pre in (("llama3_1", "llama-bpe"), ("qwen3", "qwen2"), ("llama2", None)):
            folder = files / name / "package/models"
            if not wanted(name):
                continue
            if not folder.exists():
                print("SKIPPED PART: no", folder)
                continue
            oracle = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            both(name, folder, oracle, sample)
            if pre:
                path = temp / (name + ".gguf")
                write_byte_level_gguf(folder, pre, path)
                bad += compare(tool, name + "-gguf", path, oracle, nasty, "nasty")
                saved(name, path, oracle)
        mistral = files / "mistral/mistral_common/data"
        for version, file in (("v1", "tokenizer.model.v1"), ("v3", "mistral_instruct_tokenizer_240323.model.v3")):
            if not wanted("mistral-" + version):
                continue
            if not (mistral / file).exists():
                print("SKIPPED PART: no", mistral / file)
                continue
            oracle, sp = sentencepiece_oracle(mistral / file)
            path = temp / f"mistral-{version}.json"
            oracle.save(str(path))
            both("mistral-" + version, path, oracle, sample)
            path = temp / f"mistral-{version}.gguf"
            write_llama_gguf(sp, path)
            bad += compare(tool, f"mistral-{version}-gguf", path, oracle, nasty, "nasty")
            saved("mistral-" + version, path, oracle)
        if not wanted("tekken"):
            pass
        elif (mistral / "tekken_240911.json").exists():
            oracle = tekken_oracle(mistral / "tekken_240911.json")
            path = temp / "tekken.json"
            oracle.save(str(path))
            both("tekken", path, oracle, sample)
        else:
            print("SKIPPED PART: no", mistral / "tekken_240911.json")
    print(f"{done} tokenizers, {bad} differences")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
