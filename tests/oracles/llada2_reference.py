"""Slow, independent versions of what `rl/models/llada2` computes, written from the equations."""

import math

import torch


def sigmoid_route(scores, bias, n_group, topk_group, k, normalise, scaling):
    """Group-limited routing of one token with plain lists; returns ``{expert: weight}``."""
    ranking = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(scores) // n_group
    groups = [list(range(g * size, (g + 1) * size)) for g in range(n_group)]
    worth = [sum(sorted((ranking[e] for e in group), reverse=True)[:2]) for group in groups]
    kept = sorted(range(n_group), key=lambda g: -worth[g])[:topk_group]
    candidates = [e for g in kept for e in groups[g]]
    chosen = sorted(candidates, key=lambda e: -ranking[e])[:k]
    total = sum(scores[e] for e in chosen) + 1e-20 if normalise else 1.0
    return {e: scores[e] / total * scaling for e in chosen}


def experts_by_loop(hidden, index, weight, gate_up, down):
    """The mixture of one token after the other, one chosen expert after the other."""
    rows = []
    for token in range(hidden.shape[0]):
        row = torch.zeros_like(hidden[0])
        for slot in range(index.shape[1]):
            e = int(index[token, slot])
            inner = gate_up.shape[1] // 2
            gate, up = gate_up[e, :inner] @ hidden[token], gate_up[e, inner:] @ hidden[token]
            row = row + weight[token, slot] * (down[e] @ (gate * torch.sigmoid(gate) * up))
        rows.append(row)
    return torch.stack(rows)


def rotate_pairs(vector, position, theta, rotary_dim):
    """Rotary position of one head vector (a list), pair by pair: (j, j + rotary_dim / 2)."""
    out = list(vector)
    half = rotary_dim // 2
    for j in range(half):
        angle = position * theta ** (-2 * j / rotary_dim)
        a, b = vector[j], vector[j + half]
        out[j] = a * math.cos(angle) - b * math.sin(angle)
        out[j + half] = b * math.cos(angle) + a * math.sin(angle)
    return out
