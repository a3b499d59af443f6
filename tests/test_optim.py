"""Learning rates as functions of the step."""

import pytest

from ipu_chem.optim import OptimizerConfig, Schedule, ScheduleConfig


def test_warmup_rises_to_the_peak_and_cosine_falls_to_the_floor():
    schedule = Schedule(ScheduleConfig("cosine", warmup_steps=4, min_factor=0.1), 1.0, 104)
    assert [schedule.learning_rate(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert schedule.learning_rate(54) == pytest.approx(0.55)
    assert schedule.learning_rate(104) == schedule.learning_rate(500) == pytest.approx(0.1)


def test_plateau_falls_after_its_patience_and_remembers():
    config = ScheduleConfig("plateau", plateau_factor=0.5, plateau_patience=2, min_factor=0.2)
    schedule = Schedule(config, 1.0, 10)
    for metric in (3.0, 2.0, 2.5, 2.0):
        schedule.evaluated(metric)
    assert schedule.learning_rate(0) == 0.5
    again = Schedule(config, 1.0, 10)
    again.load_state_dict(schedule.state_dict())
    for metric in (2.0, 2.0):
        schedule.evaluated(metric)
        again.evaluated(metric)
    assert schedule.learning_rate(0) == again.learning_rate(0) == 0.25
    for _ in range(8):
        schedule.evaluated(9.0)
    assert schedule.learning_rate(0) == 0.2


@pytest.mark.parametrize("options", [{"name": "lamb"}, {"learning_rate": 0.0}, {"weight_decay": -1.0}])
def test_bad_optimizers_are_refused(options):
    with pytest.raises(ValueError):
        OptimizerConfig(**options)


@pytest.mark.parametrize("options", [{"name": "step"}, {"warmup_steps": -1}, {"min_factor": 2.0}])
def test_bad_schedules_are_refused(options):
    with pytest.raises(ValueError):
        ScheduleConfig(**options)
