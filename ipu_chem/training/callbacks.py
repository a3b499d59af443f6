"""The protocol by which others follow a run and may stop it."""

from typing import Any, Dict, List


class Callback:
    """Methods that the trainer calls; a callback overrides those that it needs.

    In a run of several processes every one of them calls its own callbacks, at the same steps.
    """

    def on_first_call(self, seconds: float) -> None:
        """Take the seconds of the first call of the device program, compilation included."""

    def on_resume(self, step: int, total: int) -> bool:
        """Take the place from which a resumed run goes on, before anything is trained.

        Args:
            step: optimizer steps that its checkpoint has.
            total: optimizer steps of the whole run.

        Returns:
            True to leave it there: the run was interrupted after its checkpoint was written, and nothing is left to do.
        """
        return False

    def on_step(self, step: int, total: int, losses: List[float]) -> bool:
        """Follow every call of the device program, also one whose losses end the run.

        Args:
            step: optimizer steps so far.
            total: optimizer steps of the whole run.
            losses: [device_iterations] of the call.

        Returns:
            True to stop there with a checkpoint, from which the run goes on as if it had not stopped.
        """
        return False

    def before_evaluation(self) -> None:
        """Prepare for an evaluation; called at the end of every epoch, also of those that are not evaluated."""

    def on_metrics(self, kind: str, step: int, epoch: int, values: Dict[str, float]) -> None:
        """Take figures of training (kind "train") or of an evaluation ("validation")."""

    def describe(self) -> Dict[str, Any]:
        """Entries of run.json, at the start and at the end of a run."""
        return {}

    def state(self) -> Dict[str, Any]:
        """Values to keep in every checkpoint, as JSON values."""
        return {}
