"""A network from a Hugging Face folder, built by transformers from data alone: no code of the folder is run."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compressor.errors import CompressorError
from compressor_converters.hugging_face.config import CONFIG, check_sizes, read_config, safetensors_files

HUB = "hf:"  # before a name on the hub: a mistyped path never asks the network
_NAME = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_ROWS, _LENGTH = 4, 16  # of the example
_LENGTHS = {
    "input_ids": "length", "attention_mask": "length", "token_type_ids": "length", "position_ids": "length",
    "decoder_input_ids": "decoder_length", "decoder_attention_mask": "decoder_length",
}  # fmt: skip
_SLACK = 1 << 24  # numbers that a network may hold beyond those of its files (buffers, mostly)
_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # never code, never pickles


@dataclass
class Found:
    """A network from a folder, in eval mode, with what is known about its inputs."""

    model: nn.Module
    folder: Path
    sha256: str  # of its configuration and weights
    input_names: tuple[str, ...]
    example: tuple[Tensor, ...] | None
    free: dict[str, dict[int, str]]  # by input, the axes after the batch that may have any length


def is_hub_name(text: str) -> bool:
    """Whether ``text`` names a model on the hub: ``hf:owner/name``, with ``@revision`` or without."""
    return _NAME.fullmatch(text) is not None


def fetch(name: str) -> Path:
    """The folder with the files of the model ``name`` on the hub, downloaded once and kept in the hub's own cache."""
    found = _NAME.fullmatch(name)
    assert found is not None
    transformers_for(name)
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(found[1], revision=found[2], allow_patterns=list(_FETCHED)))
    except Exception as error:  # no network, no such model, no access: the library raises many kinds
        said = " ".join(str(error).split())[:200]
        raise CompressorError(f"{name}: could not be fetched: {type(error).__name__}: {said}") from None


def load_hugging_face(folder: Path) -> Found:
    """The network that ``folder`` describes, with its weights, in float32."""
    files = safetensors_files(folder)
    tensors = _tensors(files)
    network, config = _described(folder, len(tensors))
    _skeleton(folder, network, config, sum(tensor.numel() for tensor in tensors.values()))
    model, info = quietly(
        folder,
        lambda: network.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, and refused below
        ),
    )
    lost = sorted(str(name) for name in info["missing_keys"])
    if lost or info["mismatched_keys"] or info["error_msgs"]:
        wrong = lost or [str(name) for name in (*info["mismatched_keys"], *info["error_msgs"])]
        raise CompressorError(
            f"{folder}: its weights are not those of the {network.__name__} that its {CONFIG} describes:"
            f" {len(wrong)} missing or of another shape ({wrong[0][:80]})"
        )
    model.eval()
    names, example, free = _inputs(model)
    return Found(model, folder, _digest([folder / CONFIG, *files]), names, example, free)


def skeleton_of(folder: Path) -> nn.Module:
    """The network that ``folder`` describes, without its weights (on the meta device)."""
    numbers = count = 0
    for path in safetensors_files(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                numbers, count = numbers + math.prod(file.get_slice(name).get_shape()), count + 1
    network, config = _described(folder, count)
    skeleton: Any = _skeleton(folder, network, config, numbers)
    skeleton.tie_weights()
    built: nn.Module = skeleton
    return built


def _described(folder: Path, tensors: int) -> tuple[Any, Any]:
    """The class of the network in ``folder`` and its configuration, checked for files of so many tensors."""
    config = read_config(folder)
    transformers = transformers_for(folder)
    check_sizes(folder, config, tensors)
    network = network_class(transformers, folder, config)
    made = quietly(folder, lambda: network.config_class.from_dict(config))
    made.name_or_path = ""
    return network, made


def transformers_for(source: object) -> Any:
    """The package transformers; CompressorError where it is not installed, which ``source`` needs."""
    try:
        import transformers
    except ImportError:
        raise CompressorError(
            f"{source}: is a Hugging Face model, which needs transformers: pip install 'structured-compress[hf]'"
        ) from None
    return transformers


def _tensors(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of ``files``; mapped from the disk, so that what is not used takes no memory."""
    tensors: dict[str, Tensor] = {}
    for path in files:
        with _opened(path) as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return tensors


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:160]
        raise CompressorError(f"{path}: is not a whole safetensors file: {said}") from None


def network_class(transformers: Any, folder: Path, config: dict[str, Any]) -> Any:
    """The class of transformers' own that the configuration names; the bare network where it names none."""
    kinds = transformers.CONFIG_MAPPING
    kind = config["model_type"]
    if kind not in kinds:
        raise CompressorError(
            f"{folder}: transformers {transformers.__version__} does not know a network of type '{kind}', and code"
            " that a folder brings is never run; name code that builds it with --arch"
        )
    named = config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    if isinstance(name, str) and re.fullmatch(r"[A-Z]\w{1,80}", name, re.ASCII):
        found: Any = getattr(transformers, name, None)
        if (
            inspect.isclass(found)
            and issubclass(found, transformers.PreTrainedModel)
            and getattr(found, "config_class", None) is kinds[kind]
        ):
            return found
    with contextlib.suppress(KeyError):
        found = transformers.MODEL_MAPPING[kinds[kind]]
        return found[0] if isinstance(found, list | tuple) else found
    raise CompressorError(f"{folder}: transformers has no network of type '{kind}' that is called {str(name)[:80]!r}")


def _skeleton(folder: Path, network: Any, config: Any, numbers: int) -> Any:
    """The network without weights; CompressorError where it would hold much more than the ``numbers`` of its files."""
    with torch.device("meta"):
        skeleton = quietly(folder, lambda: network(config))
    size = sum(value.numel() for value in (*skeleton.parameters(), *skeleton.buffers()))
    if size > 2 * numbers + _SLACK:
        raise CompressorError(
            f"{folder}: its {CONFIG} describes a network of {size:,} numbers, its files hold {numbers:,}"
        )
    return skeleton


def quietly(folder: Path, work: Callable[[], Any]) -> Any:
    """What ``work`` gives, without progress bars and advice; what transformers raises is said in one line."""
    with _silence():
        try:
            return work()
        except CompressorError:
            raise
        except Exception as error:  # transformers raises many kinds for a configuration that does not hold together
            said = " ".join(str(error).split())[:200]
            raise CompressorError(f"{folder}: transformers does not build it: {type(error).__name__}: {said}") from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    from transformers.utils import logging as advice

    bar, level = advice.is_progress_bar_enabled(), advice.get_verbosity()
    advice.disable_progress_bar()
    advice.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        advice.set_verbosity(level)
        if bar:
            advice.enable_progress_bar()


def _inputs(model: Any) -> tuple[tuple[str, ...], tuple[Tensor, ...] | None, dict[str, dict[int, str]]]:
    """Names and an example of what ``model`` takes, and which axes are free."""
    main, config = model.main_input_name, model.config
    known = inspect.signature(model.forward).parameters
    generator = torch.Generator().manual_seed(0)
    if main == "input_ids":
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        names = ["input_ids", *(["attention_mask"] if "attention_mask" in known else [])]
        if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in known:
            names.append("decoder_input_ids")
        if not isinstance(getattr(text, "vocab_size", None), int):
            return tuple(names), None, {}
        most = int(getattr(text, "max_position_embeddings", None) or _LENGTH)
        words = torch.randint(0, int(text.vocab_size), (_ROWS, max(2, min(_LENGTH, most // 2))), generator=generator)
        example = tuple(torch.ones_like(words) if name == "attention_mask" else words for name in names)
        return tuple(names), example, {name: {1: length} for name, length in _LENGTHS.items() if name in known}
    channels, side = getattr(config, "num_channels", None), getattr(config, "image_size", None)
    if main == "pixel_values" and isinstance(channels, int) and isinstance(side, int):
        return (main,), (torch.randn(_ROWS, channels, side, side, generator=generator),), {}
    return (main,), None, {}


def _digest(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
