"""From model to result: `extract`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from pi_lib.engine import coalition_values
from pi_lib.interactions import Interactions, label_numbers
from pi_lib.transforms import and_transform

if TYPE_CHECKING:
    from pi_lib.interactions import SparseInteractions


def extract(
    model,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    kind: Literal["and", "and-or"] = "and",
    method: Literal["exact", "sparse"] = "exact",
    noise: float = 0.0,
    tol: float = 1e-3,
    budget: int = 2**13,
    max_order: int = 5,
    seed: int = 0,
    ids: Sequence[int] | None = None,
    **engine,
) -> "Interactions | SparseInteractions":
    """Interactions between the players of each sample, as the model sees them.

    Parameters
    ----------
    model, inputs, labels, players, ids
        As in `coalition_values`.
    kind : "and" or "and-or"
        Harsanyi dividends (the paper's Eq. 2), or the sparsest split into AND and OR.
    method : "exact" or "sparse"
        All ``2**n`` coalitions, up to 16 players; or SPEX (arXiv 2502.13870) as shapiq implements
        it, which finds the few strong interactions of up to 64 players from `budget` coalitions.
    noise, tol
        Of `pi_lib.and_or_split`, for kind "and-or".
    budget : int, default 8192
        For method "sparse": coalitions per sample that SPEX may evaluate. It takes the largest
        of its designs that fits; `meta` says how many that were. 258 more check the result.
    max_order : int, default 5
        For method "sparse": largest order looked for. SPEX lowers it where the budget is short.
    seed : int
        For method "sparse": draws the coalitions, together with each sample's id.
    **engine
        `value`, `device`, `batch_size`, `autocast`, `share`, `keep` of `coalition_values`.

    Returns
    -------
    Interactions or SparseInteractions
        By method "exact" or "sparse". A sparse result is an estimate: look at its `r2`.

    Raises
    ------
    ValueError
        As `coalition_values`; if `kind` or `method` is neither; for method "sparse" also if the
        kind is "and-or", for more than 64 players, or if the budget is too small for SPEX, or so
        large that enumeration costs less.
    ImportError
        If method "sparse" finds no shapiq.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> model = lambda x: torch.stack([x.prod(-1), torch.zeros(len(x))], -1)  # a AND b
    >>> players = LabelMapPlayers(torch.tensor([0, 1]), baseline=0.0)
    >>> extract(model, torch.ones(1, 2), [0], players).i_and
    tensor([[0., 0., 0., 1.]], dtype=torch.float64)
    """
    if kind not in ("and", "and-or"):
        raise ValueError(f"kind={kind!r}; expected 'and' or 'and-or'")
    if method == "sparse":
        from pi_lib.search import extract_sparse

        return extract_sparse(
            model, inputs, labels, players,
            kind=kind, budget=budget, max_order=max_order, seed=seed, ids=ids, **engine,
        )  # fmt: skip
    if method != "exact":
        raise ValueError(f"method={method!r}; expected 'exact' or 'sparse'")
    placements = players.place(inputs, ids)
    v = coalition_values(model, inputs, labels, players, ids=ids, **engine)
    meta = {"kind": kind, "players": type(players).__name__, "n": players.n}
    if kind == "and":
        i_and, i_or = and_transform(v), None
    else:
        from pi_lib.and_or import and_or_split

        split = and_or_split(v, noise=noise, tol=tol)
        i_and, i_or = split.i_and, split.i_or
        meta |= {"noise": noise, "tol": tol, "gap": split.gap.tolist()}
    return Interactions(
        v=v,
        i_and=i_and,
        i_or=i_or,
        players=[placement.names for placement in placements],
        labels=label_numbers(labels),
        ids=list(ids) if ids is not None else [],
        meta=meta,
    )
