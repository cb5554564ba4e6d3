"""The loop: it can be stopped and gone on with, run by two processes, and says what is broken."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from chopmark.errors import ArtifactError
from chopmark.sequence.batches import batches
from chopmark.sequence.training import Pace, Trainer, fastest_threads, read_tensors

PACE = Pace(steps=40, rate=1e-2, average=0.9)


def trainer_of(*, seed=0, width=3, pace=PACE, about=None):
    generator = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(width, 1)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.zero_()
    return Trainer({"layer": layer}, pace, seed=seed, about=about), layer


def loss_of(layer):
    def loss(rng):
        x = torch.from_numpy(rng.normal(size=(8, layer.in_features)).astype(np.float32))
        kept = torch.nn.functional.dropout(x, 0.2)
        return ((layer(kept)[:, 0] - x.sum(1)) ** 2).mean()

    return loss


def test_it_learns():
    trainer, layer = trainer_of(pace=replace(PACE, steps=150, rate=5e-2))
    trainer.train(loss_of(layer))
    assert layer.weight.detach().numpy() == pytest.approx(np.full((1, 3), 0.8), abs=0.25)


def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(tmp_path):
    whole, layer = trainer_of()
    whole.train(loss_of(layer))
    halved, first = trainer_of()
    halved.train(loss_of(first), until=0.5)
    halved.save(tmp_path / "half.safetensors")
    resumed, second = trainer_of()
    resumed.train(loss_of(second), checkpoint=tmp_path / "half.safetensors")
    assert resumed.step == whole.step == 40
    assert torch.equal(layer.weight, second.weight)
    whole.use_average(), resumed.use_average()
    assert torch.equal(layer.weight, second.weight)
    assert not torch.equal(first.weight, second.weight)


def test_a_checkpoint_cut_in_half_or_of_another_network_is_refused(tmp_path):
    path = tmp_path / "now.safetensors"
    trainer, layer = trainer_of()
    trainer.train(loss_of(layer), checkpoint=path, every=10)
    content = path.read_bytes()
    for cut in (content[: len(content) // 2], content[:5], b"", b"x" * 300):
        path.write_bytes(cut)
        with pytest.raises(ArtifactError, match=r"now\.safetensors"):
            trainer_of()[0].load(path)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="another network"):
        trainer_of(width=4)[0].load(path)
    with pytest.raises(ArtifactError, match="seed"):
        trainer_of(seed=1)[0].load(path)


def test_a_checkpoint_of_other_data_or_options_is_refused(tmp_path):
    path = tmp_path / "now.safetensors"
    about = {"tokenizer": "a1", "sizes": (3, 4), "num_events": 900}
    trainer, layer = trainer_of(about=about)
    trainer.train(loss_of(layer), checkpoint=path, every=10)
    trainer_of(about=dict(about))[0].load(path)
    for other in (
        {**about, "tokenizer": "b2"},
        {**about, "num_events": 901},
        {**about, "x": 1},
        None,
    ):
        fresh, kept = trainer_of(about=other)
        before = kept.weight.detach().clone()
        with pytest.raises(ArtifactError, match=r"now\.safetensors.*of another training"):
            fresh.load(path)
        assert torch.equal(kept.weight, before)
    with pytest.raises(ArtifactError, match="num_events was 900 and is 901"):
        trainer_of(about={**about, "num_events": 901})[0].load(path)


def test_a_checkpoint_whose_contents_are_broken_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "now.safetensors"
    trainer, layer = trainer_of()
    trainer.train(loss_of(layer), checkpoint=path, every=10)
    tensors, about = read_tensors(path)
    # Of their own, as what is read is a map of the file.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def refused(told, changes=None):
        text = told if isinstance(told, str) else json.dumps(told)
        kept = {k: v for k, v in {**tensors, **(changes or {})}.items() if v is not None}
        path.write_bytes(save(kept, {"about": text}))
        fresh, layer = trainer_of()
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        with pytest.raises(ArtifactError, match=r"now\.safetensors"):
            fresh.load(path)
        assert fresh.step == 0
        assert all(torch.equal(before[name], now) for name, now in layer.state_dict().items())

    for step in ("x", -5, None, 1.5, True, 10**400):
        refused({**about, "step": step})
    for spent in ("x", -1.0, None, float("nan"), float("inf")):
        refused({**about, "spent": spent})
    refused({name: value for name, value in about.items() if name != "step"})
    for text in ("[1]", "3", "{", "[" * 100_000):
        refused(text)
    weight = tensors["now.layer.weight"]
    for changes in (
        {"step.layer.bias": None},
        {"step.layer.bias": torch.ones(2)},
        {"step.layer.bias": torch.tensor(float("nan"))},
        {"now.layer.weight": weight * float("nan")},
        {"mean.layer.weight": weight / 0.0},
        {"exp_avg.layer.weight": weight.to(torch.int64)},
        {"exp_avg_sq.layer.weight": -torch.ones_like(weight)},
    ):
        refused(about, changes)
    path.write_bytes(save(tensors, {"about": json.dumps(about)}))
    trainer_of()[0].load(path)


def test_a_limit_in_seconds_ends_it():
    trainer, layer = trainer_of(pace=Pace(steps=10**9, seconds=0.2))
    trainer.train(loss_of(layer))
    assert 0.2 <= trainer.spent < 5.0


def test_a_step_with_nothing_to_learn_changes_nothing():
    trainer, layer = trainer_of(pace=replace(PACE, steps=3, decay=0.0))
    before = layer.weight.detach().clone()
    trainer.train(lambda rng: None)
    assert torch.equal(layer.weight, before)


def test_a_loss_that_is_not_a_number_is_not_learned_from():
    trainer, layer = trainer_of(pace=replace(PACE, steps=3))
    trainer.train(lambda rng: layer.weight.sum() * float("nan"))
    assert torch.isfinite(layer.weight).all()


TWO = """
import json, sys
import numpy as np
import torch
from chopmark.foundation.usermodel import UserModel
from chopmark.ranks import Ranks
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace
from tests.sequence.examples import histories

torch.set_num_threads(1)
model = UserModel(shape=Shape(width=16), pace=Pace(steps=5), budget=512).fit(histories())
rank = Ranks.joined().rank
weights = {name: tensor.sum().item() for name, tensor in model.tower.state_dict().items()}
open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps(weights))
"""


def test_two_processes_end_with_the_same_weights(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second


LABELLED = """
import json, sys
import numpy as np
import torch
from chopmark.histories import Histories
from chopmark.ranks import Ranks
from chopmark.sequence import supervised
from chopmark.sequence.network import Tower
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace
from tests.sequence.examples import histories, tokenizer_of

torch.set_num_threads(1)
past = histories(num_users=40)
tokenizer = tokenizer_of(past)
tower = Tower(Shape(width=16), tokenizer, torch.Generator().manual_seed(0))
y = np.arange(40) % 2
losses = []
# So small a budget that each batch is one row: the second process has none of it.
supervised.learn(tower, tokenizer, past.every(), y, pace=Pace(steps=24, rate=1e-3), epochs=9.0,
                 budget=1, seed=0, on_step=lambda done, loss: losses.append(loss))
rank = Ranks.joined().rank
moved = sum(tensor.abs().sum().item() for tensor in tower.state_dict().values())
first = Tower(Shape(width=16), tokenizer, torch.Generator().manual_seed(0))
now, was = (dict(t.named_parameters())["encoder.events.table"] for t in (tower, first))
told = {"lost": sum(loss != loss for loss in losses), "moved": (now - was).abs().max().item(),
        "sum": moved}
open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps(told))
"""


def test_a_process_without_rows_of_a_batch_leaves_the_step_to_the_others(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(LABELLED)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["lost"], second["lost"]) == (0, 24)
    assert first["sum"] == second["sum"]
    assert first["moved"] > 0.0


def test_the_number_of_threads_is_one_that_was_tried():
    before = torch.get_num_threads()
    assert fastest_threads(lambda: torch.ones(64, 64) @ torch.ones(64, 64), most=2) in (1, 2)
    assert torch.get_num_threads() == before


@given(
    st.lists(st.integers(0, 60), max_size=80),
    st.integers(1, 100),
    st.integers(1, 20),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_each_piece_is_in_one_batch_and_no_batch_is_over_its_budget(
    lengths, budget, most, alike, seed
):
    rng = None if seed is None else np.random.default_rng(seed)
    sizes = np.array(lengths, dtype=np.int64)
    parts = list(batches(sizes, budget=budget, most=most, alike=alike, rng=rng))
    together = np.concatenate([np.zeros(0, np.int64), *parts])
    assert sorted(together.tolist()) == list(range(len(lengths)))
    for part in parts:
        own = np.maximum(sizes[part], 1)
        tokens = len(own) * own.max() if alike else own.sum()
        assert len(part) <= most
        assert tokens <= budget or len(part) == 1
