"""One loop for all stages, in one process or many.

A stage ends after its tokens or its share of the time budget, whichever comes first; the schedule
follows whichever is further along, so that a slow machine still ends with a decayed rate. A step
whose gradient is not finite, or ten times the recent median, is left out and counted; after three
in a row the run stops.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from codellama.checkpoint.reader import Reader
from codellama.errors import CheckpointError, ConfigError, TrainingError
from codellama.model.transformer import Transformer, initial_weights
from codellama.train.arithmetic import flop_per_token
from codellama.train.batch import RowBatch, batch_loss, model_config
from codellama.train.context import Context
from codellama.train.data import Row, RowStream, Source
from codellama.train.device import Place
from codellama.train.interrupt import on_interrupt
from codellama.train.lora import adapt, merged, take
from codellama.train.loss import IGNORED
from codellama.train.measure import Score
from codellama.train.optim import MuonAdamW
from codellama.train.parallel import (
    Objective,
    World,
    clip,
    compile_blocks,
    like,
    materialise,
    recompute_blocks,
    shard,
    whole,
)
from codellama.train.pieces import block_of
from codellama.train.progress import MAX_SKIPPED, SPIKE, Progress, StepReport, fingerprint
from codellama.train.recipe import Recipe, Stage
from codellama.train.start import starting_weights
from codellama.train.state import load_state, save_state

Loss = Callable[[Transformer, RowBatch], Tensor]


class Trainer:
    """A recipe being carried out in the folder `out`.

    `sources(stage)` gives the documents a stage may draw from; `evaluate(model, score)` gives named
    figures, of which `score(rows)` measures losses however the model is shared; `after_stage` is
    given the weights of a stage and may say something for the log; `report` and `note` are told
    about every step and about rarer events.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        sources: Callable[[Stage], Mapping[str, Source]],
        *,
        evaluate: Callable[[Transformer, Score], Mapping[str, float]] | None = None,
        after_stage: Callable[[Stage, Mapping[str, Tensor]], Mapping[str, object]] | None = None,
        report: Callable[[StepReport], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
        world: World | None = None,
    ) -> None:
        self.recipe, self.out = recipe, out
        self.world = world or World()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.place = Place.of(recipe.device, recipe.bf16, local)
        self._sources, self._evaluate, self._after_stage = sources, evaluate, after_stage
        self._report, self._note = report, note
        self.progress = Progress()
        self._stopping = False
        if recipe.n_threads is not None:
            torch.set_num_threads(recipe.n_threads)
        if recipe.lora is not None and self.world.size > 1:
            raise ConfigError(f"{recipe.name}: adapters are trained by one process")
        with torch.device("meta"):  # shapes only, until each process's part is known
            self.model = Transformer(model_config(recipe, recipe.stages[0]))
        if recipe.recompute:
            recompute_blocks(self.model)
        if recipe.compile:
            compile_blocks(self.model)
        self._loss: Loss = batch_loss
        self._context = Context(self.world)
        self._part: Callable[[], None] = lambda: None
        if self.world.size > 1:
            self._note(_shared(recipe, self.world))
            objective = Objective(self.model, self._loss)
            self._part = shard(objective, self.world, self.place.device)
            self._loss = lambda model, batch: objective(batch)
        draw = torch.Generator().manual_seed(recipe.seed)
        if recipe.lora is None:
            materialise(self.model, self.place.device)
            self._fill(self.model.named_parameters(), initial_weights(self.model, draw))
        else:  # all but the adapters comes with the model it starts from
            adapt(self.model, recipe.lora, draw, self.place.device)
        self._optimiser = self._new_optimiser()

    def start_from(self, reader: Reader) -> None:
        """Takes the weights of a checkpoint in place of random ones; see `starting_weights`."""
        weights = starting_weights(reader, self.recipe, self._note)
        if self.recipe.lora is not None:
            take(self.model, weights, self.place.device)
        else:
            self._fill(self.model.named_parameters(), weights)

    def resume(self, step: int | None = None) -> bool:
        """Goes back to the newest checkpoint in `out`, or that of `step`; False when there is none.

        Raises:
            CheckpointError: the checkpoint cannot be read or is not of this recipe.
        """
        loaded = load_state(self.out, step=step, world=self.world)
        if loaded is None:
            return False
        tensors, state = loaded.tensors, loaded.state
        for reason in loaded.skipped:
            self._note(f"passed over: {reason}")
        if state["recipe"] != fingerprint(self.recipe):
            raise CheckpointError(
                f"{self.out} holds a run of another recipe than {self.recipe.name}",
                hint="give another --out, or the recipe the run was started with",
            )
        self.progress = Progress(**state["progress"])
        self._enter_stage()
        live = self._tensors()
        if {n: tuple(t.shape) for n, t in live.items()} != {n: tensors.shape(n) for n in tensors}:
            raise CheckpointError(f"{self.out}: the checkpoint's tensors are not this model's")
        for name, tensor in live.items():
            block = block_of(tensor.detach())
            block.values.copy_(tensors.read(name, block.offset, tuple(block.values.shape)))
        self._optimiser.steps = self.progress.optimiser_steps
        return True

    @torch.no_grad()
    def _fill(
        self, live: Iterable[tuple[str, Tensor]], values: Iterable[tuple[str, Tensor]]
    ) -> None:
        found = dict(live)
        for name, value in values:
            found[name].copy_(like(value, found[name]))

    def run(self) -> bool:
        """Trains to the end of the last stage; False when a signal stopped it earlier."""
        self.out.mkdir(parents=True, exist_ok=True)
        with on_interrupt(self._stop):
            while self.progress.stage < len(self.recipe.stages):
                stage = self.recipe.stages[self.progress.stage]
                if not self._run_stage(stage):
                    self._save()
                    return False
                self._finish_stage(stage)
        return True

    def _stop(self) -> None:
        self._stopping = True

    def _run_stage(self, stage: Stage) -> bool:
        p = self.progress
        rows = RowStream(self._sources(stage), stage.mix, stage.row_length,
                         self.recipe.seed + 1000 * p.stage)  # fmt: skip
        if p.rows is not None:
            rows.restore(p.rows)
        budget_s = None
        if self.recipe.time_budget_min is not None:
            budget_s = self.recipe.time_budget_min * 60 * stage.share
        began = time.monotonic() - p.stage_elapsed_s
        saved = evaluated = time.monotonic()
        stream = iter(rows)
        while not self._stop_together():
            done = self._agreed(p.share_done(stage, budget_s))
            if done >= 1:
                break
            batch = [next(stream) for _ in range(stage.rows_per_step)]
            self._step(stage, batch, done, budget_s)
            p.rows = rows.state()
            p.stage_elapsed_s = time.monotonic() - began
            if self.world.agree(time.monotonic() - evaluated > self.recipe.eval_every_s):
                self._log_evaluation(stage)
                evaluated = time.monotonic()
            if self.world.agree(time.monotonic() - saved > self.recipe.save_every_s):
                self._save()
                saved = time.monotonic()
        read = ", ".join(f"{name} {n:.2f} times" for name, n in rows.epochs().items())
        self._note(f"stage {stage.name}: {p.stage_tokens:,} tokens learned from; read {read}")
        return not self._stopping

    def _stop_together(self) -> bool:
        self._stopping = self.world.agree(self._stopping)
        return self._stopping

    def _agreed(self, value: float) -> float:
        """Process 0's value: clocks differ, and the learning rate must not."""
        return float(self.world.first(torch.tensor(value, dtype=torch.float64)))

    def _step(
        self, stage: Stage, batch: Sequence[Row], done: float, budget_s: float | None
    ) -> None:
        p = self.progress
        before = time.monotonic()
        n_learned = sum(int((row.labels != IGNORED).sum()) for row in batch)
        loss = self._backward(stage, batch, max(n_learned, 1))
        loss = self.world.sum(loss) / self.world.tensor
        parameters = [p for _, p in self._trained()]
        norm = float(clip(parameters, stage.optimiser.clip))
        skip = p.is_spike(norm)
        factor = stage.schedule.factor(p.stage_step, done)
        if not skip:
            self._optimiser.step(factor)
            p.optimiser_steps = self._optimiser.steps
        for parameter in parameters:
            parameter.grad = None
        p.count(norm, n_learned, skipped=skip)
        self.place.finish()
        took = time.monotonic() - before
        left = None
        if done > 0.01 and budget_s is not None:
            left = p.stage_elapsed_s / done * (1 - done)
        rate = stage.optimiser.muon_lr if stage.optimiser.kind == "muon" else 0.0
        self._report(StepReport(stage.name, p.step, float(loss),
                                (rate or stage.optimiser.adamw_lr) * factor, norm,
                                n_learned / took, p.stage_tokens, done, left, skip,
                                flop_per_token(self.model.cfg, stage.row_length),
                                took, p.rows or {}))  # fmt: skip
        if p.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"stage {stage.name}: {MAX_SKIPPED} steps in a row had gradients that are not "
                f"finite or {SPIKE:g} times the usual; the last is step {p.step}, |g| {norm:.3g}",
                hint="log.jsonl says which rows they were; go on with --resume and a lower "
                "learning rate, from the last checkpoint",
            )

    def _backward(self, stage: Stage, batch: Sequence[Row], n_learned: int) -> Tensor:
        """Adds this process's gradients up over parts of the step; gives its part of the loss."""
        total = torch.zeros((), device=self.place.device)
        at_once = stage.rows_at_once or stage.rows_per_step
        for i in range(0, len(batch), at_once):
            rows = batch[i : i + at_once][self.world.data_rank :: self.world.data]
            with self.place.autocast():
                loss = self._loss(self.model, self._batch(rows)) / n_learned
            (loss * self.world.shards).backward()  # type: ignore[no-untyped-call]  # torch's own, untyped
            total += loss.detach()
        return total

    def _batch(self, rows: Sequence[Row]) -> RowBatch:
        # On a GPU what is compiled sees one shape, so there the mask stays.
        is_one_shape = self.recipe.compile and self.place.device.type != "cpu"
        one_by_one = False if is_one_shape else None
        return RowBatch.of(rows, self.place.device, one_by_one=one_by_one,
                           context=self._context)  # fmt: skip

    def _finish_stage(self, stage: Stage) -> None:
        from safetensors.torch import save_file

        self._log_evaluation(stage)
        weights = self.weights()
        if self.world.rank == 0:
            save_file(weights, self.out / f"{stage.name}.safetensors")
            if self._after_stage is not None:
                self._log("after stage", stage, self._after_stage(stage, weights))
        self.progress = self.progress.next_stage()
        if self.progress.stage < len(self.recipe.stages):
            self._enter_stage()  # a finished run keeps its last stage's optimiser
        self._save()
        self._note(f"stage {stage.name} is finished")

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters by our names, whole and on the CPU, for process 0.

        Every process must ask; the others get none. They are gathered one at a time, so that no
        device has to hold a whole model.
        """
        found = {}
        is_adapted = self.recipe.lora is not None
        for name, weight in merged(self.model) if is_adapted else self.model.named_parameters():
            gathered = whole(weight.detach())
            if self.world.rank == 0:
                found[name] = gathered.contiguous().cpu()
        return found

    def n_stages_begun(self) -> int:
        """How many stages the present weights have seen; at least one."""
        p = self.progress
        n = p.stage + (p.stage_step > 0)
        return min(max(n, 1), len(self.recipe.stages))

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def _enter_stage(self) -> None:
        self.model.cfg = model_config(self.recipe, self._stage())
        self._optimiser = self._new_optimiser()

    def _stage(self) -> Stage:
        """The present stage; the last one when all are done."""
        return self.recipe.stages[min(self.progress.stage, len(self.recipe.stages) - 1)]

    def _new_optimiser(self) -> MuonAdamW:
        settings = self._stage().optimiser
        return MuonAdamW(
            self._trained(),
            kind=settings.kind,
            muon_lr=settings.muon_lr,
            adamw_lr=settings.adamw_lr,
            weight_decay=settings.weight_decay,
            eps=settings.eps,
        )

    def _log_evaluation(self, stage: Stage) -> None:
        if self._evaluate is None:
            return
        figures = dict(self._evaluate(self.model, self._score))
        self._part()
        self._log("evaluation", stage, figures)
        self._note(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))

    @torch.no_grad()
    def _score(self, rows: Sequence[Row]) -> float:
        """The summed loss of some rows, by all processes together."""
        with self.place.autocast():
            loss = self._loss(self.model, self._batch(rows))
        return float(self.world.sum(loss)) / (self.world.data * self.world.tensor)

    def _log(self, event: str, stage: Stage, figures: Mapping[str, object]) -> None:
        line = {"event": event, "stage": stage.name, "step": self.progress.step, **figures}
        if self.world.rank == 0:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")

    def _tensors(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {f"model.{n}": t for n, t in self._trained()}
        return weights | {f"optimiser.{n}": t for n, t in self._optimiser.state().items()}

    def _save(self) -> None:
        state = {"recipe": fingerprint(self.recipe), "progress": asdict(self.progress)}
        save_state(self.out, self.progress.step, self._tensors(), state,
                   keep=self.recipe.keep, world=self.world)  # fmt: skip


def _shared(recipe: Recipe, world: World) -> str:
    """Says how the work is shared; every process must have the same number of rows."""
    for stage in recipe.stages:
        at_once = stage.rows_at_once or stage.rows_per_step
        if at_once % world.data:
            raise ConfigError(
                f"{recipe.name}.{stage.name}: {at_once} rows at once cannot be shared evenly by "
                f"{world.data} processes"
            )
    text = f"{world.size} processes: rows of every step dealt to {world.data}"
    if world.context > 1:
        text += f", each row shared by {world.context}"
    if world.tensor > 1:
        text += f", matrices by {world.tensor}"
    return text
