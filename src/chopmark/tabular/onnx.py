"""ONNX export: a fitted model as one graph that any ONNX runtime computes, in float64.

    x (n, m) -> parts -> z -> calibration -> log_odds (n,) -> sigmoid -> score (n,)
    of k classes: the same k times -> log_odds (n, k) -> divided by their sum -> probabilities

Trees and lookup tables become `TreeEnsemble` operators (ai.onnx.ml 5: float64 thresholds, sets
of category codes, a side for NaN); slopes and calibration become sums of clipped lines. The
graph takes encoded columns. How raw values become those stands in the file's metadata, since
ONNX has no parsers of texts and dates that would equal ours. Against `ArtifactScorer` the
log-odds differ by the rounding of sums only: `TOLERANCE`. Serves A12 of the requirements.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import DeclarationError, InvalidInput, MissingExtra
from chopmark.models import (
    Additive,
    ArtifactScorer,
    Calibration,
    ClassScorer,
    Column,
    Encoder,
    Part,
    Trees,
    kernels,
)
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

_Reading: TypeAlias = tuple[int, Column, Column]
"""What an encoded column is, whichever encoder makes it: an operation and its two operands."""


def export_onnx(scorer: ArtifactScorer | ClassScorer, path: str | Path) -> None:
    """Write a model as an ONNX file, whole or not at all.

    Parameters
    ----------
    scorer
        What `load_scorer` gave, or `EasyML.scorer` of a fitted model, of several classes too.
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
    if isinstance(scorer, ClassScorer):
        model = graph_of_classes(scorer)
    else:
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
    log_odds = _summed(graph, "x", parts, calibration, link)
    axis = graph.constant(np.array([1]))
    graph.add("Squeeze", log_odds, axis, output="log_odds")
    graph.add("Sigmoid" if link == "logit" else "Identity", "log_odds", output="score")
    outputs: dict[str, list[str | int]] = {"score": ["n"], "log_odds": ["n"]}
    return graph.model(encoder, outputs, {"artifact": artifact_hash})


def graph_of_classes(scorer: ClassScorer) -> Any:
    """The ``onnx.ModelProto`` of a model of k classes, checked by onnx.

    Input ``x`` is (n, m) float64: the encoded columns of all questions, each once. Outputs are
    (n, k) float64: ``probabilities``, which sum to one, and ``log_odds`` of each class's own
    question. The metadata are those of `graph_of` and ``classes``, the labels as JSON.

    Raises
    ------
    MissingExtra
        If the package onnx is not installed.
    InvalidInput
        If a part is one that `graph_of` refuses, or no one encoder reads for all questions.
    """
    encoder, places = joined([question.encoder for question in scorer.questions])
    graph = _Graph()
    found = []
    for question, chosen in zip(scorer.questions, places, strict=True):
        x = "x"
        if chosen.tolist() != list(range(len(encoder.encoded))):
            x = graph.add("Gather", "x", graph.constant(chosen), axis=1)
        found.append(_summed(graph, x, question.parts, question.calibration, "logit"))
    log_odds = graph.add("Concat", *found, axis=1, output="log_odds")
    scores = graph.add("Sigmoid", log_odds)
    total = graph.add("ReduceSum", scores, graph.constant(np.array([1])))
    graph.add("Div", scores, total, output="probabilities")
    shape: list[str | int] = ["n", len(scorer.classes)]
    metadata = {"artifact": scorer.hash, "classes": json.dumps(scorer.classes)}
    return graph.model(encoder, {"probabilities": shape, "log_odds": shape}, metadata)


def joined(encoders: Sequence[Encoder]) -> tuple[Encoder, list[NDArray[np.int64]]]:
    """One encoder for several, and where the encoded columns of each lie among its own.

    A column that several of them encode alike is encoded once.

    Raises
    ------
    InvalidInput
        If one name is read as two different numbers or dates that combinations are made of.
    """
    columns: dict[Column, Column] = {}
    for encoder in encoders:
        for column in encoder.columns:
            known = columns.setdefault(_bare(column), column)
            more = [part for part in column.parts if part not in known.parts]
            columns[_bare(column)] = replace(known, parts=(*known.parts, *more))
    made = dict.fromkeys(made for encoder in encoders for made in encoder.combinations)
    dropped = {item.name: item for encoder in reversed(encoders) for item in encoder.dropped}
    reads = {column.name for column in columns.values()}
    confused = InvalidInput(
        "two classes of the model read a column of one name in different ways, which one ONNX "
        "graph cannot take; export them one by one (`ClassScorer.questions`)"
    )
    try:
        one = Encoder(
            columns=list(columns.values()),
            combinations=list(made),
            dropped=[item for name, item in dropped.items() if name not in reads],
        )
    except DeclarationError as error:
        raise confused from error
    place = {reading: place for place, reading in enumerate(_readings(one))}
    if any(reading not in place for encoder in encoders for reading in _readings(encoder)):
        raise confused
    return one, [
        np.array([place[reading] for reading in _readings(encoder)], dtype=np.int64)
        for encoder in encoders
    ]


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

    def add_trees(self, x: str, attributes: Mapping[str, Any]) -> str:
        """The name of the (n, 1) sums of the leaves that x reaches."""
        tensors = {
            name: self._onnx.numpy_helper.from_array(value, name)
            for name, value in attributes.items()
            if isinstance(value, np.ndarray)
        }
        return self._add("TreeEnsemble", [x], {**attributes, **tensors}, domain=_ML)

    def model(
        self,
        encoder: Encoder,
        outputs: Mapping[str, Sequence[str | int]],
        metadata: Mapping[str, str],
    ) -> Any:
        """The finished model of what the encoder gives, checked; `outputs` are names and shapes."""
        helper = self._onnx.helper
        double = self._onnx.TensorProto.DOUBLE
        graph = helper.make_graph(
            self._operators,
            "chopmark",
            [helper.make_tensor_value_info("x", double, ["n", len(encoder.encoded)])],
            [helper.make_tensor_value_info(name, double, shape) for name, shape in outputs.items()],
            self._constants,
        )
        model = helper.make_model(
            graph,
            producer_name="chopmark",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid(*opset) for opset in _OPSETS.items()],
        )
        read = {
            "encoded": json.dumps([column.name for column in encoder.encoded]),
            "reads": json.dumps(encoder.reads),
            "encoder": json.dumps(encoder.to_json(), sort_keys=True),
        }
        helper.set_model_props(model, {**read, **metadata})
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


def _readings(encoder: Encoder) -> list[_Reading]:
    """The m encoded columns as what they are, beyond their names."""
    columns = [_bare(column) for column in encoder.columns]
    return [
        (int(step["op"]), columns[step["left"]], columns[step["right"]]) for step in encoder.plan
    ]


def _bare(column: Column) -> Column:
    """The column without the parts of a date, which are columns of the plan."""
    return replace(column, parts=()) if column.kind == "date" else column


def _summed(
    graph: _Graph, x: str, parts: Sequence[Part], calibration: Calibration, link: Link
) -> str:
    """(n, 1) log-odds (or the number) that parts give to the encoded columns x."""
    z = graph.constant(np.zeros((1, 1)))
    for part in parts:
        z = graph.add("Add", z, _part(graph, x, part))
    log_odds = _calibrated(graph, z, calibration)
    return _limited(graph, log_odds) if link == "logit" else log_odds


def _part(graph: _Graph, x: str, part: Part) -> str:
    """(n, 1) z of one part."""
    if isinstance(part, Trees):
        return graph.add_trees(x, ensemble_of_trees(part))
    if isinstance(part, Additive):
        return _terms(graph, x, part)
    if isinstance(part, Dense):
        return _network(graph, x, part)
    raise InvalidInput(
        f"the ONNX export does not know the part `{part.name}`; serve this model from its artifact"
    )


def _terms(graph: _Graph, x: str, part: Additive) -> str:
    """(n, 1) z of an additive model: bias, looked-up weights and slopes."""
    bias = graph.constant(np.array([[part.bias]]))
    z = graph.add("Add", bias, graph.add_trees(x, ensemble_of_lookups(part)))
    sloped = np.flatnonzero((part.terms["num_edges"] >= 0) & (part.terms["slope"] != 0.0))
    if len(sloped) == 0:
        return z
    terms = part.terms[sloped]
    values = graph.add("Gather", x, graph.constant(sloped), axis=1)
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


def _network(graph: _Graph, x: str, part: Dense) -> str:
    """(n, 1) z of a network; see `Dense` for its equations and the shape letters."""
    num_members, width = part.heads.shape
    inputs = [_input(graph, x, part, column) for column in range(len(part.columns))]
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


def _input(graph: _Graph, x: str, part: Dense, column: int) -> str:
    """(n, H) what one column gives to the first layer."""
    edge, num_edges, place, num_places = part.columns[column].tolist()
    levels = part.levels[place : place + num_places]
    values = graph.add("Gather", x, graph.constant(np.array([column])), axis=1)
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
