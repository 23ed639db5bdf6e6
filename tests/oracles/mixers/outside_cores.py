"""Other people's recurrences, put into our layers in the place of recurrences.py: same arguments, same results.

All want a batch in front, most multiply q by K^-1/2 themselves. `batch` gives [1, T, H, ..], `by_head` [1, H, T, ..].
"""
import torch

from outside import Outside


def batch(*tensors):
    return [t[None] for t in tensors]


def by_head(*tensors):
    return [t.transpose(0, 1)[None] for t in tensors]


def from_batch(y, state):
    return y[0], state[0]


def from_heads(y, state):
    return y[0].transpose(0, 1), state[0]


def unscaled(q):
    return q * q.shape[-1] ** 0.5


CHUNK = 8  # of the 24 tokens


def per_key(f):
    return lambda q, k, v, l: from_batch(*f(*batch(unscaled(q), k, v, l), output_final_state=True))


# A decay per key dimension.
PER_KEY = [Outside("fla ops/gla/naive.py:naive_recurrent_gla", per_key)]


def scalar(**arguments):
    return lambda f: lambda q, k, v, l: from_batch(*f(*batch(q, k, v, l[..., 0]), scale=1.0, output_final_state=True, **arguments))


def state_space(f):
    # dt = 1 would leave no decay to choose: the decay goes in as the step, and leaves x again.
    def core(q, k, v, l):
        step = -l[..., 0]
        y, state = f(*batch(v / step[..., None], step), -torch.ones(v.shape[1], dtype=v.dtype), *batch(k, q), CHUNK, return_final_states=True)
        return y[0], state[0].transpose(1, 2)

    return core


# A decay per head.
SCALAR = [
    Outside("fla ops/simple_gla/naive.py:naive_recurrent_simple_gla", scalar()),
    Outside("fla ops/simple_gla/naive.py:naive_chunk_simple_gla", scalar(chunk_size=CHUNK)),
    Outside("transformers mamba2.modeling_mamba2:mamba2_chunk_scan", state_space, suits=lambda case: not case.window),
]


def summing(f):
    def core(q, k, v, eps):
        total = (q * k.cumsum(0)).sum(-1)
        # It adds 1e-10 to the sum: scaled so that this is our eps, or next to none.
        y, (state, z) = f(*batch(q, k, v), scale=1e-10 / (eps or 1e-20), output_final_state=True, normalize=True)
        return y[0], total + eps, torch.cat([state[0], z[0].transpose(0, 1).transpose(1, 2)], -1)

    return core


# No decay, divided by the sum of the weights.
SUMMING = [Outside("fla ops/linear_attn/naive.py:naive_recurrent_linear_attn", summing)]


def delta_by_head(**arguments):
    # Without a decay.
    def adapt(f):
        return lambda q, k, v, beta, l: from_heads(*f(*by_head(unscaled(q), k, v, beta), **arguments))

    return adapt


DELTA = [
    Outside("fla ops/delta_rule/naive.py:delta_rule_recurrence", delta_by_head()),
    Outside("fla ops/delta_rule/naive.py:delta_rule_chunkwise", delta_by_head(chunk_size=CHUNK)),
]


def gated_delta(scaled=False, **arguments):
    def adapt(f):
        def core(q, k, v, beta, l):
            q = unscaled(q) if scaled else q
            scale = {} if scaled else {"scale": 1.0}
            y, state = f(*batch(q, k, v), g=l[None], beta=beta[None], output_final_state=True, **scale, **arguments)
            return y[0], state[0]

        return core

    return adapt


# With a decay per head.
GATED_DELTA = [
    Outside("fla ops/gated_delta_rule/naive.py:naive_recurrent_gated_delta_rule", gated_delta()),
    Outside("fla ops/gated_delta_rule/naive.py:naive_chunk_gated_delta_rule", gated_delta(chunk_size=CHUNK)),
    Outside("transformers qwen3_next.modeling_qwen3_next:torch_chunk_gated_delta_rule", gated_delta(scaled=True, chunk_size=CHUNK)),
    Outside("transformers qwen3_next.modeling_qwen3_next:torch_recurrent_gated_delta_rule", gated_delta(scaled=True)),
]


def rank_one(**arguments):
    def adapt(f):
        return lambda q, k, v, a, b, l: from_heads(*f(*by_head(unscaled(q), k, v, a, b, l), **arguments))

    return adapt


RANK_ONE = [
    Outside("fla ops/generalized_delta_rule/dplr/naive.py:dplr_recurrence", rank_one()),
    Outside("fla ops/generalized_delta_rule/dplr/naive.py:dplr_chunkwise", rank_one(chunk_size=CHUNK)),
]


def mlstm_chunks(f):
    def core(q, k, v, i, g):
        y, (c, n, m) = f(*by_head(unscaled(q), k, v, i, g), chunk_size=CHUNK, return_last_state=True, eps=0.0)
        grown = m[0].reshape(-1, 1, 1).exp()  # theirs is kept divided by its largest gate
        return y[0].transpose(0, 1), torch.cat([c[0], n[0][..., None]], -1) * grown

    return core


def mlstm_parallel(f):
    def core(q, k, v, i, g):
        y = f(*by_head(unscaled(q), k, v, i[..., None], g[..., None]), eps=0.0)
        return y[0].transpose(0, 1), None  # it has no state

    return core


MLSTM = [
    Outside("xlstm blocks/mlstm/backends.py:chunkwise_simple", mlstm_chunks),
    Outside("xlstm blocks/mlstm/backends.py:parallel_stabilized_simple", mlstm_parallel),
]


def selective(f):
    # One b and c for all channels there: head by head.
    def core(x, step, rate, b, c):
        heads = []
        for h in range(x.shape[1]):
            x_h, step_h, b_h, c_h = (z[:, h].T[None] for z in (x, step, b, c))
            y, state = f(x_h, step_h, rate[h], b_h, c_h, return_last_state=True)
            heads.append((y[0].T, state[0].T))
        return torch.stack([y for y, _ in heads], 1), torch.stack([s for _, s in heads])

    return core


SELECTIVE = [Outside("transformers mamba.modeling_mamba:mamba_selective_scan", selective)]
