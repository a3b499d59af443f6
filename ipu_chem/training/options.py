"""Options of the training loop as plain values, read before anything heavy is imported.

On data's way: config -> TrainingConfig -> Trainer.
"""

from dataclasses import dataclass, field
from typing import List


@dataclass(frozen=True)
class TrainingConfig:
    """How long to train and what to keep.

    Attributes:
        epochs: passes over the training molecules.
        seed: of the initial weights and of the order of the molecules.
        evaluate_every: epochs between evaluations on the validation split.
        early_stopping: stop after this many evaluations without improvement; 0 never stops early.
        ema_decay: keep a moving average of the weights with this decay and evaluate it; 0 keeps none.
        checkpoint_every: calls of the device program between checkpoints inside an epoch; 0 writes one at
            the end of every epoch only.
        log_every: calls between lines of the metrics files.
        loggers: also log to "tensorboard" and/or "wandb".
        progress: show a progress bar (or, where there is no terminal, a line per evaluation).
        report: write report.html at the end.
    """

    epochs: int = 100
    seed: int = 0
    evaluate_every: int = 1
    early_stopping: int = 0
    ema_decay: float = 0.0
    checkpoint_every: int = 0
    log_every: int = 10
    loggers: List[str] = field(default_factory=list)
    progress: bool = True
    report: bool = True

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.evaluate_every < 1 or self.log_every < 1:
            raise ValueError("training.epochs, evaluate_every and log_every are 1 or more.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"training.ema_decay={self.ema_decay}: give 0 (none) or a value below 1 such as 0.999.")
        if min(self.seed, self.early_stopping, self.checkpoint_every) < 0:
            raise ValueError("training.seed, early_stopping and checkpoint_every are 0 or more.")
