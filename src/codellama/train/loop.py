"""One loop for all stages, in one process or many.

A stage ends after its tokens or its share of the time budget, whichever comes first; the schedule
follows whichever is further along, so that a slow machine still ends with a decayed rate. A step
whose gradient is not finite, or ten times the recent median, is left out and counted; after three
in a row the run stops.
"""

from __future__ import annotations

import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from codellama.checkpoint.reader import Reader
from codellama.errors import CheckpointError, ConfigError, TrainingError
from codellama.model.transformer import Transformer, init_weights
from codellama.train.arithmetic import flop_per_token
from codellama.train.batch import batch_loss, batch_tensors, model_config
from codellama.train.data import Row, RowStream, Source
from codellama.train.lora import adapt, merged, pack_base
from codellama.train.loss import IGNORED
from codellama.train.optim import MuonAdamW
from codellama.train.parallel import Objective, World, like, recompute_blocks, shard, whole
from codellama.train.recipe import Recipe, Stage
from codellama.train.state import load_state, save_state

_MAX_PIECES_APART = 64  # between the vocabularies of a model and of what starts from it
_SPIKE, _RECENT, _MAX_SKIPPED = 10.0, 64, 3


@dataclass
class Progress:
    """Where a run is. All of it is saved."""

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    stage_tokens: int = 0
    stage_elapsed_s: float = 0.0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    optimiser_steps: int = 0
    rows: dict[str, Any] | None = None
    norms: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class StepReport:
    """One line of the log."""

    stage: str
    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_s: float
    tokens: int
    progress: float
    eta_s: float | None
    skipped: bool
    flop_per_token: float
    rows: dict[str, Any]  # where the step's rows begin in the stream of the stage


class Trainer:
    """A recipe being carried out in the folder `out`.

    `sources(stage)` gives the documents a stage may draw from; `evaluate(model)` gives named
    figures; `report` and `note` are told about every step and about rarer events.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        sources: Callable[[Stage], Mapping[str, Source]],
        *,
        evaluate: Callable[[Transformer], Mapping[str, float]] | None = None,
        report: Callable[[StepReport], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
        world: World | None = None,
    ) -> None:
        self.recipe, self.out = recipe, out
        self.world = world or World()
        self._sources, self._evaluate = sources, evaluate
        self._report, self._note = report, note
        self.progress = Progress()
        self._stopping = False
        if recipe.n_threads is not None:
            torch.set_num_threads(recipe.n_threads)
        self.model = Transformer(model_config(recipe, recipe.stages[0]))
        init_weights(self.model, torch.Generator().manual_seed(recipe.seed))
        if recipe.lora is not None:
            if self.world.size > 1:
                raise ConfigError(f"{recipe.name}: adapters are trained by one process")
            adapt(self.model, recipe.lora, torch.Generator().manual_seed(recipe.seed + 1))
        if recipe.recompute:
            recompute_blocks(self.model)
        self._loss: Callable[..., Tensor] = batch_loss
        if recipe.compile:
            self._loss = torch.compile(batch_loss, dynamic=False)
        if self.world.size > 1:
            shared = _share_rows(recipe, self.world.size)
            self._note(f"{self.world.size} processes, {shared}")
            objective = Objective(self.model, self._loss)
            shard(objective, self.world.size)
            self._loss = lambda model, *batch: objective(*batch)
        self._optimiser = self._new_optimiser()

    def start_from(self, reader: Reader) -> None:
        """Takes the weights of a checkpoint in place of random ones.

        Vocabularies may differ by a few pieces at the end, as Llama 2's and Code Llama's do: rows
        too many are left out, rows too few become the mean of the others.

        Raises:
            ConfigError: its sizes are not the recipe's.
        """
        ours = model_config(self.recipe, self.recipe.stages[0])
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim",
                     "norm_eps", "tie_embeddings"):  # fmt: skip
            found, wanted = getattr(reader.config, name), getattr(ours, name)
            if found != wanted:
                raise ConfigError(
                    f"{reader.path}: `{name}` is {found}, and {self.recipe.name} has {wanted}",
                    hint="use a recipe of the model's own sizes",
                )
        theirs = reader.config.vocab_size
        if abs(theirs - ours.vocab_size) > _MAX_PIECES_APART:
            raise ConfigError(
                f"{reader.path}: a vocabulary of {theirs}, and {self.recipe.name} has "
                f"{ours.vocab_size}",
                hint="train with the tokenizer of the model",
            )
        weights = (
            (name, _with_rows(torch.from_numpy(tensor.to_float32().copy()), ours.vocab_size)
             if name in ("embed_tokens.weight", "lm_head.weight")
             else torch.from_numpy(tensor.to_float32().copy()))
            for name, tensor in reader.tensors()
        )  # fmt: skip
        self._fill(dict(self.model.named_parameters()), weights)
        if self.recipe.lora is not None and self.recipe.lora.base == "nf4":
            pack_base(self.model)
        self._note(f"starts from the weights of {reader.path}")
        if reader.config.rope_theta != ours.rope_theta:
            self._note(
                f"its rotary base of {reader.config.rope_theta:g} becomes {ours.rope_theta:g}"
            )
        if theirs != ours.vocab_size:
            self._note(f"its vocabulary of {theirs} becomes one of {ours.vocab_size}")

    def resume(self) -> bool:
        """Goes back to the newest checkpoint in `out`; False when there is none.

        Raises:
            CheckpointError: the checkpoint cannot be read or is not of this recipe.
        """
        loaded = load_state(self.out)
        if loaded is None:
            return False
        tensors, state = loaded.tensors, loaded.state
        for reason in loaded.skipped:
            self._note(f"passed over: {reason}")
        if state["recipe"] != _fingerprint(self.recipe):
            raise CheckpointError(
                f"{self.out} holds a run of another recipe than {self.recipe.name}",
                hint="give another --out, or the recipe the run was started with",
            )
        self.progress = Progress(**state["progress"])
        self._enter_stage()
        live = self._tensors()
        if set(live) != set(tensors):
            raise CheckpointError(f"{self.out}: the checkpoint's tensors are not this model's")
        self._fill(live, tensors.items())
        self._optimiser.steps = self.progress.optimiser_steps
        return True

    @torch.no_grad()
    def _fill(self, live: Mapping[str, Tensor], values: Iterable[tuple[str, Tensor]]) -> None:
        for name, value in values:
            live[name].copy_(like(value, live[name]))

    def run(self) -> bool:
        """Trains to the end of the last stage; False when a signal stopped it earlier."""
        self.out.mkdir(parents=True, exist_ok=True)
        with _signals(self._stop):
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
            done = self._agreed(_share_done(p, stage, budget_s))
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
        if self.world.size == 1:
            return value
        shared = torch.tensor(value if self.world.rank == 0 else 0.0, dtype=torch.float64)
        return float(self.world.sum(shared))

    def _step(
        self, stage: Stage, batch: Sequence[Row], done: float, budget_s: float | None
    ) -> None:
        p = self.progress
        before = time.monotonic()
        n_learned = sum(int((row.labels != IGNORED).sum()) for row in batch)
        loss = self.world.sum(self._backward(stage, batch, max(n_learned, 1)))
        parameters = [p for _, p in self._trained()]
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, stage.optimiser.clip)))
        usual = statistics.median(p.norms) if len(p.norms) >= 16 else math.inf
        skip = not math.isfinite(norm) or norm > _SPIKE * usual
        factor = stage.schedule.factor(p.stage_step, done)
        if skip:
            p.skipped_steps += 1
            p.skipped_in_a_row += 1
        else:
            self._optimiser.step(factor)
            p.optimiser_steps = self._optimiser.steps
            p.norms = [*p.norms, norm][-_RECENT:]
            p.skipped_in_a_row = 0
        for parameter in parameters:
            parameter.grad = None
        p.step += 1
        p.stage_step += 1
        p.stage_tokens += n_learned
        took = time.monotonic() - before
        left = None
        if done > 0.01 and budget_s is not None:
            left = p.stage_elapsed_s / done * (1 - done)
        rate = stage.optimiser.muon_lr if stage.optimiser.kind == "muon" else 0.0
        self._report(StepReport(stage.name, p.step, float(loss),
                                (rate or stage.optimiser.adamw_lr) * factor, norm,
                                n_learned / took, p.stage_tokens, done, left, skip,
                                flop_per_token(self.model.cfg, stage.row_length),
                                p.rows or {}))  # fmt: skip
        if p.skipped_in_a_row >= _MAX_SKIPPED:
            raise TrainingError(
                f"stage {stage.name}: {_MAX_SKIPPED} steps in a row had gradients that are not "
                f"finite or {_SPIKE:g} times the usual; the last is step {p.step}, |g| {norm:.3g}",
                hint="log.jsonl says which rows they were; go on with --resume and a lower "
                "learning rate, from the last checkpoint",
            )

    def _backward(self, stage: Stage, batch: Sequence[Row], n_learned: int) -> Tensor:
        """Adds this process's gradients up over parts of the step; gives its part of the loss."""
        total = torch.zeros(())
        at_once = stage.rows_at_once or stage.rows_per_step
        for i in range(0, len(batch), at_once):
            rows = batch[i : i + at_once][self.world.rank :: self.world.size]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
                loss = self._loss(self.model, *batch_tensors(rows)) / n_learned
            (loss * self.world.size).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _finish_stage(self, stage: Stage) -> None:
        from safetensors.torch import save_file

        self._log_evaluation(stage)
        weights = self.weights()
        if self.world.rank == 0:
            save_file(weights, self.out / f"{stage.name}.safetensors")
        self.progress = Progress(
            stage=self.progress.stage + 1,
            step=self.progress.step,
            skipped_steps=self.progress.skipped_steps,
        )
        if self.progress.stage < len(self.recipe.stages):
            self._enter_stage()  # a finished run keeps its last stage's optimiser
        self._save()
        self._note(f"stage {stage.name} is finished")

    def weights(self) -> dict[str, Tensor]:
        """The model's parameters by our names, whole; every process must ask."""
        if self.recipe.lora is not None:
            return merged(self.model)
        return {n: whole(t.detach()).contiguous() for n, t in self.model.named_parameters()}

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
        if self._evaluate is None or self.world.size > 1:
            return
        figures = dict(self._evaluate(self.model))
        line = {"event": "evaluation", "stage": stage.name, "step": self.progress.step, **figures}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self._note(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))

    def _tensors(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {f"model.{n}": t for n, t in self._trained()}
        return weights | {f"optimiser.{n}": t for n, t in self._optimiser.state().items()}

    def _save(self) -> None:
        state = {"recipe": _fingerprint(self.recipe), "progress": asdict(self.progress)}
        tensors = {name: whole(t.detach()) for name, t in self._tensors().items()}
        if self.world.rank == 0:
            save_state(self.out, self.progress.step, tensors, state)
        self.world.wait()


def _share_done(p: Progress, stage: Stage, budget_s: float | None) -> float:
    by_time = p.stage_elapsed_s / budget_s if budget_s else 0.0
    return max(p.stage_tokens / stage.max_tokens, by_time)


def _with_rows(matrix: Tensor, n: int) -> Tensor:
    """The first `n` rows; when there are fewer, the mean row fills up."""
    if len(matrix) < n:
        matrix = torch.cat((matrix, matrix.mean(0).expand(n - len(matrix), -1)))
    return matrix[:n]


def _share_rows(recipe: Recipe, n_processes: int) -> str:
    """Says how rows are shared; every process must have the same number of them."""
    for stage in recipe.stages:
        at_once = stage.rows_at_once or stage.rows_per_step
        if at_once % n_processes:
            raise ConfigError(
                f"{recipe.name}.{stage.name}: {at_once} rows at once cannot be shared evenly by "
                f"{n_processes} processes"
            )
    return "rows of every step shared evenly; held-out figures are not measured"


def _fingerprint(recipe: Recipe) -> dict[str, Any]:
    """What must be equal for a run to go on: all but how long and how fast."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=str))
    for key in (
        "time_budget_min",
        "save_every_s",
        "eval_every_s",
        "n_threads",
        "compile",
        "recompute",
        "corpus",
    ):
        del plain[key]
    return plain


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM ask the loop to stop after the present step."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    try:
        before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: somebody else handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
