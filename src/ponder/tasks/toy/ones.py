"""The parity of a string of bits."""

from ponder import Problem, ToyTask, option, task


@task("ones")
class Ones(ToyTask):
    """Is the number of ones odd? Direct answers fail on long ones; running parity helps."""
    bits: int = option(24, "bits of a question", low=2)

    def problem(self, random) -> Problem:
        x = random.choices("01", k=self.bits)
        running = [str(sum(map(int, x[:i + 1])) % 2) for i in range(self.bits)]
        return Problem(question=" ".join(x), answer=running[-1], thought=" ".join(running[:-1]))
