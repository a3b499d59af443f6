"""Executors of one's own for tests, by `module:factory`."""

from concurrent.futures import Future, ThreadPoolExecutor


def two_threads():
    """Two threads, which train in processes of their own all the same."""
    return ThreadPoolExecutor(2)


class Dying:
    """An executor of which the first worker dies every time, or the first two."""

    deaths = 2

    def __init__(self):
        self.left, self.pool = self.deaths, ThreadPoolExecutor(1)

    def submit(self, function, *arguments):
        if self.left:
            self.left -= 1
            future = Future()
            future.set_exception(ConnectionError("the worker is gone"))
            return future
        return self.pool.submit(function, *arguments)

    def shutdown(self):
        self.pool.shutdown()


class Dead(Dying):
    """An executor of which every worker dies."""

    deaths = 1000


class Busy:
    """An executor that takes no work, as that of a scheduler which is overloaded."""

    asked = 0

    def submit(self, function, *arguments):
        self.asked += 1
        raise RuntimeError("sbatch: error: Socket timed\n out")

    def shutdown(self):
        pass


def no_executor():
    """Something else."""
    return object()


def needs_more(cluster):
    """A factory that takes something."""
