"""ONNX export: a fitted model as one graph that any ONNX runtime computes, in float64.

    x (n, m) -> parts -> z -> calibration -> log_odds (n,) -> sigmoid -> score (n,)

Trees and lookup tables become `TreeEnsemble` operators (ai.onnx.ml 5: float64 thresholds, sets
of category codes, a side for NaN); slopes and calibration become sums of clipped lines. The
graph takes encoded columns. How raw values become those stands in the file's metadata, since
ONNX has no parsers of texts and dates that would equal ours. Against `ArtifactScorer` the
log-odds differ by the rounding of sums only: `TOLERANCE`. Serves A12 of the requirements.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, MissingExtra
from chopmark.models import Additive, ArtifactScorer, Calibration, Encoder, Part, Trees, kernels
from chopmark.models.artifact import write_whole
from chopmark.models.dense import Dense
from chopmark.tabular.onnx_trees import ensemble_of_lookups, ensemble_of_trees

TOLERANCE = 1e-11
"""Largest difference in log-odds between the exported graph and our own scorer."""

Link = Literal["logit", "identity"]
"""Whether the calibrated z is the log-odds of the score, or the number itself."""

_ML = "ai.onnx.ml"
_OPSETS = {"": 21, _ML: 5}
_IR_VERSION = 10
_LEAST_WIDTH = 1e-300


def export_onnx(scorer: ArtifactScorer, path: str | Path) -> None:
    """Write a model as an ONNX file, whole or not at all.

    Parameters
    ----------
    scorer
        What `load_scorer` gave, or `EasyML.scorer` of a fitted model; of a model of several
        classes, one of `ClassScorer.questions`.
    path
        Its usual extension is ``.onnx``.

    Raises
    ------
    MissingExtra
        If the package onnx is not installed.
    InvalidInput
        If the model has a part that this export cannot express.
    ArtifactError
        If the file cannot be written.
    """
    model = graph_of(
        scorer.parts,
        calibration=scorer.calibration,
        encoder=scorer.encoder,
        link=scorer.artifact.header["link"],
        artifact_hash=scorer.hash,
    )
    write_whole(Path(path), model.SerializeToString(deterministic=True))


def graph_of(
    parts: Sequence[Part],
    *,
    calibration: Calibration,
    encoder: Encoder,
    link: Link = "logit",
    artifact_hash: str = "",
) -> Any:
    """The ``onnx.ModelProto`` of parts that add up to z, checked by onnx.

    Input ``x`` is (n, m) float64: encoded columns, NaN where missing, whole numbers for category
    codes. Outputs ``score`` and ``log_odds`` are (n,) float64; by link "identity" both are the
    number. The metadata are ``encoded`` (the names of the m columns), ``reads`` (the raw
    columns) and ``encoder`` (`Encoder.to_json`), as JSON, and ``artifact`` (the hash).

    Raises
    ------
    MissingExtra
        If the package onnx is not installed.
    InvalidInput
        If a part is no `Trees`, `Additive` or `Dense`, or its trees treat zero as missing.
    """
    graph = _Graph()
    z = graph.constant(np.zeros((1, 1)))
    for part in parts:
        z = graph.add("Add", z, _part(graph, part))
    log_odds = _calibrated(graph, z, calibration)
    if link == "logit":
        log_odds = _limited(graph, log_odds)
    axis = graph.constant(np.array([1]))
    graph.add("Squeeze", log_odds, axis, output="log_odds")
    graph.add("Sigmoid" if link == "logit" else "Identity", "log_odds", output="score")
    metadata = {
        "encoded": json.dumps([column.name for column in encoder.encoded]),
        "reads": json.dumps(encoder.reads),
        "encoder": json.dumps(encoder.to_json(), sort_keys=True),
        "artifact": artifact_hash,
    }
    return graph.model(num_columns=len(encoder.encoded), metadata=metadata)


class _Graph:
    """Operators and constants of a graph under construction; values go by their names."""

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtra("the ONNX export", "onnx") from error
        self._onnx = onnx
        self._operators: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, values: NDArray[Any]) -> str:
        """The name of a constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", axis: int | None = None) -> str:
        """The name of what the operator gives."""
        attributes = {} if axis is None else {"axis": axis}
        return self._add(operator, inputs, attributes, output=output)

    def add_cast(self, values: str) -> str:
        """The name of the values as int64, cut towards zero."""
        return self._add("Cast", [values], {"to": self._onnx.TensorProto.INT64})

    def add_trees(self, attributes: Mapping[str, Any]) -> str:
        """The name of the (n, 1) sums of the leaves that x reaches."""
        tensors = {
            name: self._onnx.numpy_helper.from_array(value, name)
            for name, value in attributes.items()
            if isinstance(value, np.ndarray)
        }
        return self._add("TreeEnsemble", ["x"], {**attributes, **tensors}, domain=_ML)

    def model(self, *, num_columns: int, metadata: dict[str, str]) -> Any:
        """The finished model, checked."""
        helper = self._onnx.helper
        double = self._onnx.TensorProto.DOUBLE
        graph = helper.make_graph(
            self._operators,
            "chopmark",
            [helper.make_tensor_value_info("x", double, ["n", num_columns])],
            [helper.make_tensor_value_info(name, double, ["n"]) for name in ("score", "log_odds")],
            self._constants,
        )
        model = helper.make_model(
            graph,
            producer_name="chopmark",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid(*opset) for opset in _OPSETS.items()],
        )
        helper.set_model_props(model, metadata)
        self._onnx.checker.check_model(model, full_check=True)
        return model

    def _add(
        self,
        operator: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any],
        *,
        output: str = "",
        domain: str = "",
    ) -> str:
        name = output or f"value_{len(self._operators)}"
        make = self._onnx.helper.make_node
        self._operators.append(make(operator, inputs, [name], domain=domain, **attributes))
        return name


def _part(graph: _Graph, part: Part) -> str:
    """(n, 1) z of one part."""
    if isinstance(part, Trees):
        return graph.add_trees(ensemble_of_trees(part))
    if isinstance(part, Additive):
        return _terms(graph, part)
    if isinstance(part, Dense):
        return _network(graph, part)
    raise InvalidInput(
        f"the ONNX export does not know the part `{part.name}`; serve this model from its artifact"
    )


def _terms(graph: _Graph, part: Additive) -> str:
    """(n, 1) z of an additive model: bias, looked-up weights and slopes."""
    bias = graph.constant(np.array([[part.bias]]))
    z = graph.add("Add", bias, graph.add_trees(ensemble_of_lookups(part)))
    sloped = np.flatnonzero((part.terms["num_edges"] >= 0) & (part.terms["slope"] != 0.0))
    if len(sloped) == 0:
        return z
    terms = part.terms[sloped]
    values = graph.add("Gather", "x", graph.constant(sloped), axis=1)
    # A missing number has no slope: at the center the line is zero.
    missing = graph.add("IsNaN", values)
    values = graph.add("Where", missing, graph.constant(terms["center"].copy()), values)
    lines = _lines(
        graph,
        values,
        low=terms["low"],
        high=terms["high"],
        zero=terms["center"],
        slope=terms["slope"].reshape(-1, 1),
    )
    return graph.add("Add", z, lines)


def _network(graph: _Graph, part: Dense) -> str:
    """(n, 1) z of a network; see `Dense` for its equations and the shape letters."""
    num_members, width = part.heads.shape
    inputs = [_input(graph, part, column) for column in range(len(part.columns))]
    shape = graph.constant(np.array([0, len(inputs), width]))
    inputs_NMH = graph.add("Reshape", graph.add("Concat", *inputs, axis=1), shape)
    layer_NKH = graph.add("MatMul", graph.constant(part.adapters), inputs_NMH)
    layer_NKH = graph.add("Add", layer_NKH, graph.constant(part.biases[0]))
    for weights, biases in zip(part.hidden, part.biases[1:], strict=True):
        layer_NKH = graph.add("MatMul", graph.add("Relu", layer_NKH), graph.constant(weights))
        layer_NKH = graph.add("Add", layer_NKH, graph.constant(biases))
    flat = graph.constant(np.array([0, num_members * width]))
    last = graph.add("Reshape", graph.add("Relu", layer_NKH), flat)
    z = graph.add("MatMul", last, graph.constant(part.heads.reshape(-1, 1)))
    return graph.add("Add", z, graph.constant(np.array([[part.shift]])))


def _input(graph: _Graph, part: Dense, column: int) -> str:
    """(n, H) what one column gives to the first layer."""
    edge, num_edges, place, num_places = part.columns[column].tolist()
    levels = part.levels[place : place + num_places]
    values = graph.add("Gather", "x", graph.constant(np.array([column])), axis=1)
    if num_edges < 0:
        return _looked_up(graph, values, levels)
    low, high = part.edges[edge:][: num_edges - 1], part.edges[edge + 1 :][: num_edges - 1]
    # Two edges in one place are a step, which is a line over the least distance there is.
    high = np.maximum(high, np.maximum(np.nextafter(low, np.inf), low + _LEAST_WIDTH))
    slope = np.diff(levels[:num_edges], axis=0) / (high - low)[:, None]
    lines = _lines(graph, values, low=low, high=high, zero=low, slope=slope)
    known = graph.add("Add", graph.constant(levels[0]), lines)
    return graph.add("Where", graph.add("IsNaN", values), graph.constant(levels[num_edges]), known)


def _looked_up(graph: _Graph, codes: str, levels: NDArray[np.float64]) -> str:
    """(n, H) the level of each code (n, 1); one that the model never saw counts as code 1."""
    seen = graph.add(
        "And",
        graph.add("GreaterOrEqual", codes, graph.constant(np.array(0.0))),
        graph.add("Less", codes, graph.constant(np.array(float(len(levels))))),
    )
    known = graph.add("Where", seen, codes, graph.constant(np.array(1.0)))
    flat = graph.add("Squeeze", known, graph.constant(np.array([1])))
    places = graph.add_cast(flat)
    return graph.add("Gather", graph.constant(levels), places, axis=0)


def _calibrated(graph: _Graph, z: str, calibration: Calibration) -> str:
    """(n, 1) calibrated log-odds of z: one clipped line per piece of the curve."""
    if len(calibration.knots):
        points, outer = calibration.knots[:-1], calibration.knots[-1]
        x, y = points.T
        inner = np.diff(y) / np.diff(x)
        curve = _lines(
            graph,
            z,
            low=np.array([-np.inf, *x]),
            high=np.array([*x, np.inf]),
            zero=np.array([x[0], *x]),
            slope=np.array([[outer[0]], *inner[:, None], [outer[1]]]),
        )
        z = graph.add("Add", graph.constant(np.array([[y[0]]])), curve)
    return z


def _limited(graph: _Graph, log_odds: str) -> str:
    """(n, 1) log-odds within `LOG_ODDS_LIMIT`."""
    limit = graph.constant(np.array(kernels.LOG_ODDS_LIMIT))
    return graph.add("Clip", log_odds, graph.add("Neg", limit), limit)


def _lines(
    graph: _Graph,
    values: str,
    *,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    zero: NDArray[np.float64],
    slope: NDArray[np.float64],
) -> str:
    """(n, w) sums over the p columns of slope (p, w) * (clip(value, low, high) - zero)."""
    floored = graph.add("Max", values, graph.constant(low.copy()))
    clipped = graph.add("Min", floored, graph.constant(high.copy()))
    moved = graph.add("Sub", clipped, graph.constant(zero.copy()))
    return graph.add("MatMul", moved, graph.constant(slope))
