"""LSTM, GRU and RNN nodes of ONNX files: their weights are dense maps, and what is written does what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compressor import compress
from compressor.layers import build
from compressor.pipeline import make_recipe
from compressor.prefix import rows_at
from compressor.sites import find_sites
from compressor.stream import stream
from compressor_converters.onnx_in import OnnxNetwork, check_untouched, macs_outside, read_onnx, save_network
from compressor_converters.onnx_in.maps import unique_names
from compressor_converters.onnx_in.operators import OPERATORS
from compressor_converters.onnx_in.recurrent import GATES

TIME, BATCH, IN, HIDDEN = 5, 3, 7, 6


def recurrent(
    kind: str, *, direction: str = "forward", bias: bool = True, states: bool = False, lengths: bool = False,
    used: tuple[str, ...] = ("y", "h", "c"), opset: int = 17, half: bool = False, seed: int = 0, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A graph of one node ``rnn`` of 'kind' between a scaling, which stays, and its outputs; inputs ``x`` and so on."""
    rng, dtype = np.random.default_rng(seed), np.float16 if half else np.float32
    kind_of = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    d, rows = 2 if direction == "bidirectional" else 1, GATES[kind] * HIDDEN
    stored = {"w": rng.normal(size=(d, rows, IN)) / IN**0.5, "r": rng.normal(size=(d, rows, HIDDEN)) / HIDDEN**0.5}
    stored |= {"b": rng.normal(size=(d, 2 * rows)) / 4} if bias else {}
    given = {"x": (kind_of, ["t", "n", IN])}
    given |= {"lengths": (TensorProto.INT32, ["n"])} if lengths else {}
    given |= {one: (kind_of, [d, "n", HIDDEN]) for one in ("h0", "c0")[: 2 if kind == "LSTM" else 1] if states}
    optional = ("b", "lengths", "h0", "c0")[: 4 if kind == "LSTM" else 3]
    reads = ["scaled", "w", "r", *(name if name in {**stored, **given} else "" for name in optional)]
    makes = [name if name in used else "" for name in ("y", "h", "c")[: 3 if kind == "LSTM" else 2]]
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["scaled"], name="/scale/Mul"),
        helper.make_node(
            kind, reads, makes, name=f"/rnn/{kind}", direction=direction, hidden_size=HIDDEN, **attributes
        ),
    ]
    tensors = [numpy_helper.from_array(array.astype(dtype), name) for name, array in stored.items()]
    tensors.append(numpy_helper.from_array(np.array([2.0], dtype), "two"))
    sizes = {"y": ["t", d, "n", HIDDEN], "h": [d, "n", HIDDEN], "c": [d, "n", HIDDEN]}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info(name, *spec) for name, spec in given.items()],
        [helper.make_tensor_value_info(name, kind_of, sizes[name]) for name in makes if name], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(proto: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.checker.check_model(proto, full_check=True)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def opened(proto: onnx.ModelProto, tmp_path: Path) -> OnnxNetwork:
    return OnnxNetwork(read_onnx(written(proto, tmp_path)))


def inputs_of(network: OnnxNetwork, time: int = TIME) -> dict[str, Tensor]:
    """One call's inputs; the sequences are of different lengths where the graph asks for lengths."""
    torch.manual_seed(1)
    made = {}
    for spec in network.inputs:
        sizes = [size or {"t": time, "n": BATCH}[name] for size, name in zip(spec.sizes or (), spec.names, strict=True)]
        made[spec.name] = torch.randn(sizes).to(spec.dtype)
    if "lengths" in made:
        made["lengths"] = torch.tensor([time, 2, time - 1], dtype=torch.int32)
    return made


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    return [torch.from_numpy(y) for y in session(path).run(None, {name: x.numpy() for name, x in inputs.items()})]


def call(network: OnnxNetwork, inputs: dict[str, Tensor]) -> list[Tensor]:
    """One call of the graph: its own outputs in their order."""
    with torch.no_grad():
        found = network._run(list(inputs.values()))
    return [found[name] for name in network.view.outputs]


def exchange(network: OnnxNetwork, which: str, method: str = "svd") -> OnnxNetwork:
    """Put layers with random weights at the maps whose names begin with one of ``which``, separated by commas."""
    torch.manual_seed(2)
    for loop in network.loops:
        node = network.opened_node(loop)
        for name, linear in list(node.named_children()):
            if name.startswith(tuple(which.split(","))):
                assert isinstance(linear, nn.Linear)
                config = {"rank": 2} if method == "svd" else {}
                sizes = linear.in_features, linear.out_features
                node.add_module(name, build(method, *sizes, bias=linear.bias is not None, config=config))
    return network.eval()


FORMS: dict[str, dict[str, Any]] = {
    "LSTM": {"kind": "LSTM"},
    "LSTM, bidirectional, from given states": {"kind": "LSTM", "direction": "bidirectional", "states": True},
    "LSTM, backwards, without biases, cell state only": {
        "kind": "LSTM", "direction": "reverse", "bias": False, "used": ("c",)},
    "LSTM, bidirectional, with lengths": {"kind": "LSTM", "direction": "bidirectional", "lengths": True},
    "GRU, reset before": {"kind": "GRU", "direction": "bidirectional", "states": True},
    "GRU, reset after": {"kind": "GRU", "direction": "bidirectional", "linear_before_reset": 1, "used": ("y",)},
    "GRU, backwards, with lengths": {"kind": "GRU", "direction": "reverse", "lengths": True, "used": ("h",)},
    "RNN": {"kind": "RNN", "direction": "bidirectional", "activations": ["Tanh", "Tanh"]},
    "RNN with ReLU": {"kind": "RNN", "activations": ["Relu"], "states": True},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_opened_node_gives_what_the_node_gives(form: str, tmp_path: Path) -> None:
    network = opened(recurrent(**FORMS[form]), tmp_path)
    (loop,) = network.loops
    assert loop.module == "rnn"
    assert network.left == {}
    inputs = inputs_of(network)
    torch.testing.assert_close(call(network, inputs), run(tmp_path / "net.onnx", inputs))


CHANGED = [
    *((form, "hh,hn") for form in FORMS), ("LSTM", "ih"), ("GRU, reset before", "ih"),
    ("LSTM, bidirectional, with lengths", "ih,hh"), ("RNN", "ih_reverse,hh_reverse"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("form", "which"), CHANGED)
def test_the_file_gives_what_the_layers_in_memory_give(form: str, which: str, tmp_path: Path) -> None:
    network = opened(recurrent(**FORMS[form]), tmp_path)
    inputs = inputs_of(network)
    before = call(network, inputs)
    exchange(network, which, "acdc" if which == "hh,hn" else "svd")
    wanted = call(network, inputs)
    out = tmp_path / "out.onnx"
    save_network(network, out)
    assert not torch.allclose(before[0], wanted[0], atol=1e-2)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    torch.testing.assert_close(run(out, inputs), wanted, rtol=1e-5, atol=1e-5)
    shorter = {name: x[:2] if name == "x" else x for name, x in inputs.items() if name != "lengths"}
    if "lengths" not in inputs:  # the steps are no constant of the file
        torch.testing.assert_close(run(out, shorter), call(network, shorter), rtol=1e-5, atol=1e-5)
    nodes, tensors = check_untouched(network, out)
    assert (nodes, tensors) == (1, 1)
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("Scan") == len(network.opened_node(network.loops[0]).ends)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [9, 11, 13, 18, 23])
def test_a_loop_is_written_for_the_opset_of_the_file(opset: int, tmp_path: Path) -> None:
    network = opened(recurrent("GRU", direction="bidirectional", opset=opset, lengths=opset > 10), tmp_path)
    inputs = inputs_of(network)
    exchange(network, "ih,hh,hn")
    save_network(network, tmp_path / "out.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == opset
    torch.testing.assert_close(run(tmp_path / "out.onnx", inputs), call(network, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_node_in_half_precision_stays_in_it(tmp_path: Path) -> None:
    network = opened(recurrent("LSTM", half=True, states=True), tmp_path)
    inputs = inputs_of(network)
    torch.testing.assert_close(call(network, inputs), run(tmp_path / "net.onnx", inputs), rtol=1e-2, atol=2e-3)
    exchange(network, "ih,hh")
    save_network(network, tmp_path / "out.onnx")
    got = run(tmp_path / "out.onnx", inputs)
    assert {y.dtype for y in got} == {torch.float16}
    torch.testing.assert_close(got, call(network, inputs), rtol=1e-2, atol=5e-3)


def test_maps_see_all_time_steps_and_the_states_of_all_steps(tmp_path: Path) -> None:
    network = opened(recurrent("LSTM", direction="bidirectional", states=True), tmp_path)
    network.rows = None  # any number in a call: the batch stands second
    inputs = inputs_of(network)
    network.by_call = lambda given, run: run(given)  # type: ignore[method-assign]
    y = run(tmp_path / "net.onnx", inputs)[0]
    given = tuple(inputs.values())
    for end in ("", "_reverse"):
        torch.testing.assert_close(rows_at(network, f"rnn.ih{end}", given), 2 * inputs["x"].reshape(-1, IN))
    forward = torch.cat([inputs["h0"][:1], y[:-1, 0]])
    backward = torch.cat([inputs["h0"][1:], y.flip(0)[:-1, 1]])
    for end, states in (("", forward), ("_reverse", backward)):
        torch.testing.assert_close(rows_at(network, f"rnn.hh{end}", given, every=True), states.reshape(-1, HIDDEN))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gradients_are_those_of_the_node_written_in_torch(kind: str, tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    network = opened(recurrent(kind, direction="bidirectional", **attributes), tmp_path)
    x = inputs_of(network)["x"]
    node, weights = network.view.nodes[1], [torch.from_numpy(network.view.value(name).copy()) for name in "wrb"]
    for one in weights:
        one.requires_grad_(True)
    twin = x.clone().requires_grad_(True)
    OPERATORS[kind](node, 17, 2 * twin, *weights)[0].square().sum().backward()
    module = network.opened_node(network.loops[0]).requires_grad_(True)
    network._run([x.requires_grad_(True)])["y"].square().sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)  # what layers before the node are trained by
    for d, end in enumerate(("", "_reverse")):
        for i, name in enumerate(("ih", "hh")):
            torch.testing.assert_close(module.map(name + end).weight.grad, weights[i].grad[d])


def test_products_and_numbers_are_counted_once(tmp_path: Path) -> None:
    proto = classifier("LSTM")
    network = opened(proto, tmp_path)
    x = torch.randn(4, TIME, IN)
    network(x)  # it tries once whether it takes several rows in a call
    sites = {site.name: site for site in find_sites(network, (x,))}
    assert sites["rnn.ih"].calls == 1
    assert sites["rnn.hh"].calls == TIME
    assert {name: site.rows for name, site in sites.items()} == {
        "rnn.ih": TIME, "rnn.hh": TIME, "rnn.ih_reverse": TIME, "rnn.hh_reverse": TIME, "out": 1,
    }  # fmt: skip
    assert macs_outside(network, (x,)) == 0
    assert sum(site.macs for site in sites.values()) == 2 * TIME * 4 * HIDDEN * (IN + HIDDEN) + 2 * HIDDEN * 4
    stored = sum(numpy_helper.to_array(tensor).size for tensor in proto.graph.initializer)
    assert sum(site.params for site in sites.values()) + network.numbers_outside() == stored


def classifier(kind: str, **options: Any) -> onnx.ModelProto:
    """The mean of all outputs of a bidirectional node over examples ``(n, time, features)``, through a dense layer."""
    proto = recurrent(kind, direction="bidirectional", used=("y",), **options)
    graph = proto.graph
    turned = helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2], name="/Transpose")
    graph.node[0].input[0] = "turned"
    graph.node.insert(0, turned)
    graph.initializer.append(numpy_helper.from_array(np.ones((2 * HIDDEN, 4), np.float32) / 3, "out_w"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 2 * HIDDEN]), "flat"))
    graph.node.extend([
        helper.make_node("Transpose", ["y"], ["rows_first"], perm=[2, 0, 1, 3], name="/Transpose_1"),
        helper.make_node("Reshape", ["rows_first", "flat"], ["steps"], name="/Reshape"),
        helper.make_node("ReduceMean", ["steps"], ["mean"], axes=[1], keepdims=0, name="/Mean"),
        helper.make_node("MatMul", ["mean", "out_w"], ["scores"], name="/out/MatMul"),
    ])  # fmt: skip
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", IN]))
    graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4]))
    return proto


def sequences(rows: int = 200) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(rows, TIME, IN)).astype(np.float32)


@pytest.mark.slow
def test_the_job_replaces_the_maps_of_a_node_and_training_goes_through_it(tmp_path: Path) -> None:
    path, x = written(classifier("GRU", linear_before_reset=1), tmp_path), sequences()
    fitted = compress(path, "svd", settings={"rank": 2}, target=("rnn.*",), data=x, epochs=0).report
    done = compress(path, "svd", settings={"rank": 2}, target=("rnn.*",), data=x, epochs=6, output=tmp_path / "out")
    report = done.report
    assert [row.calls for row in report.layers if row.method] == [1, TIME, 1, TIME]
    rank, gates = 2, 3 * HIDDEN
    assert report.after.macs == 2 * TIME * rank * (2 * gates + IN + HIDDEN) + 2 * HIDDEN * 4
    assert report.before.params is not None
    assert report.after.params == report.before.params - 2 * gates * (IN + HIDDEN) + 2 * rank * (
        2 * gates + IN + HIDDEN
    )
    assert report.after.fidelity is not None
    assert fitted.after.fidelity is not None
    assert report.after.fidelity.relative_error < 0.9 * fitted.after.fidelity.relative_error
    assert max(check.max_rel for check in report.verification) < 1e-5
    assert not any("not trained" in note or "left as" in note for note in report.notes)


@pytest.mark.slow
def test_a_node_whose_maps_stay_dense_is_written_byte_for_byte(tmp_path: Path) -> None:
    path = written(classifier("LSTM"), tmp_path)
    result = compress(path, "svd", settings={"rank": 2}, target=("out",), data=sequences(), epochs=0)
    before = next(node for node in onnx.load(path).graph.node if node.op_type == "LSTM")
    (after,) = (node for node in onnx.load(result.folder / "model.onnx").graph.node if node.op_type == "LSTM")
    assert after.SerializeToString() == before.SerializeToString()


@pytest.mark.slow
def test_a_graph_is_streamed_with_its_recurrent_nodes(tmp_path: Path) -> None:
    onnx.save(
        classifier("LSTM"), tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=200
    )
    recipe = make_recipe(model=str(tmp_path / "net.onnx"), method="svd", settings={"rank": 2}, stream=True)
    report = stream(recipe, tmp_path / "out")
    assert [row.method for row in report.layers] == ["svd"] * 5
    whole = compress(tmp_path / "net.onnx", "svd", settings={"rank": 2}, target=("*",))
    x = {"x": torch.from_numpy(sequences(3))}
    torch.testing.assert_close(
        run(tmp_path / "out" / "model.onnx", x), run(whole.folder / "model.onnx", x), rtol=1e-3, atol=1e-5
    )


def test_weights_that_are_cut_and_joined_by_nodes_are_found(tmp_path: Path) -> None:
    proto = recurrent("LSTM")
    w = numpy_helper.to_array(proto.graph.initializer[0])[0]
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.roll(w, HIDDEN, 0), "weight_ih"))
    places = {"zero": [0], "cut": [HIDDEN], "end": [len(w)]}
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(at), name) for name, at in places.items())
    made = [
        helper.make_node("Slice", ["weight_ih", "zero", "cut", "zero"], ["last"]),
        helper.make_node("Slice", ["weight_ih", "cut", "end", "zero"], ["first"]),
        helper.make_node("Concat", ["first", "last"], ["joined"], axis=0),
        helper.make_node("Unsqueeze", ["joined", "zero"], ["w"]),
        helper.make_node("Gather", ["y", "zero"], ["start"]),  # reads a place, which is no weight
    ]
    for node in reversed(made[:-1]):
        proto.graph.node.insert(0, node)
    proto.graph.node.append(made[-1])
    network = opened(proto, tmp_path)
    linear = network.get_submodule("rnn.ih")
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(linear.weight, torch.from_numpy(w.copy()), rtol=0, atol=0)
    assert [site.tied_to for site in find_sites(network, None)] == [None, None]
    assert network.numbers_outside() == 1 + 3  # the scale, the places


def test_weights_that_something_else_reads_or_that_two_nodes_share_are_seen_as_tied(tmp_path: Path) -> None:
    proto = recurrent("LSTM")
    proto.graph.node.append(helper.make_node("Gather", ["w", "place"], ["read"], name="reader"))
    proto.graph.input.append(helper.make_tensor_value_info("place", TensorProto.INT64, [1]))
    again = onnx.NodeProto()
    again.CopyFrom(proto.graph.node[1])
    again.name, again.output[:], again.input[1] = "again", ["", "h2"], "w2"
    proto.graph.node.append(again)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4 * HIDDEN, IN), np.float32), "w2"))
    network = opened(proto, tmp_path)
    tied = {site.name: site.tied_to for site in find_sites(network, None)}
    assert tied == {
        "rnn.ih": "read_by_Gather_2", "rnn.hh": "again.hh", "again.ih": None, "again.hh": "rnn.hh"
    }  # fmt: skip


def test_no_module_is_put_inside_of_a_map_or_of_a_node_that_is_opened() -> None:
    assert unique_names(["lstm", "fc.act", "fc"], ["fc"]) == ["lstm", "fc_act", "fc_2"]
    assert unique_names(["lstm"], ["lstm.out"]) == ["lstm_map"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "clip": ({"kind": "LSTM", "clip": 1.0}, "attribute clip"),
    "input_forget": ({"kind": "LSTM", "input_forget": 1}, "forget gate"),
    "activations": ({"kind": "GRU", "activations": ["HardSigmoid", "Tanh"]}, "activations are hardsigmoid, tanh"),
    "two activations": (
        {"kind": "RNN", "direction": "bidirectional", "activations": ["Tanh", "Relu"]}, "activations are tanh, relu"),
    "the batch first": ({"kind": "LSTM", "layout": 1}, "batch first"),
    "an old opset": ({"kind": "LSTM", "opset": 8}, "opset 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_left_as_they_are_and_it_is_said_why(name: str, tmp_path: Path) -> None:
    options, why = REFUSED[name]
    proto = recurrent(**options)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    network = OnnxNetwork(read_onnx(path))
    assert not network.loops
    (said,) = network.left.items()
    assert said[0] == f"{options['kind']} '/rnn/{options['kind']}'"
    assert why in said[1]


def test_peepholes_computed_weights_and_wrong_sizes_are_left_as_they_are(tmp_path: Path) -> None:
    with_peepholes = recurrent("LSTM")
    del with_peepholes.graph.node[1].input[:]
    with_peepholes.graph.node[1].input.extend(["scaled", "w", "r", "b", "", "", "", "p"])
    with_peepholes.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3 * HIDDEN), np.float32), "p"))
    computed = recurrent("LSTM")
    computed.graph.node.insert(1, helper.make_node("Mul", ["w", "factor"], ["w_now"]))
    computed.graph.node[2].input[1] = "w_now"
    computed.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, [1]))
    wrong = recurrent("LSTM", bias=False)
    wrong.graph.node[1].attribute[1].i = HIDDEN + 1
    for proto, why in ((with_peepholes, "peepholes"), (computed, "computed"), (wrong, "sizes")):
        path = tmp_path / "net.onnx"
        path.write_bytes(proto.SerializeToString())
        network = OnnxNetwork(read_onnx(path))
        assert not network.loops
        assert why in network.left["LSTM '/rnn/LSTM'"]


@pytest.mark.slow
def test_what_is_left_is_said_in_the_report(tmp_path: Path) -> None:
    path = written(classifier("LSTM", clip=3.0), tmp_path)
    report = compress(path, "svd", settings={"rank": 2}, data=sequences(), epochs=0, target=("out",)).report
    assert [row.name for row in report.layers] == ["out"]
    assert "left as they are: the weights of LSTM '/rnn/LSTM': it has the attribute clip" in report.notes
    assert report.before.macs == 2 * TIME * 4 * HIDDEN * (IN + HIDDEN) + 2 * HIDDEN * 4
