"""Mistakes in what is predicted of IPUs without one."""

from mistakes.mechanism import mutation

TIME = "tests/backends/poptorch/timing/test_calls.py"


@mutation("a call costs no time of its own", "ipu_chem.backends.poptorch.timing.calls", tests=TIME)
def _(time_model, wrong):
    @wrong(time_model, "call_time")
    def of_the_device_alone(original, *args):
        call = original(*args)
        fraction = 1 - call.parts["host"] / call.seconds.likely
        return call._replace(seconds=call.seconds * fraction)


@mutation("replicas exchange gradients in no time", "ipu_chem.backends.poptorch.timing.calls", tests=TIME)
def _(time_model, wrong):
    @wrong(time_model, "exchange_seconds")
    def nothing(original, *args):
        return 0.0 * original(*args)
