"""``chopmark chain labels``: labels in, appeals, rulings, and who was wrong."""

import re
from datetime import UTC, datetime

import polars as pl
import pytest

from chopmark.pipelines.chainlabels import flag, open_labels

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")

A, B = "0x" + "ab" * 20, "0x" + "cd" * 20
WORDS = ("--by", "ann", "--reason", "a proof")


@pytest.fixture
def labelled(chopmark, tmp_path):
    """A folder whose labels came from a table of a list and one of a court."""
    listed = tmp_path / "listed.csv"
    pl.DataFrame({
        "address": [A, B, "shop"], "is_illicit": [True, True, False],
        "label": ["mixer", "theft", "exchange"], "source": ["list"] * 3,
        "known_at": ["2026-03-01", "2026-03-02", "2026-03-03"],
    }).write_csv(listed)  # fmt: skip
    code, out, errors = chopmark("chain", "labels", "add", tmp_path / "eth", listed, "--rank", 5)
    assert (code, errors) == (0, "")
    assert "declared with rank 5: list" in out
    assert "3 of 3 labels are new in" in out
    assert re.search(r"list +│ mixer +│ illicit +│ +1 ", out)
    code, out, _ = chopmark("chain", "labels", "add", tmp_path / "eth", listed)
    assert "0 of 3 labels are new in" in out
    return tmp_path / "eth"


def test_an_appeal_goes_from_the_objection_to_the_ruling(chopmark, labelled):
    code, out, errors = chopmark("chain", "labels", "appeal", labelled, f" {A.upper()}", *WORDS)
    assert (code, errors) == (0, "")
    number = re.search(r"appeal (\d+) is open", out)[1]
    code, out, _ = chopmark("chain", "labels", "appeal", labelled, B, *WORDS)
    other = re.search(r"appeal (\d+) is open", out)[1]
    code, out, _ = chopmark(
        "chain", "labels", "rule", labelled, number, "--uphold", "--by", "bob", "--reason", "sold"
    )
    assert code == 0
    assert f"appeal {number} is upheld" in out
    assert re.search(r"licit +│ appeal upheld +│ appeals", out)
    assert re.search(r"ruling +│ licit .* bob +│ sold", out)
    code, out, _ = chopmark("chain", "labels", "appeals", labelled)
    states = re.findall(r"│ (\d+) +│ (open|upheld) ", out)
    assert states == [(other, "open"), (number, "upheld")]
    code, out, _ = chopmark("chain", "labels", "rule", labelled, other, "--reject", *WORDS)
    assert f"appeal {other} is rejected" in out
    code, out, _ = chopmark("chain", "labels", "show", labelled, B)
    assert re.search(r"│ illicit │ theft +│ list ", out)
    code, out, _ = chopmark("chain", "labels", "false-positives", labelled)
    assert code == 0
    # rank, illicit, retracted, appealed, ruled, upheld, overruled, wrong, and 1 in 2
    assert re.search(r"│ list +│ +5 │ +2 │ +0 │ +2 │ +2 │ +1 │ +0 │ +1 │ 0.5000 │", out)
    assert "Flagged by a score" not in out


def test_whom_a_score_flags_may_appeal_and_is_counted(chopmark, labelled):
    labels = open_labels(labelled)
    flagged = pl.DataFrame({"address": ["new", "shop", B], "score": [0.9, 0.5, 0.7]})
    flag(labels, flagged, run="000001", at=datetime(2026, 4, 1, tzinfo=UTC))
    flag(labels, flagged.head(2), run="000002", at=datetime(2026, 5, 1, tzinfo=UTC))
    labels.close()
    code, out, _ = chopmark("chain", "labels", "appeal", labelled, "new", *WORDS)
    number = re.search(r"appeal (\d+) is open", out)[1]
    assert re.search(r"illicit │ score +│ scores +│ +0.90", out)
    chopmark("chain", "labels", "rule", labelled, number, "--uphold", *WORDS)
    code, out, _ = chopmark("chain", "labels", "false-positives", labelled)
    assert code == 0
    assert re.search(r"│ scores │ 1000 │ +3 │ +1 │ +1 │ +1 │ +1 │ +0 │ +1 │ 0.3333 │", out)
    assert re.search(r"│ 2026-04 │ +3 │ +2 │ +0 │ +1 │ +0.0000 │", out)
    assert re.search(r"│ all +│ +3 │ +2 │ +0 │ +1 │ +0.0000 │", out)
    code, out, _ = chopmark("chain", "labels", "show", labelled, B)
    assert "flagged no more" in out
    code, out, _ = chopmark("chain", "labels", "appeal", labelled, "shop", *WORDS)
    assert code == 1  # the list says licit, and a flag outranks nothing


def test_a_source_takes_a_label_back_as_of_an_instant(chopmark, labelled):
    at = ("--at", "2026-03-05T12:00:00Z")
    code, out, errors = chopmark(
        "chain", "labels", "retract", labelled, A, "--source", "list", *WORDS, *at
    )
    assert (code, errors) == (0, "")
    assert f"list says nothing of {A} any more" in out
    assert f"What holds of {A} at 2026-03-05 12:00:00: none" in out
    assert "retraction" in out
    code, out, _ = chopmark("chain", "labels", "show", labelled, A, "--at", "2026-03-05T11:00:00Z")
    assert re.search(r"│ illicit │ mixer +│ list ", out)
    code, out, _ = chopmark("chain", "labels", "show", labelled, "nobody")
    assert (code, out.count(": none")) == (0, 2)


def test_what_cannot_be_is_said_and_changes_nothing(chopmark, labelled, tmp_path):
    before = open_labels(labelled)
    records = before.history(A).height + before.history(B).height
    bad, unknown = tmp_path / "bad.csv", tmp_path / "unknown.csv"
    bad.write_text("address,label\na,illicit\nb,odd\n")
    unknown.write_text("address,is_illicit,source\na,true,friend\n")
    for line, words in (
        (("add", labelled, bad, "--source", "list"), "label `illicit` or `licit` in each row"),
        (("add", labelled, unknown), "got `friend`; give the rank"),
        (("add", labelled, bad, "--source", "scores", "--rank", 1), "not `appeals` or `scores`"),
        (("add", labelled, bad, "--source", "list", "--known-at", "soon"), "an instant like"),
        (("add", labelled, tmp_path / "none.csv", "--source", "list"), "none.csv"),
        (("appeal", labelled, "shop", *WORDS), "nothing to appeal against"),
        (("appeal", labelled, A, "--by", "", "--reason", "x"), "who says it and why"),
        (("appeal", labelled, A, *WORDS, "--at", "2026-01-01T00:00:00Z"), "nothing to appeal"),
        (("appeal", labelled, A, *WORDS, "--at", "2026-01-01"), "with a time zone"),
        (("rule", labelled, 99, "--uphold", *WORDS), "an open appeal"),
        (("retract", labelled, A, "--source", "court", *WORDS), "a label of `court`"),
        (("retract", labelled, A, "--source", "scores", *WORDS), "another source than `scores`"),
        (("show", tmp_path / "nothing", A), "chopmark chain labels add"),
        (("appeals", tmp_path / "nothing"), "chopmark chain labels add"),
        (("false-positives", tmp_path / "nothing"), "chopmark chain labels add"),
    ):
        code, _, errors = chopmark("chain", "labels", *line)
        assert code == 1, line
        assert words in errors
    code, out, errors = chopmark("chain", "labels", "rule", labelled, 1, *WORDS)
    assert code == 2
    assert "flag required" in out + errors
    assert not (tmp_path / "nothing").exists()
    assert before.history(A).height + before.history(B).height == records
    assert before.history("a").is_empty()
    before.close()


def test_help_teaches_each_command(chopmark):
    code, out, _ = chopmark("chain", "labels", "--help")
    names = ("add", "show", "retract", "appeal", "rule", "appeals", "false-positives")
    assert code == 0
    for name in names:
        assert re.search(rf"│ {name} +\S", out)
        code, told, _ = chopmark("chain", "labels", name, "--help")
        assert code == 0
        assert f"Example: chopmark chain labels {name} ethereum" in told
