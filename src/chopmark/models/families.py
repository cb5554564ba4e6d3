"""Families: which scorer reads which artifact, and where other packages add theirs.

An artifact names its family; `scorer_of` builds the scorer of that family, and with it the
scorers of its parts. A package with a model of its own registers its family when imported:

    register("my family", MyScorer)

Serves A12 and B10 of the requirements.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from chopmark.errors import ArtifactError, DeclarationError, did_you_mean
from chopmark.models import artifact as artifacts
from chopmark.models.artifact import Artifact
from chopmark.models.blended import BlendScorer, TableScorer
from chopmark.models.classes import CLASSES, ClassScorer
from chopmark.models.column import Dropped, Kind
from chopmark.models.embedded import EMBEDDED, MODEL, EmbeddedScorer
from chopmark.models.encoder import Encoder
from chopmark.models.scorers import FAMILY, ArtifactScorer
from chopmark.models.sequences import SEQUENCE, SequenceScorer

Make: TypeAlias = Callable[[Artifact], TableScorer]
"""A scorer class, or another function from a checked artifact to a scorer."""

BLEND = "blend"

_MAKERS: dict[str, Make] = {FAMILY: ArtifactScorer, SEQUENCE: SequenceScorer}


def register(family: str, make: Make) -> None:
    """Let artifacts of this family be scored by what `make` gives. Once more is no matter.

    Raises
    ------
    DeclarationError
        If the family is another's already.
    """
    if family in (BLEND, EMBEDDED) or _MAKERS.setdefault(family, make) is not make:
        raise DeclarationError(f"the family `{family}` has a scorer already; choose another name")


def scorer_of(artifact: Artifact) -> TableScorer:
    """The scorer of an artifact and of all its parts.

    Raises
    ------
    ArtifactError
        If nothing here reads its family or a part's, or its contents do not fit each other.
    """
    if artifact.family == CLASSES:
        raise ArtifactError(
            "the artifact holds a model of several classes, and one score a row is asked for: "
            "serve it with `chopmark easyml serve`, or load it with `EasyML.load`"
        )
    if artifact.family == BLEND:
        return BlendScorer(artifact, {name: _part(name, artifact) for name in artifact.parts})
    if artifact.family == EMBEDDED:
        return EmbeddedScorer(artifact, _inside(artifact))
    if artifact.family not in _MAKERS:
        raise ArtifactError(
            f"the artifact holds a model of family `{artifact.family}`, which nothing here can "
            "score; import the package that registers it"
            + did_you_mean(artifact.family, (BLEND, EMBEDDED, *_MAKERS))
        )
    return _MAKERS[artifact.family](artifact)


def load_scorer(path: str | Path) -> TableScorer:
    """The scorer of an artifact file, checked and warm.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, foreign, or its contents do not fit each other.
    """
    scorer = scorer_of(artifacts.read(path))
    scorer.warm()
    return scorer


def load_any(path: str | Path) -> TableScorer | ClassScorer:
    """As `load_scorer`; of a model of several classes, the scorer of one score for each."""
    artifact = artifacts.read(path)
    scorer = ClassScorer(artifact) if artifact.family == CLASSES else scorer_of(artifact)
    scorer.warm()
    return scorer


def readings_of(scorer: TableScorer | ClassScorer) -> tuple[dict[str, Kind], tuple[Dropped, ...]]:
    """The kind of each raw column that a model reads, and the columns that no part of it reads.

    Of a model whose encoder is not ours, nothing.
    """
    encoders = _encoders(scorer)
    kinds: dict[str, Kind] = {}
    for encoder in reversed(encoders):
        kinds |= {column.name: column.kind for column in encoder.columns}
    left_out = {
        dropped.name: dropped
        for encoder in reversed(encoders)
        for dropped in encoder.dropped
        if dropped.name not in scorer.reads
        and not any(dropped.name in other.reads for other in encoders if other is not encoder)
    }
    return kinds, tuple(left_out.values())


def lists_of(scorer: TableScorer | ClassScorer) -> frozenset[str]:
    """The columns of a model whose values are lists of events."""
    if isinstance(scorer, SequenceScorer | EmbeddedScorer):
        return frozenset((scorer.column,))
    if isinstance(scorer, BlendScorer):
        return frozenset().union(*map(lists_of, scorer.parts))
    return frozenset()


def _encoders(scorer: TableScorer | ClassScorer) -> list[Encoder]:
    if isinstance(scorer, ArtifactScorer):
        return [scorer.encoder]
    if isinstance(scorer, ClassScorer):
        return [question.encoder for question in scorer.questions]
    if isinstance(scorer, BlendScorer):
        return [encoder for part in scorer.parts for encoder in _encoders(part)]
    own = getattr(scorer, "encoder", None)
    return [own] if isinstance(own, Encoder) else []


def _inside(artifact: Artifact) -> TableScorer:
    if MODEL not in artifact.parts:
        raise ArtifactError(f"expected a part `{MODEL}` that scores the embedding, got none")
    return scorer_of(artifact.parts[MODEL])


def _part(name: str, artifact: Artifact) -> TableScorer:
    try:
        return scorer_of(artifact.parts[name])
    except ArtifactError as error:
        raise ArtifactError(f"part `{name}` of the blend: {error}") from error
