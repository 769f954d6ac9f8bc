"""`nn.MultiheadAttention` with its packed projections apart: ``q``, ``k``, ``v`` and ``out``.

Also the fused path of `nn.TransformerEncoderLayer`, which reads weights past the modules that hold them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.layers import StructuredLayer
from compressor_converters.opening.kind import Kind, dense


class OpenAttention(nn.Module):
    """Attention of several heads over dense maps that are modules; called as `nn.MultiheadAttention` is."""

    in_proj_bias = None  # what torch's transformer layers look at before they take their fused path
    _qkv_same_embed_dim = False

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = int(module.embed_dim), int(module.num_heads)
        self.dropout, self.batch_first = float(module.dropout), bool(module.batch_first)
        self.add_zero_attn = bool(module.add_zero_attn)
        self.q, self.k, self.v = (dense(*map_) for map_ in zip(_weights(module), _biases(module), strict=True))
        self.out: nn.Module = dense(module.out_proj.weight, module.out_proj.bias)
        self.bias_k, self.bias_v = _own(module.bias_k), _own(module.bias_v)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise ValueError("is_causal says what the mask is, it does not stand for one; give attn_mask too")
        batched = query.ndim == 3
        inputs = (query, key, value)
        if not batched:
            inputs = (query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
        q, k, v = (project(x) for project, x in zip((self.q, self.k, self.v), inputs, strict=True))
        q, k, v = self._heads(q), self._heads(*self._added(k, self.bias_k)), self._heads(*self._added(v, self.bias_v))
        # As in torch: the hint replaces the mask where nothing else is asked for; then added keys are masked too.
        hinted = is_causal and key_padding_mask is None and not need_weights
        mask = None if hinted else self._mask(q, k, key_padding_mask, attn_mask)
        y, weights = self._attend(q, k, v, mask, need_weights, hinted)
        y = self.out(y.transpose(1, 2).flatten(2))  # (batch, time, embed)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _added(self, x: Tensor, bias: Tensor | None) -> list[Tensor]:
        """The parts along time of keys or values: the projected input, the learned one and zeros where wanted."""
        parts = [x]
        if bias is not None:
            parts.append(bias.expand(x.shape[0], 1, -1))
        if self.add_zero_attn:
            parts.append(x.new_zeros(x.shape[0], 1, x.shape[-1]))
        return parts

    def _heads(self, *parts: Tensor) -> Tensor:
        """``(batch, heads, time, features of a head)`` from parts ``(batch, time, embed)``."""
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return x.reshape(*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads).transpose(1, 2)

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
        """What is added to the scores ``(batch, heads, queries, keys)``; added keys are never masked."""
        padding, attention = _additive(padding, q.dtype), _additive(attention, q.dtype)
        if attention is not None:
            attention = (
                attention.reshape(-1, self.num_heads, *attention.shape[1:]) if attention.ndim == 3 else attention
            )
            attention = F.pad(attention, (0, k.shape[2] - attention.shape[-1]))
        if padding is None:
            return attention
        padding = F.pad(padding, (0, k.shape[2] - padding.shape[-1]))[:, None, None, :]
        return padding if attention is None else attention + padding

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool, causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal), None
        scores = (q * math.sqrt(1 / q.shape[-1])) @ k.transpose(-2, -1)
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, batch_first={self.batch_first}"


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask of truths (True: not seen) as what is added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)


def _own(bias: nn.Parameter | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


def _weights(module: Any) -> tuple[Tensor, ...]:
    if module.in_proj_weight is None:
        return module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    return tuple(module.in_proj_weight.chunk(3))


def _biases(module: Any) -> tuple[Tensor | None, ...]:
    return (None, None, None) if module.in_proj_bias is None else tuple(module.in_proj_bias.chunk(3))


def _takes(module: nn.Module) -> bool:
    return type(module) is nn.MultiheadAttention


def _write_back(opened: Any, module: Any) -> None:
    with torch.no_grad():
        for linear, weight, bias in zip((opened.q, opened.k, opened.v), _weights(module), _biases(module), strict=True):
            weight.copy_(linear.weight)
            if bias is not None:
                bias.copy_(linear.bias)
        for mine, theirs in ((opened.out, module.out_proj), (opened, module)):
            own = dict(theirs.named_parameters(recurse=False))
            for name in own.keys() & dict(mine.named_parameters(recurse=False)).keys():
                own[name].copy_(getattr(mine, name))


ATTENTION = Kind("attention", OpenAttention, _takes, OpenAttention, _write_back)


def settle_fused_paths(model: nn.Module, original: nn.Module | None = None) -> None:
    """Keep the transformer layers of torch from reading the weights of modules that are not there any more.

    ``original`` tells how the others were.
    """
    for name, module in model.named_modules():
        if type(module) not in (nn.TransformerEncoderLayer, nn.TransformerEncoder):
            continue
        attribute = "use_nested_tensor" if type(module) is nn.TransformerEncoder else "activation_relu_or_gelu"
        if original is not None:
            setattr(module, attribute, getattr(original.get_submodule(name), attribute))
        if any(isinstance(inner, StructuredLayer | OpenAttention) for inner in module.modules()):
            setattr(module, attribute, 0)
