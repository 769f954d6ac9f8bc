"""What lets `AutoModel.from_pretrained` read the folders that we write: a quantiser of transformers' own kind.

``config.json`` says ``quantization_config: {"quant_method": "compressor"}``. transformers then builds the original
network without weights and asks us to put the structured layers in, which the manifest in ``model.safetensors``
describes; then it loads the tensors as it always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compressor.layers import StructuredLayer, build
from compressor_converters.hugging_face.config import METHOD
from compressor_converters.manifest import Manifest, apply
from compressor_converters.safetensors_file import read_manifest


@register_quantization_config(METHOD)  # type: ignore[untyped-decorator, unused-ignore]
class CompressorConfig(QuantizationConfigMixin):  # type: ignore[misc, unused-ignore]
    """Says that the weights are ours; everything else stands beside the weights."""

    def __init__(self, **_kwargs: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment, unused-ignore]

    def to_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {"quant_method": METHOD}


@register_quantizer(METHOD)  # type: ignore[untyped-decorator, unused-ignore]
class CompressorQuantizer(HfQuantizer):  # type: ignore[misc, unused-ignore]
    """Puts the structured layers of a manifest into a network that transformers has just built."""

    requires_calibration = True  # made by `compress`, never by from_pretrained
    manifest: Manifest

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **_kwargs: Any
    ) -> nn.Module:
        if not checkpoint_files or len(checkpoint_files) != 1:
            raise ValueError("a compressed model is one model.safetensors, whose manifest says what is in it")
        self.manifest = _named_in(model, read_manifest(Path(checkpoint_files[0])))
        with torch.device("cpu"):
            apply(model, self.manifest)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_kwargs: Any) -> nn.Module:
        """Make again what no file holds: transformers gives buffers that are not stored fresh memory."""
        for name, entry in self.manifest.layers.items():
            layer = model.get_submodule(name)
            assert isinstance(layer, StructuredLayer)
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                fresh = build(entry.method, entry.in_features, entry.out_features, bias=entry.bias, config=entry.config)
            stored = set(fresh.state_dict())
            made = dict(fresh.named_buffers())
            for own, buffer in layer.named_buffers():
                if own not in stored:
                    buffer.data = made[own].to(buffer.device, buffer.dtype)
        return model

    def is_serializable(self) -> bool:
        """Whether ``save_pretrained`` may write the network: it would lose the manifest."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Whether the network can be trained further: structured layers are ordinary modules."""
        return True


def _named_in(model: Any, manifest: Manifest) -> Manifest:
    """``manifest`` with the names that ``model`` has for its modules.

    A bare network may be loaded from the file of one with a head, and the other way round: its names then lack the
    head's prefix, or have it.
    """
    names = {name for name, _ in model.named_modules(remove_duplicate=False)}
    prefix = f"{model.base_model_prefix}."
    if all(name in names for name in manifest.layers):
        return manifest
    if all(name.removeprefix(prefix) in names for name in manifest.layers):
        return _renamed(manifest, lambda name: name.removeprefix(prefix), names)
    if all(prefix + name in names for name in manifest.layers):
        return _renamed(manifest, lambda name: prefix + name, names)
    return manifest


def _renamed(manifest: Manifest, rename: Any, names: set[str]) -> Manifest:
    def kept(mapping: dict[str, Any]) -> dict[str, Any]:
        return {rename(name): value for name, value in mapping.items() if rename(name) in names}

    return manifest.model_copy(
        update={
            "opened": kept(manifest.opened),
            "layers": kept(manifest.layers),
            "places": {name: rename(first) for name, first in kept(manifest.places).items()},
            "identities": tuple(rename(name) for name in manifest.identities if rename(name) in names),
        }
    )
