"""Limits beyond which a simulation is no chemistry any more, and the sentence about one that went there."""

from pathlib import Path

LONGEST = 2.0  # times a bond's length at the start
_HOTTEST = 10.0  # times the temperature asked for
_COOL = 100.0  # K; a cold start may warm up to ten times this


def hottest(temperature: float) -> float:
    """Highest temperature, K, of a simulation that was asked for one in K."""
    return _HOTTEST * max(temperature, _COOL)


def explosion(who: str, step: int, timestep: float, what: str, trajectory: Path) -> str:
    """Sentence about an explosion.

    Args:
        who: exploded.
        step: at which it did.
        timestep: fs.
        what: was wrong there.
        trajectory: file with the frames up to there.
    """
    return (
        f"{who} exploded at step {step} ({step * timestep / 1000:.4g} ps): {what.rstrip('.')}; a shorter timestep, a "
        f"lower temperature or a run trained on such geometries would help. Frames up to there are in {trajectory}."
    )
