"""One line of mixer_tool: a layer's sizes, tensors, input and output; and the stages that layers share.

Everything is float64 and takes gradients. Shapes: [T, heads, channels] inside a layer, [T, D] outside.
"""
import json

import torch


def rms(x, weight, eps):
    y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def layer_norm(x, weight, eps):
    return rms(x - x.mean(-1, keepdim=True), weight, eps)


def l2(x):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def log_sigmoid(z):
    return -torch.logaddexp(torch.zeros_like(z), -z)


def silu(z):
    return z * torch.sigmoid(z)


def as_tensor(values, shape):
    return torch.tensor(values, dtype=torch.float64).reshape(tuple(shape))


class Case:
    """`gradients` is mixer_gradients' line about the same world, or None."""

    def __init__(self, line, gradients=None):
        self.__dict__.update(json.loads(line))
        self.tensors = {n: as_tensor(t["values"], t["shape"]).requires_grad_() for n, t in self.tensors.items()}
        self.x = as_tensor(self.x, (self.rows, -1)).requires_grad_()
        self.y = as_tensor(self.y, (self.rows, -1))
        self.state = self.state and as_tensor(self.state["values"], self.state["shape"])  # [G, K, V], or V and the normaliser
        self.gradients = None
        if gradients is not None:
            run = json.loads(gradients)
            assert run["name"] == self.name, (run["name"], self.name)
            self.direction = as_tensor(run["direction"], (self.rows, -1))
            self.gradients = {n: as_tensor(run["gradients"][n], leaf.shape) for n, leaf in self.leaves().items()}
        self.group = self.heads // self.kv_heads
        # With a window, the first tokens have not left it or are sinks, which it keeps: they never reach the recurrence.
        self.first = self.window + self.sinks if self.window else 0
        self.alive = (torch.arange(self.rows) >= self.first).double()[:, None, None]

    def get(self, name):
        return self.tensors.get(name)

    def leaves(self):
        return {"x": self.x, **self.tensors}

    # ---- stages -------------------------------------------------------------------------------------------------------------

    def split(self, z):
        """[T, heads * head_dim] -> [T, heads, head_dim]; a vector is a row for every token."""
        return z.reshape(len(z) if z.dim() > 1 else 1, -1, self.head_dim)

    def linear(self, name, x=None):
        y = (self.x if x is None else x) @ self.tensors[name + ".weight"].T
        bias = self.get(name + ".bias")
        return y if bias is None else y + bias

    def conv(self, z, weight, bias=None):
        """Causal, one filter a channel; the last tap meets the current token."""
        taps = weight.shape[1]
        padded = torch.cat([torch.zeros(taps - 1, z.shape[1], dtype=z.dtype), z])
        y = sum(padded[i : i + self.rows] * weight[:, i] for i in range(taps))
        return y if bias is None else y + bias

    def normed(self, name, z):
        """Qwen3's norm of every head of q or k, where there is one."""
        weight = self.get(name + "_norm.weight")
        return z if weight is None else rms(z, weight, self.eps)

    def qkv(self):
        return [self.normed(n, self.split(self.linear(n + "_proj"))) for n in "qkv"]

    def rope(self, z):
        half = z.shape[-1] // 2
        angle = torch.arange(self.rows)[:, None] * self.rope_base ** (-torch.arange(half).double() / half)
        c, s = angle.cos()[:, None], angle.sin()[:, None]
        a, b = z[..., :half], z[..., half:]
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    def turned(self, z):
        """Rotated where the mixer's field `rope` says so."""
        return self.rope(z) if self.fields["rope"] else z

    def repeated(self, z):
        """Every kv head for each query head of its group, whole blocks."""
        return z.repeat_interleave(self.heads // z.shape[1], 1)

    def leaving(self, z):
        """The row that leaves the window at each token; the row itself without a window."""
        return torch.cat([torch.zeros_like(z[: self.window]), z[: -self.window]])[: self.rows] if self.window else z

    def far(self, z):
        """What the recurrence may take of z: what left the window and is no sink."""
        return self.leaving(z) * self.alive

    # ---- softmax attention, and joining it with a recurrence ----------------------------------------------------------------

    def attention(self, q, k, v):
        """Before rope. Output [T, H, V] and the logarithm of its normaliser [T, H]."""
        q, k, v = self.rope(q), self.repeated(self.rope(k)), self.repeated(v)
        z = torch.einsum("thd,shd->hts", q, k) / self.head_dim**0.5
        z = z.masked_fill(~self.seen(), -torch.inf)
        return torch.einsum("hts,shv->thv", z.softmax(-1), v), z.logsumexp(-1).T

    def seen(self):
        t, s = torch.arange(self.rows)[:, None], torch.arange(self.rows)[None]
        seen = s <= t
        return seen & ((s > t - self.window) | (s < self.sinks)) if self.window else seen

    def add_window(self, y, q, k, v):
        """A mixer without a common normaliser: the window's output, and a gated share of the recurrence's."""
        if not self.window:
            return y
        return self.attention(q, k, v)[0] + torch.sigmoid(self.linear("join.gate"))[..., None] * y

    def under_one_normaliser(self, far, total, offset, q, k, v):
        """A normalised mixer: far [T, H, V] was divided by total e^offset [T, H], and weighs W x + b + gamma log of that."""
        if not self.window:
            return far
        near, log_near = self.attention(q, k, v)
        written = (torch.arange(self.rows) >= self.first)[:, None]
        log_total = torch.where(written, total, 1).log() + offset
        log_far = self.linear("join.gate") + self.get("join.gamma") * log_total - (self.get("join.rho") - 1) * log_near
        share = torch.sigmoid(log_far - log_near) * written
        return near + share[..., None] * (far - near)

    def out(self, y, name="o_proj"):
        return y.reshape(self.rows, -1) @ self.tensors[name + ".weight"].T
