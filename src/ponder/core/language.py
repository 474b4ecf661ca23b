"""What the messages of a language mean: measures of messages against meanings, by counting.

N messages of K symbols, N meanings of A attributes; V different symbols, C different values. All
are integers from 0; -1 stands where a message or meaning is shorter. Entropies and mutual
informations are in nats.
"""

from __future__ import annotations

from ponder.core.lazy_imports import Tensor, torch
from ponder.core.math import correlation


def pair_counts(symbols: Tensor, values: Tensor) -> Tensor:
    """(K, A, V, C): how often each symbol stands at a position of messages (N, K) while an
    attribute of meanings (N, A) has each value. Rows that lack either are not counted.
    """
    one, other = indicators(symbols), indicators(values)
    found = one.flatten(1).T @ other.flatten(1)  # exact below 2^24 rows
    return found.view(*one.shape[1:], *other.shape[1:]).transpose(1, 2).long()


def indicators(codes: Tensor) -> Tensor:
    """(..., V): 1 for the code (...) of each place, in single precision; all 0 where it is -1."""
    count = int(codes.max().clamp_min(0)) + 1
    return (codes[..., None] == torch.arange(count, device=codes.device)).float()


def entropy_of_counts(counts: Tensor) -> Tensor:
    """(...): entropy of counts (..., V), by counting; 0 where nothing was counted."""
    counts = counts.double()
    total = counts.sum(-1)
    return total.clamp_min(1).log() - torch.xlogy(counts, counts).sum(-1) / total.clamp_min(1)


def information(pairs: Tensor, corrected: bool = True) -> Tensor:
    r"""(...): mutual information of symbol and value, from counts of pairs (..., V, C).

    .. math:: I = H(X) + H(Y) - H(X, Y) + (m_x + m_y - m_{xy} - 1) / 2 N

    The last term, of `corrected` alone, takes off what chance adds to a count of N pairs (Miller
    1955; m: how many symbols, values and pairs occur). The result stays between 0 and the plain
    count.
    """
    sides = pairs.sum(-1), pairs.sum(-2), pairs.flatten(-2)
    one, other, both = map(entropy_of_counts, sides)
    plain = (one + other - both).clamp_min(0.0)
    if not corrected:
        return plain
    of_one, of_other, of_both = ((counts > 0).sum(-1).double() for counts in sides)
    total = sides[2].sum(-1).clamp_min(1)
    return torch.minimum(plain, plain + (of_one + of_other - of_both - 1) / (2 * total)).clamp_min(
        0.0)


def positional_disentanglement(messages: Tensor, meanings: Tensor) -> float:
    r"""How much each position of messages (N, K) is about one attribute of meanings (N, A) alone:
    posdis of Chaabouni et al. (2020, "Compositionality and generalization in emergent languages").

    .. math:: \frac{1}{|J|} \sum_{j \in J} (I(s_j; a_1^j) - I(s_j; a_2^j)) / H(s_j)

    a_1^j and a_2^j are the attributes that symbol s_j says most about, J the positions whose
    symbol varies; 0 where there are none. -1 is a symbol, and a value, of its own. As in EGG, by
    plain counts. A is at least 2.
    """
    pairs = pair_counts(messages + 1, meanings + 1)
    best = information(pairs, corrected=False).topk(2, dim=1).values
    spread = entropy_of_counts(pairs[:, 0].sum(-1))
    varies = (pairs[:, 0].sum(-1) > 0).sum(-1) > 1
    gaps = (best[:, 0] - best[:, 1])[varies] / spread[varies]
    return float(gaps.mean()) if len(gaps) else 0.0


def topographic_similarity(messages: Tensor, meanings: Tensor) -> float:
    """Do similar messages (N, K) have similar meanings (N, A)? Spearman's correlation, over all
    pairs, of edit distance over mean length with the share of attributes that differ (Brighton and
    Kirby 2006, as in EGG); 0 where all messages, or all meanings, are equally far apart.
    """
    one, other = torch.triu_indices(len(messages), len(messages), 1, device=messages.device)
    lengths = (messages >= 0).sum(1)
    size = (lengths[one] + lengths[other]).clamp_min(1) / 2
    said = edit_distance(messages, one, other) / size
    flat = indicators(meanings + 1).flatten(1)
    meant = -(flat @ flat.T)[one, other]  # attributes that agree: whole numbers
    return float(correlation(ranks(said), ranks(meant))) if len(one) else 0.0


def edit_distance(messages: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """(R,): the fewest insertions, deletions and replacements that turn messages (N, K) with the
    indices one (R,) into those with the indices other (R,). K is at most 62.

    A column of the table of Wagner and Fischer (1974) is two numbers of K bits: where it rises and
    where it falls (Myers 1999; Hyyrö 2003 for whole messages).
    """
    assert messages.shape[1] <= 62, "a message has one bit a symbol"
    lengths = (messages >= 0).sum(1)
    bits = 1 << torch.arange(messages.shape[1], device=messages.device)
    where = (indicators(messages).long() * bits[:, None]).sum(1)  # (N, V): the places of each
    last = torch.where(lengths > 0, 1 << (lengths - 1).clamp_min(0), 0)[one]
    rises, falls = torch.full_like(one, -1), torch.zeros_like(one)
    found = lengths[one]
    for column, symbol in enumerate(messages.T):
        goes_on = column < lengths[other]
        same = where[one, symbol.clamp_min(0)[other]]
        down = same | falls
        across = (((same & rises) + rises) ^ rises) | same
        more, less = falls | ~(across | rises), rises & across
        step = ((more & last) != 0).long() - ((less & last) != 0).long()
        found = found + step * goes_on
        more, less = more << 1 | 1, less << 1
        rises, falls = less | ~(down | more), more & down
    return torch.where(lengths[one] > 0, found, lengths[other])


def ranks(values: Tensor) -> Tensor:
    """(N,): the rank of each value (N,), from 1; equal values share the mean of their ranks."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[inverse]


def assignment(gains: Tensor) -> Tensor:
    """(n,): for each of n rows a column of its own, out of m >= n, so that the sum of gains (n, m)
    is the largest (Kuhn 1955; Crouse 2016).
    """
    from scipy.optimize import linear_sum_assignment

    columns = linear_sum_assignment(gains.cpu().numpy(), maximize=True)[1]
    return torch.from_numpy(columns).to(gains.device)
