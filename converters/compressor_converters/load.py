"""Models in: a state dict, an exported program, a live module or code that makes one, as one kind of value."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from compressor.errors import CompressorError
from compressor.layers import StructuredLayer
from compressor.layers.onnx_body import DOMAIN
from compressor_converters import arch as code
from compressor_converters.calling import input_names
from compressor_converters.graph import free_batch, to_module
from compressor_converters.hugging_face.config import is_folder
from compressor_converters.hugging_face.reading import fetch, is_hub_name, load_hugging_face
from compressor_converters.onnx_in import OnnxNetwork, read_onnx
from compressor_converters.onnx_in.read import external_place, is_external
from compressor_converters.pt2 import is_ours, load_pt2
from compressor_converters.state_dict import describe_keys, fill, read_pickle, read_safetensors, tensors_of
from compressor_converters.torchscript import read_torchscript

_KERAS = (
    "it is read once it is ONNX: keras.saving.load_model(FILE).export('model.onnx', format='onnx') in Keras 3, or"
    " python -m tf2onnx.convert --keras FILE --output model.onnx"
)
Format = Literal["state_dict", "pt2", "module", "pickle", "safetensors", "torchscript", "hugging_face", "onnx"]


@dataclass
class Loaded:
    """A model, ready to run, and where it came from."""

    model: nn.Module  # in eval mode
    format: Format
    source: str  # as the user named it
    sha256: str | None  # of the file; None for live models
    arch: str | None  # the code that makes the empty network, where there is such
    input_names: tuple[str, ...]
    example: tuple[Tensor, ...] | None  # an input that the model takes, where the file tells its shape
    free: dict[str, dict[int, str]] = field(default_factory=dict)  # of an input: axes of any length, with their names
    folder: Path | None = None  # of a Hugging Face model

    @property
    def free_axes(self) -> tuple[dict[int, str], ...]:
        """For each input in order, the axes after the batch that may have any length, each with its name."""
        return tuple(self.free.get(name, {}) for name in self.input_names)


def load_model(
    source: str | Path | nn.Module, *, arch: str | None = None, unsafe: bool = False, meta: bool = False
) -> Loaded:
    """The model that ``source`` names: a file, ``module:callable`` or ``file.py:callable``, or the module itself.

    ``arch`` names the code that makes the network of a state dict. ``meta`` builds networks made by code
    without weights (meta device): enough to count. Only with ``unsafe`` may reading a file run code in it.
    """
    if isinstance(source, torch.jit.ScriptModule):
        raise CompressorError("the model is TorchScript, whose program is not looked into; give the network it is from")
    if isinstance(source, nn.Module):
        return _checked(Loaded(source, "module", type(source).__name__, None, arch, input_names(source), None))
    path = Path(source)
    if is_hub_name(str(source)):
        return _checked(_load_folder(str(source), fetch(str(source))))
    if not path.exists() and code.is_callable_spec(str(source)):
        model = build_network(str(source), meta=meta)
        return _checked(Loaded(model, "module", str(source), None, str(source), input_names(model), None))
    kind = _kind(path)
    if kind == "pt2":
        return _checked(_load_program(path, unsafe))
    if kind == "onnx":
        return _checked(_load_graph(path))
    if kind == "hugging_face":
        return _checked(_load_folder(str(source), path))
    state: Any = _read(kind, path, unsafe)
    if isinstance(state, nn.Module):
        return _checked(Loaded(state, "pickle", str(source), _sha256(path), None, input_names(state), None))
    tensors = tensors_of(path, state)
    if arch is None and kind == "torchscript":
        raise CompressorError(
            f"{path}: is a TorchScript archive (torch.jit.save), whose program is not run; its weights are read"
            f" ({describe_keys(tensors)}): name the code that makes the network with --arch module:callable, or give"
            " an exported program (torch.export.save)"
        )
    if arch is None:
        raise CompressorError(
            f"{path}: is a state dict ({describe_keys(tensors)}), which does not say how the network runs;"
            " name the code that makes it: --arch module:callable"
        )
    model = build_network(arch, meta=False)
    fill(model, tensors, path, arch)
    return _checked(Loaded(model, kind, str(source), _sha256(path), arch, input_names(model), None))


def _read(kind: Format, path: Path, unsafe: bool) -> Any:
    if kind == "safetensors":
        return read_safetensors(path)
    return read_torchscript(path) if kind == "torchscript" else read_pickle(path, unsafe=unsafe)


def _load_folder(source: str, path: Path) -> Loaded:
    found = load_hugging_face(path)
    return Loaded(
        found.model, "hugging_face", source, found.sha256, None, found.input_names, found.example, found.free, path
    )


def build_network(spec: str, *, meta: bool) -> nn.Module:
    """What the code ``spec`` makes, without numbers (on the meta device) where ``meta`` says so."""
    if not meta:
        model = code.call(spec)
    else:
        with torch.device("meta"):
            model = code.call(spec)
    if not isinstance(model, nn.Module):
        raise CompressorError(f"'{spec}' gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _checked(loaded: Loaded) -> Loaded:
    """Refuse what cannot be compressed: a model with structured layers, or with weights that are no numbers."""
    for name, module in loaded.model.named_modules():
        if isinstance(module, StructuredLayer):
            raise CompressorError(
                f"{loaded.source}: was compressed already ('{name}' is a layer of method {module.method});"
                " start from the original model"
            )
    for name, value in [*loaded.model.named_parameters(), *loaded.model.named_buffers()]:
        if is_lazy(value):
            raise CompressorError(
                f"{loaded.source}: '{name}' has no shape yet: run the network once in the code that makes it"
            )
        if value.is_meta or not value.is_floating_point():
            continue
        is_weight = isinstance(value, nn.Parameter)  # buffers may hold infinities on purpose, masks do
        bad = ~torch.isfinite(value) if is_weight else torch.isnan(value)
        if bad.any():
            raise CompressorError(
                f"{loaded.source}: '{name}' holds {int(bad.sum()):,} values of {value.numel():,} that are NaN or"
                " infinite, so the model computes nothing; use a checkpoint from before that happened"
            )
    loaded.model.eval()
    return loaded


# --- files --------------------------------------------------------------------------------------


def _kind(path: Path) -> Format:
    """What is in the file, by its content; CompressorError for what is no model that can be read."""
    if not path.exists():
        raise CompressorError(
            f"{path}: there is no such file (code that makes a model is named module:callable, a model on the hub"
            " hf:owner/name)"
        )
    if path.is_dir():
        if (path / "model.safetensors").exists() and (path / "recipe.yaml").exists():
            raise CompressorError(f"{path}: is a folder that was compressed already; name the original model")
        if is_folder(path):
            return "hugging_face"
        raise CompressorError(f"{path}: is a folder without a config.json; name the file with the model")
    if not path.is_file():
        raise CompressorError(f"{path}: is not a regular file")
    if path.stat().st_size == 0:
        raise CompressorError(f"{path}: is empty (0 bytes)")
    with path.open("rb") as file:
        start = file.read(512)
    _refuse_other(path, start)
    is_safetensors = path.suffix == ".safetensors" or start[5:9] == b"\0\0\0{"  # after the length of a header in JSON
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and not is_safetensors):  # its first field: the format's version
        return "onnx"
    if start[:2] == b"PK":
        return _kind_of_zip(path)
    if is_safetensors:
        return "safetensors"
    if path.suffix == ".pt2":
        raise CompressorError(f"{path}: is not an exported program: it is no zip archive, it begins {start[:16]!r}")
    if start[:1] == b"\x80":  # a pickle, as torch wrote before its zip format
        return "state_dict"
    raise CompressorError(
        f"{path}: is not a model file (it begins {start[:16]!r}); known are a state dict (.pt, .pth, .safetensors),"
        " an exported program (.pt2) and ONNX (.onnx)"
    )


def _refuse_other(path: Path, start: bytes) -> None:
    """CompressorError for files of other libraries, with the converter that takes them to ONNX."""
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        raise CompressorError(f"{path}: is a Keras file (HDF5); {_KERAS}")
    if start[4:8] == b"TFL3":
        raise CompressorError(
            f"{path}: is a TFLite file, which is read once it is ONNX: python -m tf2onnx.convert --tflite {path.name}"
            f" --output {path.stem}.onnx"
        )


def _kind_of_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.split("/", 1)[-1] for name in file.namelist()}
            if {"config.json", "model.weights.h5"} <= names:
                raise CompressorError(f"{path}: is a Keras file; {_KERAS}")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CompressorError(f"{path}: is cut off or damaged ({error}); copy or download it again") from None
    if names & {"archive_format", "models/model.json", "serialized_exported_program.json"}:
        return "pt2"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.endswith(".npy") for name in names):
        raise CompressorError(f"{path}: holds arrays (.npz), not a model; is it meant for --data?")
    if "data.pkl" in names or path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return "state_dict"
    if path.suffix == ".pt2":
        return "pt2"
    raise CompressorError(f"{path}: is a zip archive without a model in it ({', '.join(sorted(names)[:3])}, ...)")


def open_graph(path: Path) -> OnnxNetwork:
    """The graph of the ONNX file ``path``; what lies in external data is mapped, and not read yet."""
    file = read_onnx(path)
    if any(entry.domain == DOMAIN for entry in file.proto.opset_import):
        raise CompressorError(f"{path}: was compressed already; start from the original model")
    try:
        return OnnxNetwork(file)
    except ValueError as error:
        raise CompressorError(f"{path}: {error}") from None
    except (IndexError, KeyError, TypeError, OverflowError) as error:  # of inputs and attributes that are not there
        raise CompressorError(f"{path}: a node is not as its operator asks ({type(error).__name__}: {error})") from None


def _load_graph(path: Path) -> Loaded:
    """An ONNX graph; the example is made when it is known that there is no data."""
    network = open_graph(path)
    names = tuple(spec.name for spec in network.inputs)
    stored = [tensor for tensor in network.view.initializers.values() if is_external(tensor)]
    beside = sorted({external_place(tensor, network.view.file.folder)[0] for tensor in stored})
    return Loaded(network, "onnx", str(path), _sha256(path, *beside), None, names, None)


def _load_program(path: Path, unsafe: bool) -> Loaded:
    if is_ours(path):
        raise CompressorError(f"{path}: was compressed already; start from the original model")
    program = load_pt2(path, unsafe=unsafe)
    example = _example(program)
    names = tuple(str(name) for name in program.graph_signature.user_inputs if isinstance(name, str))
    model = to_module(program)
    if example is not None and not free_batch(model, example):
        raise CompressorError(
            f"{path}: was exported for a batch of {len(example[0])} only; export it with a free batch:"
            ' torch.export.export(model, inputs, dynamic_shapes=({0: torch.export.Dim("batch")},))'
        )
    return Loaded(model, "pt2", str(path), _sha256(path), None, names, example)


def _example(program: ExportedProgram) -> tuple[Tensor, ...] | None:
    """An input of the shapes that ``program`` was exported with: seeded noise, or zeros for whole numbers."""
    generator = torch.Generator().manual_seed(0)
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.find_nodes(op="placeholder")}
    found = []
    for name in names:
        value = nodes[name].meta.get("val") if isinstance(name, str) and name in nodes else None
        if not isinstance(value, Tensor):
            return None
        shape = _sizes(value.shape)
        if shape is None:
            return None
        made = torch.zeros(shape, dtype=value.dtype)
        found.append(made.normal_(generator=generator) if value.is_floating_point() else made)
    return tuple(found) if found and all(x.ndim for x in found) else None


def _sizes(shape: Sequence[Any]) -> list[int] | None:
    sizes = []
    for size in shape:
        if isinstance(size, int):
            sizes.append(size)
            continue
        hint = getattr(size.node, "hint", None)
        if hint is None:
            return None
        sizes.append(int(hint))
    return sizes


def _sha256(path: Path, *beside: Path) -> str:
    """Of the file ``path``; where there are files ``beside`` it that belong to it, of the digests of all."""
    digests = []
    for one in (path, *beside):
        with one.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if not beside:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(one.digest() for one in digests)).hexdigest()
