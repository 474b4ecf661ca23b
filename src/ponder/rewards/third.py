"""A third of a probability."""

from ponder import reward


@reward(weight=0.5, requires={"answers"})
def third(judged):
    """A third of p(answer | thought)."""
    return judged.logprob.exp() / 3
