"""The AND-OR split: the sparsest way to write a game as AND plus OR interactions, certified.

With ``w = v - v({})`` and, over nonempty coalitions, ``Z[T, S] = [S subset T]`` and
``O[T, S] = [S meets T]``, the split is the linear program (basis pursuit)

    minimise  sum |a| + sum |b|   subject to   |Z a + O b - w| <= box

with ``a`` the AND and ``b`` the OR interactions. The box is 0 (exact reconstruction) or a share
of ``|v(N) - v({})|`` for every coalition (the noise-tolerant form of arXiv 2409.08712).

It is solved by Douglas-Rachford splitting, reflected, pulled back towards an anchor (Halpern)
and restarted with new step lengths whenever it has made enough progress, as in HPR-LP
(arXiv 2408.12179). Every iterate carries a dual point, so every answer carries a lower bound on
what any split could reach. Nothing of size ``2**n x 2**n`` is formed, but on a GPU for few players:
see `constraint`.
"""

from pi_lib.and_or.split import AndOrSplit, and_or_split, shared_split

__all__ = ["AndOrSplit", "and_or_split", "shared_split"]
