"""Transformers whose attention weights are in the open, so that they are lifted like any activation."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from ..arguments import Count, checked

Attention = Literal["softmax", "relu", "fused"]
__all__ = ["CausalTransformer", "VisionTransformer"]


class _Block(nn.Module):
    """h + attention(norm(h)), then h + feed-forward(norm(h)); weights softmax(Q K^T / sqrt(d)), or ReLU(Q K^T / sqrt(d)) / positions."""

    def __init__(self, width, heads, activation, attention, dropout):
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.activation, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width)
        self.dropout, self.heads, self.attention = nn.Dropout(dropout), heads, attention

    def forward(self, h, mask):
        n, t, c = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind()
        if self.attention == "fused":                    # one kernel: faster, and nothing inside is lifted
            u = nn.functional.scaled_dot_product_attention(q, k, v, mask, self.dropout.p if self.training else 0.0)
        else:
            scores = (q / math.sqrt(c // self.heads)) @ k.transpose(2, 3)
            if self.attention == "relu":
                weights = torch.relu(scores if mask is None else scores * mask) / t
            else:
                weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -1e4), -1)
            u = self.dropout(weights) @ v
        h = h + self.dropout(self.out(u.transpose(1, 2).reshape(n, t, c)))
        return h + self.dropout(self.down(self.activation(self.up(self.norm2(h)))))


def _check(name, width, heads):
    if width % heads:
        raise ValueError(f"{name} got width={width} and heads={heads}; the width needs to be a multiple of the heads.")


@checked
class CausalTransformer(nn.Module):
    """Language model: tokens (n, t), t <= context -> logits (n, t, vocabulary); the embedding is also the output layer. Start as in GPT-2."""

    mask: torch.Tensor

    def __init__(self, vocabulary: Count, width: Count = 128, blocks: Count = 4, heads: Count = 4, context: Count = 128, activation: Callable[[], nn.Module] = nn.ReLU,
                 attention: Attention = "softmax", dropout: float = 0.0):
        super().__init__()
        _check("CausalTransformer", width, heads)
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks, self.norm = nn.ModuleList([_Block(width, heads, activation, attention, dropout) for _ in range(blocks)]), nn.LayerNorm(width)
        self.register_buffer("mask", torch.ones(context, context, dtype=torch.bool).tril(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() > 1 and name != "positions":
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * blocks) if name.endswith(("out.weight", "down.weight")) else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        t = tokens.shape[1]
        h = self.tokens(tokens) + self.positions[:t]
        for block in self.blocks:
            h = block(h, self.mask[:t, :t])
        return nn.functional.linear(self.norm(h), self.tokens.weight)

    @classmethod
    def example(cls) -> tuple["CausalTransformer", torch.Tensor]:
        return cls(7, 8, 2, 2, 5), torch.randint(7, (4, 5))


@checked
class VisionTransformer(nn.Module):
    """Images (n, channels, side, side), cut into patches -> (n, classes), by the mean over the patches. Source: Dosovitskiy et al., ICLR 2021."""

    def __init__(self, channels: Count = 1, side: Count = 28, classes: Count = 10, patch: Count = 7, width: Count = 64, blocks: Count = 4, heads: Count = 4,
                 activation: Callable[[], nn.Module] = nn.ReLU, attention: Attention = "softmax", dropout: float = 0.0):
        super().__init__()
        _check("VisionTransformer", width, heads)
        if side % patch:
            raise ValueError(f"VisionTransformer got side={side} and patch={patch}; the side needs to be a multiple of the patch.")
        self.patches, self.positions = nn.Conv2d(channels, width, patch, patch), nn.Parameter(0.02 * torch.randn((side // patch) ** 2, width))
        self.blocks = nn.ModuleList([_Block(width, heads, activation, attention, dropout) for _ in range(blocks)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, None)
        return self.head(self.norm(h).mean(1))

    @classmethod
    def example(cls) -> tuple["VisionTransformer", torch.Tensor]:
        return cls(1, 4, 3, 2, 8, 1, 2, attention="relu"), torch.randn(4, 1, 4, 4)
