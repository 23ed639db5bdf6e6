"""The recurrences of the mixers as their papers write them: token by token, nothing chunked, scaled or fused.

Arguments are [T, H, channels] or [T, H]; each returns its output [T, H, V] and its last state [H, K, V].
"""
import torch


def empty_state(k, v):
    return torch.zeros(k.shape[1], k.shape[2], v.shape[2], dtype=torch.float64)


def outer(k, v):
    return k[:, :, None] * v[:, None, :]


def read(q, state):
    return (q[:, :, None] * state).sum(1)


def decaying(q, k, v, log_decay):
    """S_t = e^l S_{t-1} + k v^T;  y = S^T q.  log_decay is [T, H, K] or [T, H, 1]."""
    state, y = empty_state(k, v), []
    for t in range(len(q)):
        state = log_decay[t].exp()[:, :, None] * state + outer(k[t], v[t])
        y.append(read(q[t], state))
    return torch.stack(y), state


def summing(q, k, v, eps):
    """S_t = S_{t-1} + k [v ; 1]^T;  y = S^T q without its last channel, divided by that + eps, which is returned as well."""
    y, state = decaying(q, k, torch.cat([v, torch.ones_like(v[..., :1])], -1), torch.zeros_like(q[..., :1]))
    total = y[..., -1] + eps
    return y[..., :-1] / torch.where(total > 0, total, 1)[..., None], total, state


def mlstm(q, k, v, input_gate, forget_gate):
    """C_t = sigmoid(f) C_{t-1} + e^i k v^T;  n likewise;  y = C^T q / max(|n . q|, 1).  The gates are [T, H]."""
    kept = -torch.logaddexp(torch.zeros_like(forget_gate), -forget_gate)
    values = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    y, state = decaying(q, k * input_gate.exp()[..., None], values, kept[..., None])
    return y[..., :-1] / y[..., -1:].abs().clamp_min(1), state


def delta(q, k, v, beta, log_decay):
    """S <- e^l S;  e = v - S^T k;  S <- S + k (beta e)^T;  y = S^T q.  beta and log_decay are [T, H]."""
    state, y = empty_state(k, v), []
    for t in range(len(q)):
        state = log_decay[t].exp()[:, None, None] * state
        error = v[t] - read(k[t], state)
        state = state + outer(k[t], beta[t][:, None] * error)
        y.append(read(q[t], state))
    return torch.stack(y), state


def rank_one(q, k, v, a, b, log_decay):
    """S_t = Diag(e^l) S_{t-1} + b (S_{t-1}^T a)^T + k v^T;  y = S^T q.  All of a, b, log_decay are [T, H, K]."""
    state, y = empty_state(k, v), []
    for t in range(len(q)):
        seen = read(a[t], state)
        state = log_decay[t].exp()[:, :, None] * state + outer(b[t], seen) + outer(k[t], v[t])
        y.append(read(q[t], state))
    return torch.stack(y), state


def selective(x, step, rate, b, c):
    """Mamba's S6: h_c <- e^(step_c rate_c) h_c + step_c x_c b;  y_c = c . h_c.  x, step [T, H, V], rate [H, V, K], b, c [T, H, K]."""
    state, y = empty_state(b, x), []
    for t in range(len(x)):
        decay = (step[t][:, :, None] * rate).exp().transpose(1, 2)
        state = decay * state + outer(b[t], step[t] * x[t])
        y.append(read(c[t], state))
    return torch.stack(y), state
