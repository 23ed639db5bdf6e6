#!/usr/bin/env python3
"""`retort serve` through the openai package, as it is: sync, async, streams, errors, cancellation.

usage: openai_client.py RETORT TINY_MODEL        exits 77 when the package is absent
"""
import asyncio
import sys
import tempfile
import time
import urllib.request

from served import Served, tiny_model

try:
    import openai
except ImportError as error:
    print(f"skipped: {error.name} is not installed (pip)")
    sys.exit(77)

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def metric(url, name):
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": "Bearer right"})
    text = urllib.request.urlopen(request).read().decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"retort:{name} ")))


def sync(client):
    assert [m.id for m in client.models.list()] == ["teacher"]
    whole = client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=12, seed=3, n=2, logprobs=True, top_logprobs=3)
    assert [c.finish_reason for c in whole.choices] == ["length", "length"] and whole.usage.completion_tokens == 24
    assert len(whole.choices[0].logprobs.content) == 12 and len(whole.choices[0].logprobs.content[0].top_logprobs) == 3
    stream = client.chat.completions.create(model="any", messages=MESSAGES, max_completion_tokens=12, seed=3, stream=True,
                                            stream_options={"include_usage": True})
    pieces = list(stream)
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == whole.choices[0].message.content, (text, whole.choices[0].message.content)
    assert pieces[-1].usage.completion_tokens == 12
    plain = client.completions.create(model="any", prompt=["a", "bc"], max_tokens=4, echo=True, logprobs=2, temperature=0)
    assert [len(c.logprobs.token_logprobs) for c in plain.choices] == [5, 6] and plain.choices[1].text.startswith("bc")
    assert plain.choices[0].logprobs.token_logprobs[0] is None
    ids = client.completions.create(model="any", prompt=[97], max_tokens=4, temperature=0)
    assert "a" + ids.choices[0].text == plain.choices[0].text


async def many(client):
    async def one(i):
        return (await client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=10, seed=i)).choices[0].message.content

    async def streamed(i):
        stream = await client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=10, seed=i, stream=True)
        return "".join([p.choices[0].delta.content or "" async for p in stream])

    whole, streams = await asyncio.gather(asyncio.gather(*map(one, range(12))), asyncio.gather(*map(streamed, range(12))))
    assert whole == streams and len(set(whole)) > 1


def errors(client, url):
    def refused(kind, **fields):
        try:
            client.chat.completions.create(**{"model": "any", "messages": MESSAGES, "max_tokens": 4, **fields})
        except kind as error:
            return error
        raise AssertionError(f"{fields} was not refused with {kind}")

    error = refused(openai.BadRequestError, temperature=-1)
    assert "temperature" in error.message and error.body["type"] == "invalid_request_error", error.body
    refused(openai.BadRequestError, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}})
    refused(openai.BadRequestError, messages=[])
    wrong = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong")
    try:
        wrong.models.list()
        raise AssertionError("a wrong key was taken")
    except openai.AuthenticationError:
        pass


def cancellation(client, url):
    before = metric(url, "requests_cancelled_total")
    endless = {"ignore_eos": True}
    stream = client.chat.completions.create(model="any", messages=MESSAGES, max_tokens=10**8, stream=True, extra_body=endless)
    next(iter(stream))
    stream.close()
    try:
        client.with_options(timeout=3, max_retries=0).chat.completions.create(model="any", messages=MESSAGES, max_tokens=10**8, extra_body=endless)
        raise AssertionError("no timeout")
    except openai.APITimeoutError:
        pass
    for _ in range(600):
        if metric(url, "requests_cancelled_total") - before == 2 and metric(url, "requests_processing") == 0:
            return
        time.sleep(0.05)
    raise AssertionError("what nobody waits for still runs")


def main():
    retort, program = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        with Served(retort, tiny_model(program, folder), "--api-key", "right", "-c", "0", "--threads", "1") as server:
            base = f"{server.url}/v1"
            client = openai.OpenAI(base_url=base, api_key="right")
            sync(client)
            asyncio.run(many(openai.AsyncOpenAI(base_url=base, api_key="right")))
            errors(client, server.url)
            cancellation(client, server.url)
    print(f"openai {openai.__version__}: sync, async, streams, errors, cancellation")


main()
