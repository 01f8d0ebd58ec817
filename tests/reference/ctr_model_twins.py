"""Slow twins of the eight CTR models beyond DNN and DCNv2: one row at a time, gradients by hand.

They share no code with the package and follow the equations literally: pairs in loops, CIN as a
sum over h and m, the GRU gate by gate, the convolution position by position. Weights are plain
arrays under the names of the authors' code (tests/golden/README.md).

A twin takes the embedded fields x (F, E) of a row and gives q, the logit, and a function that
adds the weights' gradients and returns that of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.reference.ctr_twins import Layers, embed, embed_gradient, mlp, mlp_gradient

Array = np.ndarray
Backward = Callable[[Array, float], Array]  # (gradient of q, of the logit) -> gradient of x


@dataclass
class Row:
    """Weights, their gradients so far, and one row."""

    weights: dict[str, Array]
    members: list[list[int]]
    grads: dict[str, Array]
    options: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, grad: Array) -> None:
        self.grads[name] += np.reshape(grad, self.weights[name].shape)

    def count(self, pattern: str) -> int:
        """How many layers carry this name, {} being their number."""
        number = 0
        while pattern.format(number) in self.weights:
            number += 1
        return number


def run(
    model: str,
    weights: dict[str, Array],
    rows: list[list[list[int]]],
    coefficients: Array,
    **options: Any,
) -> tuple[Array, Array, dict[str, Array]]:
    """Representations (B, D), logits (B,), gradients of sum_b coefficients_b * logit_b."""
    grads = {name: np.zeros_like(value) for name, value in weights.items()}
    table = "embed.embedding.weight"
    representations, logits = [], []
    for members, coefficient in zip(rows, coefficients, strict=True):
        row = Row(weights, members, grads, options)
        x = embed(weights[table], members).reshape(len(members), -1)
        q, logit, backward = TWINS[model](row, x)
        representations.append(q)
        logits.append(logit)
        embed_gradient(grads[table], members, backward(np.zeros_like(q), coefficient).ravel())
    return np.array(representations), np.array(logits), grads


# --- parts of several models ------------------------------------------------------------------


def linear_term(row: Row) -> tuple[float, Callable[[float], None]]:
    if "lr_layer.bias" not in row.weights:
        return 0.0, lambda _: None
    table = row.weights["lr_layer.embed_w.weight"]
    value = sum(table[m, 0] / len(bag) for bag in row.members for m in bag)

    def backward(grad: float) -> None:
        row.add("lr_layer.bias", np.array([grad]))
        for bag in row.members:
            for m in bag:
                row.grads["lr_layer.embed_w.weight"][m, 0] += grad / len(bag)

    return value + row.weights["lr_layer.bias"][0], backward


def interaction(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """sum_{i<j} e_i * e_j."""
    pooled = np.zeros(x.shape[1])
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            pooled += x[i] * x[j]

    def backward(grad: Array) -> Array:
        others = [sum(x[j] for j in range(len(x)) if j != i) for i in range(len(x))]
        return np.array([grad * other for other in others])

    return pooled, backward


def products(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """<e_i, e_j> for i < j."""
    pairs = [(i, j) for i in range(len(x)) for j in range(i + 1, len(x))]

    def backward(grad: Array) -> Array:
        grad_x = np.zeros_like(x)
        for (i, j), g in zip(pairs, grad, strict=True):
            grad_x[i] += g * x[j]
            grad_x[j] += g * x[i]
        return grad_x

    return np.array([float(x[i] @ x[j]) for i, j in pairs]), backward


def deep_part(row: Row, x: Array, prefix: str = "dnn.dnn") -> tuple[Array, Callable]:
    names = []
    while f"{prefix}.{3 * len(names)}.weight" in row.weights:
        names.append(f"{prefix}.{3 * len(names)}")

    def layers(arrays: dict[str, Array]) -> Layers:
        return [(arrays[f"{name}.weight"], arrays[f"{name}.bias"]) for name in names]

    out, seen = mlp(layers(row.weights), x)
    return out, lambda grad: mlp_gradient(layers(row.weights), seen, grad, layers(row.grads))


def head(row: Row, q: Array) -> tuple[float, Callable[[float], Array]]:
    weight = row.weights["fc_out.weight"][0]

    def backward(grad: float) -> Array:
        row.add("fc_out.weight", grad * q)
        row.add("fc_out.bias", np.array([grad]))
        return grad * weight

    return float(weight @ q + row.weights["fc_out.bias"][0]), backward


# --- the models -------------------------------------------------------------------------------


def fm(row: Row, x: Array) -> tuple[Array, float, Backward]:
    q, q_back = interaction(x)
    linear, linear_back = linear_term(row)

    def backward(grad_q: Array, grad: float) -> Array:
        linear_back(grad)
        return q_back(grad_q + grad)

    return q, float(q.sum() + linear), backward


def deepfm(row: Row, x: Array) -> tuple[Array, float, Backward]:
    pooled, pooled_back = interaction(x)
    linear, linear_back = linear_term(row)
    shallow = pooled.sum() + linear
    h, h_back = deep_part(row, x.ravel())
    z, head_back = head(row, h)

    def backward(grad_q: Array, grad: float) -> Array:
        grad_shallow = grad_q[-1] + grad
        linear_back(grad_shallow)
        grad_x = pooled_back(np.full_like(pooled, grad_shallow))
        return grad_x + h_back(grad_q[:-1] + head_back(grad)).reshape(x.shape)

    return np.append(h, shallow), float(z + shallow), backward


def xdeepfm(row: Row, x: Array) -> tuple[Array, float, Backward]:
    number = sum(name.startswith("cin.") for name in row.weights) // 2
    names = [f"cin.cin_layer.layer_{i + 1}" for i in range(number)]
    outputs = [x]
    for name in names:
        weight, bias = row.weights[f"{name}.weight"][..., 0], row.weights[f"{name}.bias"]
        before = outputs[-1]
        out = np.zeros((len(weight), x.shape[1]))
        for k in range(len(weight)):
            out[k] = bias[k]
            for h in range(len(x)):
                for m in range(len(before)):
                    out[k] += weight[k, h * len(before) + m] * x[h] * before[m]
        outputs.append(out)
    pooled = np.concatenate([out.sum(axis=1) for out in outputs[1:]])
    has_deep = any(name.startswith("dnn.") for name in row.weights)
    h, h_back = deep_part(row, x.ravel()) if has_deep else (np.zeros(0), lambda _: 0 * x.ravel())
    q = np.concatenate([pooled, h])
    z, head_back = head(row, q)
    linear, linear_back = linear_term(row)

    def backward(grad_q: Array, grad: float) -> Array:
        linear_back(grad)
        grad_q = grad_q + head_back(grad)
        grad_x = h_back(grad_q[len(pooled) :]).reshape(x.shape).copy()
        ends = np.cumsum([len(out) for out in outputs[1:]])
        from_next = np.zeros_like(outputs[-1])
        for i in reversed(range(number)):
            weight = row.weights[f"{names[i]}.weight"][..., 0]
            before = outputs[i]
            size = len(outputs[i + 1])
            grad_out = from_next + grad_q[ends[i] - size : ends[i], None]
            grad_before = np.zeros_like(before)
            for k in range(size):
                for a in range(len(x)):
                    for m in range(len(before)):
                        w = weight[k, a * len(before) + m]
                        row.grads[f"{names[i]}.weight"][k, a * len(before) + m, 0] += grad_out[
                            k
                        ] @ (x[a] * before[m])
                        grad_x[a] += w * grad_out[k] * before[m]
                        grad_before[m] += w * grad_out[k] * x[a]
            row.add(f"{names[i]}.bias", grad_out.sum(axis=1))
            from_next = grad_before
        return grad_x + from_next  # the input of the first layer is x itself

    return q, float(z + linear), backward


def pnn(row: Row, x: Array) -> tuple[Array, float, Backward]:
    inner, inner_back = products(x)
    q, q_back = deep_part(row, np.concatenate([x.ravel(), inner]))
    z, head_back = head(row, q)

    def backward(grad_q: Array, grad: float) -> Array:
        grad_in = q_back(grad_q + head_back(grad))
        return grad_in[: x.size].reshape(x.shape) + inner_back(grad_in[x.size :])

    return q, z, backward


def dcn(row: Row, x: Array) -> tuple[Array, float, Backward]:
    x0 = x.ravel()
    seen = [x0]
    number = row.count("cross_net.cross_net.{}.bias")
    for i in range(number):
        w = row.weights[f"cross_net.cross_net.{i}.weight.weight"][0]
        b = row.weights[f"cross_net.cross_net.{i}.bias"]
        seen.append(seen[-1] + (w @ seen[-1]) * x0 + b)
    has_deep = any(name.startswith("parallel_dnn") for name in row.weights)
    h, h_back = deep_part(row, x0, "parallel_dnn.dnn") if has_deep else (np.zeros(0), lambda _: 0)
    q = np.concatenate([seen[-1], h])
    z, head_back = head(row, q)

    def backward(grad_q: Array, grad: float) -> Array:
        grad_q = grad_q + head_back(grad)
        grad_x0 = np.zeros_like(x0) + h_back(grad_q[len(x0) :])
        grad_x = grad_q[: len(x0)]
        for i in reversed(range(number)):
            w = row.weights[f"cross_net.cross_net.{i}.weight.weight"][0]
            along = grad_x @ x0
            row.add(f"cross_net.cross_net.{i}.weight.weight", along * seen[i])
            row.add(f"cross_net.cross_net.{i}.bias", grad_x)
            grad_x0 = grad_x0 + (w @ seen[i]) * grad_x
            grad_x = grad_x + along * w
        return (grad_x0 + grad_x).reshape(x.shape)

    return q, z, backward


def autoint(row: Row, x: Array) -> tuple[Array, float, Backward]:
    heads = int(row.options.get("heads", 1))
    residual = bool(row.options.get("residual", True))
    memory = row.options.get("layout") == "memory"
    caches = []
    current = x

    def part(array: Array, a: int, size: int) -> Array:
        """Head a's d columns of every field, or run a of the numbers as they lie (a view)."""
        if not memory:
            return array[:, a * size : (a + 1) * size]
        length = len(array) * size
        return array.reshape(-1)[a * length : (a + 1) * length].reshape(len(array), size)

    for i in range(row.count("self_attention.{}.W_q.weight")):
        p = f"self_attention.{i}"
        query, key, value = (current @ row.weights[f"{p}.W_{n}.weight"].T for n in "qkv")
        size = query.shape[1] // heads
        factor = 1 / np.sqrt(size) if row.options.get("scale") else 1.0
        out, shares = np.zeros_like(value), []
        for a in range(heads):
            score = factor * part(query, a, size) @ part(key, a, size).T
            share = np.exp(score - score.max(axis=1, keepdims=True))
            share /= share.sum(axis=1, keepdims=True)
            part(out, a, size)[...] = share @ part(value, a, size)
            shares.append(share)
        if residual:
            projected = f"{p}.W_res.weight" in row.weights
            out = out + (current @ row.weights[f"{p}.W_res.weight"].T if projected else current)
        caches.append((p, current, query, key, value, shares, factor, out))
        current = np.maximum(out, 0)
    has_deep = any(name.startswith("dnn.") for name in row.weights)
    h, h_back = deep_part(row, x.ravel()) if has_deep else (np.zeros(0), lambda _: 0 * x.ravel())
    q = np.concatenate([current.ravel(), h])
    z, head_back = head(row, q)

    def backward(grad_q: Array, grad: float) -> Array:
        grad_q = grad_q + head_back(grad)
        grad_x = h_back(grad_q[current.size :]).reshape(x.shape)
        grad_out = grad_q[: current.size].reshape(current.shape)
        for p, inputs, query, key, value, shares, factor, out in reversed(caches):
            grad_out = grad_out * (out > 0)
            grads = {n: np.zeros_like(query) for n in "qkv"}
            size = query.shape[1] // heads
            for a, share in enumerate(shares):
                part(grads["v"], a, size)[...] = share.T @ part(grad_out, a, size)
                grad_share = part(grad_out, a, size) @ part(value, a, size).T
                grad_score = share * (grad_share - (grad_share * share).sum(axis=1, keepdims=True))
                part(grads["q"], a, size)[...] = factor * grad_score @ part(key, a, size)
                part(grads["k"], a, size)[...] = factor * grad_score.T @ part(query, a, size)
            grad_in = np.zeros_like(inputs)
            if residual and f"{p}.W_res.weight" in row.weights:
                row.add(f"{p}.W_res.weight", grad_out.T @ inputs)
                grad_in += grad_out @ row.weights[f"{p}.W_res.weight"]
            elif residual:
                grad_in += grad_out
            for n in "qkv":
                row.add(f"{p}.W_{n}.weight", grads[n].T @ inputs)
                grad_in += grads[n] @ row.weights[f"{p}.W_{n}.weight"]
            grad_out = grad_in
        return grad_x + grad_out

    return q, z, backward


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def fignn(row: Row, x: Array) -> tuple[Array, float, Backward]:
    w = row.weights
    fields, size = x.shape
    steps, residual = int(row.options["steps"]), bool(row.options.get("residual", True))
    shared = "fignn.gnn.W_in" in w
    edge = w["fignn.W_attn.weight"][0]
    raw = np.full((fields, fields), -np.inf)
    edges = np.zeros((fields, fields))
    for i in range(fields):
        for j in range(fields):
            if i != j:
                raw[i, j] = edge @ np.concatenate([x[i], x[j]])
        leaky = np.where(raw[i] > 0, raw[i], 0.01 * raw[i])
        edges[i] = np.exp(leaky - leaky.max())
        edges[i] /= edges[i].sum()
    u, state, caches = size, x, []
    for t in range(steps):
        p = "fignn.gnn" if shared else f"fignn.gnn.{t}"
        sent = np.array([w[f"{p}.W_out"][j] @ state[j] for j in range(fields)])
        gathered = edges @ sent
        a = np.array([w[f"{p}.W_in"][i] @ gathered[i] for i in range(fields)]) + w[f"{p}.bias_p"]
        gate_a = a @ w["fignn.gru.weight_ih"].T + w["fignn.gru.bias_ih"]
        gate_h = state @ w["fignn.gru.weight_hh"].T + w["fignn.gru.bias_hh"]
        reset = sigmoid(gate_a[:, :u] + gate_h[:, :u])
        update = sigmoid(gate_a[:, u : 2 * u] + gate_h[:, u : 2 * u])
        new = np.tanh(gate_a[:, 2 * u :] + reset * gate_h[:, 2 * u :])
        caches.append((p, state, sent, gathered, a, gate_h, reset, update, new))
        state = (1 - update) * new + update * state
        if residual:
            state = state + x
    q = state.ravel()
    score = state @ w["fc_out.linear1.weight"][0]
    gate = sigmoid(w["fc_out.linear2.0.weight"] @ q)

    def backward(grad_q: Array, grad: float) -> Array:
        row.add("fc_out.linear1.weight", grad * gate @ state)
        grad_gate = grad * score * gate * (1 - gate)
        row.add("fc_out.linear2.0.weight", np.outer(grad_gate, q))
        grad_q = grad_q + w["fc_out.linear2.0.weight"].T @ grad_gate
        grad_state = grad_q.reshape(x.shape)
        grad_state = grad_state + grad * np.outer(gate, w["fc_out.linear1.weight"][0])
        grad_x, grad_edges = np.zeros_like(x), np.zeros_like(edges)
        for p, before, sent, gathered, a, gate_h, reset, update, new in reversed(caches):
            if residual:
                grad_x += grad_state
            grad_new = grad_state * (1 - update) * (1 - new**2)
            grad_update = grad_state * (before - new) * update * (1 - update)
            grad_reset = grad_new * gate_h[:, 2 * u :] * reset * (1 - reset)
            grad_gate_a = np.hstack([grad_reset, grad_update, grad_new])
            grad_gate_h = np.hstack([grad_reset, grad_update, grad_new * reset])
            row.add("fignn.gru.weight_ih", grad_gate_a.T @ a)
            row.add("fignn.gru.bias_ih", grad_gate_a.sum(axis=0))
            row.add("fignn.gru.weight_hh", grad_gate_h.T @ before)
            row.add("fignn.gru.bias_hh", grad_gate_h.sum(axis=0))
            grad_a = grad_gate_a @ w["fignn.gru.weight_ih"]
            grad_before = grad_state * update + grad_gate_h @ w["fignn.gru.weight_hh"]
            row.add(f"{p}.bias_p", grad_a.sum(axis=0))
            grad_gathered = np.zeros_like(gathered)
            for i in range(fields):
                row.grads[f"{p}.W_in"][i] += np.outer(grad_a[i], gathered[i])
                grad_gathered[i] = w[f"{p}.W_in"][i].T @ grad_a[i]
            grad_edges += grad_gathered @ sent.T
            grad_sent = edges.T @ grad_gathered
            for j in range(fields):
                row.grads[f"{p}.W_out"][j] += np.outer(grad_sent[j], before[j])
                grad_before[j] += w[f"{p}.W_out"][j].T @ grad_sent[j]
            grad_state = grad_before
        grad_x += grad_state  # the first states are the embeddings
        for i in range(fields):
            grad_leaky = edges[i] * (grad_edges[i] - grad_edges[i] @ edges[i])
            for j in range(fields):
                if i == j:
                    continue
                g = grad_leaky[j] * (1.0 if raw[i, j] > 0 else 0.01)
                row.add("fignn.W_attn.weight", g * np.concatenate([x[i], x[j]]))
                grad_x[i] += g * edge[:size]
                grad_x[j] += g * edge[size:]
        return grad_x

    return q, float(gate @ score), backward


def fgcnn(row: Row, x: Array) -> tuple[Array, float, Backward]:
    w = row.weights
    pooling = row.options["pooling"]
    table = w["fg_embed.embedding.weight"]
    raw = embed(table, row.members).reshape(x.shape)
    channels, caches, features = raw[None], [], [x]
    for i, pool in enumerate(pooling):
        p = f"fgcnn_layer.conv_layers.{i}"
        kernel = w[f"{p}.0.weight"][..., 0]  # (out, in, rows)
        middle = (kernel.shape[2] - 1) // 2
        height = channels.shape[1]
        out = np.zeros((len(kernel), height, x.shape[1]))
        for c in range(len(kernel)):
            for h in range(height):
                out[c, h] = w[f"{p}.0.bias"][c]
                for t in range(kernel.shape[2]):
                    if 0 <= h + t - middle < height:
                        out[c, h] += kernel[c, :, t] @ channels[:, h + t - middle]
        mean, variance = w[f"{p}.1.running_mean"], w[f"{p}.1.running_var"]
        normed = (out - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
        scaled = normed * w[f"{p}.1.weight"][:, None, None] + w[f"{p}.1.bias"][:, None, None]
        bent = np.tanh(scaled)
        start = -(height % pool)
        pooled, chosen = [], []
        while len(pooled) < -(-height // pool):
            window = [h for h in range(start, start + pool) if 0 <= h < height]
            best = np.array(window)[np.argmax(bent[:, window], axis=1)]  # (C, E)
            pooled.append(np.take_along_axis(bent, best[:, None], axis=1)[:, 0])
            chosen.append(best)
            start += pool
        after = np.stack(pooled, axis=1)
        r = f"fgcnn_layer.recombine_layers.{i}.0"
        new = np.tanh(w[f"{r}.weight"] @ after.ravel() + w[f"{r}.bias"]).reshape(-1, x.shape[1])
        caches.append((p, r, channels, normed, bent, chosen, after, new))
        features.append(new)
        channels = after
    everything = np.concatenate(features)
    inner, inner_back = products(everything)
    q, q_back = deep_part(row, np.concatenate([everything.ravel(), inner]))
    z, head_back = head(row, q)

    def backward(grad_q: Array, grad: float) -> Array:
        grad_in = q_back(grad_q + head_back(grad))
        grad_all = grad_in[: everything.size].reshape(everything.shape)
        grad_all = grad_all + inner_back(grad_in[everything.size :])
        end = len(everything)
        grad_after = np.zeros_like(caches[-1][6])
        for p, r, before, normed, bent, chosen, after, new in reversed(caches):
            grad_new = (grad_all[end - len(new) : end] * (1 - new**2)).ravel()
            end -= len(new)
            row.add(f"{r}.weight", np.outer(grad_new, after.ravel()))
            row.add(f"{r}.bias", grad_new)
            grad_after = grad_after + (w[f"{r}.weight"].T @ grad_new).reshape(after.shape)
            grad_bent = np.zeros_like(bent)
            for number, best in enumerate(chosen):
                for c in range(bent.shape[0]):
                    for e in range(bent.shape[2]):
                        grad_bent[c, best[c, e], e] += grad_after[c, number, e]
            grad_scaled = grad_bent * (1 - bent**2)
            row.add(f"{p}.1.weight", (grad_scaled * normed).sum(axis=(1, 2)))
            row.add(f"{p}.1.bias", grad_scaled.sum(axis=(1, 2)))
            factor = w[f"{p}.1.weight"] / np.sqrt(w[f"{p}.1.running_var"] + 1e-5)
            grad_out = grad_scaled * factor[:, None, None]
            row.add(f"{p}.0.bias", grad_out.sum(axis=(1, 2)))
            kernel = w[f"{p}.0.weight"][..., 0]
            middle = (kernel.shape[2] - 1) // 2
            grad_before = np.zeros_like(before)
            for c in range(len(kernel)):
                for h in range(before.shape[1]):
                    for t in range(kernel.shape[2]):
                        at = h + t - middle
                        if 0 <= at < before.shape[1]:
                            row.grads[f"{p}.0.weight"][c, :, t, 0] += before[:, at] @ grad_out[c, h]
                            grad_before[:, at] += np.outer(kernel[c, :, t], grad_out[c, h])
            grad_after = grad_before
        embed_gradient(row.grads["fg_embed.embedding.weight"], row.members, grad_after[0].ravel())
        return grad_all[: len(x)]

    return q, z, backward


TWINS: dict[str, Callable[[Row, Array], tuple[Array, float, Backward]]] = {
    "fm": fm,
    "deepfm": deepfm,
    "xdeepfm": xdeepfm,
    "pnn": pnn,
    "dcn": dcn,
    "autoint": autoint,
    "fignn": fignn,
    "fgcnn": fgcnn,
}
