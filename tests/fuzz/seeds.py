"""What the fuzzer starts from: for every target files as they should be."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from targets import BERT, compressed, entry, examples, network, parameters, program, script, state

from compressor_converters.manifest import describe


def graphs() -> list[bytes]:
    """ONNX files: a product, a chain of constants, a convolution, a branch, external data."""
    weight = numpy_helper.from_array(np.ones((7, 5), np.float32), "w")
    few = numpy_helper.from_array(np.ones((5, 7), np.int8), "few")
    scale = numpy_helper.from_array(np.float32(0.5), "scale")
    one = numpy_helper.from_array(np.ones((5, 7, 1), np.float32), "one")
    yes = numpy_helper.from_array(np.array(True), "yes")
    outside = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[7, 5], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "140")):
        outside.external_data.add(key=key, value=value)
    node = helper.make_node
    product = node("MatMul", ["x", "w"], ["y"])
    branch = helper.make_graph(
        [node("MatMul", ["x", "w"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    made = [
        ([product], [weight], None),
        ([node("DequantizeLinear", ["few", "scale"], ["t"]), node("Transpose", ["t"], ["w"], perm=[1, 0]),
          node("Constant", [], ["b"], value=numpy_helper.from_array(np.ones(5, np.float32))), product,
          node("Add", ["y", "b"], ["z"]), node("Relu", ["z"], ["out"])], [few, scale], None),
        ([node("Conv", ["x", "one"], ["y"], strides=[2])], [one], ["batch", 7, "time"]),
        ([node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], [yes, weight], None),
        ([node("Gemm", ["x", "w"], ["y"], alpha=2.0)], [outside], None),
    ]  # fmt: skip
    found = []
    for nodes, stored, sizes in made:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes or ["batch", 7])
        y = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [x], [y], stored)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        found.append(proto.SerializeToString())
    return found


def pictures() -> list[bytes]:
    """A small picture in several formats."""
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP"):
        out = io.BytesIO()
        Image.new("RGB", (3, 2), (1, 2, 3)).save(out, kind)
        found.append(out.getvalue())
    return found


def seeds() -> dict[str, list[bytes]]:
    """What each target starts from: files as they should be."""
    old, saved = io.BytesIO(), io.BytesIO()
    torch.save(network().state_dict(), old, _use_new_zipfile_serialization=False)
    np.save(saved, np.zeros((4, 7), np.float32))
    header = {"0.weight": {"dtype": "F32", "shape": [5, 7], "data_offsets": [0, 140]}}
    header |= {"0.bias": {"dtype": "F32", "shape": [23], "data_offsets": [140, 232]}}
    model = compressed()
    zipped = io.BytesIO()
    torch.save(network().state_dict(), zipped)
    side = {"params": 81, "dense_params": 81, "size_bytes": {"model.onnx": 99}}
    stated = {
        "model": "m", "method": "svd", "status": "complete", "before": side, "after": side, "wall_time_s": 1.5,
        "seed": 0, "threads": 1, "layers": [{
            "name": "0", "sites": ["0"], "in_features": 7, "out_features": 5, "method": "svd", "params_before": 40,
            "params_after": 9, "macs_before": 35, "macs_after": 9, "fit_error": 0.5, "low_rank": [[1, 0.5]],
        }],
    }  # fmt: skip
    plan = "plan:\n  entries:\n  - sites: ['0']\n    method: svd\n    config: {rank: 2}\n"
    asked = f"model: m.pt2\nmethod: svd\nsettings: {{rank: 2}}\ntarget: ['*']\nseed: 0\nepochs: 3\n{plan}"
    return {
        "pickled": [entry(state(), "data.pkl")],
        "old_pickle": [old.getvalue()[1:]],
        "archive": [zipped.getvalue()[2:]],
        "torchscript": [entry(script(), "/data.pkl")],
        "exported": [
            re.sub(rb"/[\w./-]*?/site-packages/", b"", entry(program(), "models/model.json"))
        ],  # no machine's paths
        "exported_weights": [entry(program(), "model_weights_config.json")],
        "exported_before": [entry(parameters(), "data.pkl")],
        "safetensors": [json.dumps(header).encode()],
        "streamed": [json.dumps(header).encode()],
        "onnx": graphs(),
        "index": [json.dumps({"weight_map": {"w": "model-00001-of-00001.safetensors"}}).encode()],
        "config": [json.dumps(BERT).encode()],
        "manifest": [describe(model).model_dump_json().encode()],
        "recipe": [asked.encode()],
        "report": [json.dumps(stated).encode()],
        "array": [saved.getvalue()],
        "arrays": [saved.getvalue()],
        "data_pickle": [entry(examples(), "data.pkl")],
        "data_tensors": [json.dumps({"x": {"dtype": "F32", "shape": [29, 2], "data_offsets": [0, 232]}}).encode()],
        "picture": pictures(),
    }
