"""From model to result: `extract`."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pi_lib import values
from pi_lib.and_or import and_or_split
from pi_lib.engine import coalition_values, fingerprint, games
from pi_lib.engine.callables import Unidentified, digest
from pi_lib.interactions import Interactions, label_numbers
from pi_lib.players.placement import sample_ids
from pi_lib.search import search
from pi_lib.transforms import and_transform

METHODS = ("exact", "search", "sampled")
SALIENT = 0.05  # of the strongest: the usual threshold of `Interactions.salient`
# Which `method` or `kind` an option acts with; with any other it would do nothing, and is refused.
_ACTS_WITH = {
    "noise": ("kind", ("and-or",)),
    "tol": ("kind", ("and-or",)),
    "budget": ("method", ("search", "sampled")),
    "max_order": ("method", ("search",)),
    "seed": ("method", ("search", "sampled")),
}


def extract(
    model,
    inputs,
    labels: Sequence[int] | Tensor,
    players,
    *,
    kind: Literal["and", "and-or"] = "and",
    method: Literal["exact", "search", "sampled"] = "exact",
    noise: float | None = None,
    tol: float | None = None,
    budget: int | None = None,
    max_order: int | None = None,
    seed: int | None = None,
    ids: Sequence[int] | None = None,
    **engine,
) -> Interactions:
    """Interactions between the players of each sample, as the model sees them.

    Parameters
    ----------
    model, inputs, labels, players, ids
        As in `coalition_values`.
    kind : "and" or "and-or"
        Harsanyi dividends (the paper's Eq. 2), or the sparsest split into AND and OR.
    method : "exact", "search" or "sampled"
        - "exact": all ``2**n`` coalitions, up to 16 players.
        - "search": SPEX (arXiv 2502.13870) as shapiq implements it, which finds the few strong
          interactions of up to 64 players from `budget` coalitions.
        - "sampled": v of `budget` random coalitions, for any number of players. Such values
          determine no single interaction, but how reproducible and how similar models are over
          all orders: `reliability`, `similarity` and `origins` take them.
    noise, tol : float, default 0 and 1e-3
        Of `pi_lib.and_or_split`, for kind "and-or".
    budget : int, default 8192 for "search", 512 for "sampled"
        Coalitions per sample. SPEX takes the largest of its designs that fits; `meta` says how
        many that were, and 258 more check the result. For "sampled", two more: none and all.
    max_order : int, default 5
        For method "search": largest order looked for. SPEX lowers it where the budget is short.
    seed : int, default 0
        For methods "search" and "sampled": draws the coalitions, together with each sample's id,
        so that all models are asked about the same ones.
    **engine
        `value`, `output`, `device`, `batch_size`, `autocast`, `share`, `keep`, `report` of
        `coalition_values`.

    Returns
    -------
    Interactions
        Of method "search" it is an estimate: look at its `r2`. Its `meta` holds `kind`, `method`,
        `n`, `players` (their class), `baseline`, `background` and `masking` of players that have
        them, `value` (its name, and a digest of its code if it is not of `pi_lib`), `output`,
        `precision` and `error` (of v, in its unit) as `coalition_values` reports them, and the
        options of the method.

    Warns
    -----
    UserWarning
        If the error of v, amplified by the orders, reaches the threshold of salience; if the model
        gives `log_odds` what looks like probabilities, not logits.

    Raises
    ------
    ValueError
        As `coalition_values`; if `kind` or `method` is none of these, or an option is given that
        does nothing with them. For "search" and "sampled" also if the kind is "and-or", or the
        budget so large that enumeration costs no more; for "search" for more than 64 players, or
        if the budget is too small for SPEX.
    ImportError
        If method "search" finds no shapiq.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> model = lambda x: torch.stack([x.prod(-1), torch.zeros(len(x))], -1)  # a AND b
    >>> players = LabelMapPlayers(torch.tensor([0, 1]), baseline=0.0)
    >>> extract(model, torch.ones(1, 2), [0], players).i_and
    tensor([[0., 0., 0., 1.]], dtype=torch.float64)
    """
    options = {
        "noise": noise, "tol": tol, "budget": budget, "max_order": max_order, "seed": seed
    }  # fmt: skip
    options = _checked(kind, method, players.n, options)
    ids = ids if ids is None else sample_ids(inputs, ids)
    placements = players.place(inputs, ids)
    report = engine["report"] = {} if engine.get("report") is None else engine["report"]
    if method == "exact":
        v = coalition_values(model, inputs, labels, players, ids=ids, **engine)
        fields = _exact(v, kind, options)
    else:
        seeds = sample_ids([placement.inputs for placement in placements], ids)
        rngs = [np.random.default_rng([options["seed"], sample]) for sample in seeds]
        with games(model, inputs, labels, players, ids=ids, **engine) as samples:
            pairs = zip(samples, rngs, strict=True)
            if method == "sampled":
                fields = _sampled(pairs, players.n, options["budget"])
            else:
                fields = search(pairs, players.n, options["budget"], options["max_order"])
    details = fields.pop("details", {})
    meta = {"method": method, "n": players.n} | _settings(players, labels, engine)
    meta |= {"kind": kind} if method != "sampled" else {}
    meta |= {key: report[key] for key in ("precision", "error") if key in report}
    result = Interactions(
        **fields,
        n=players.n,
        players=[placement.names for placement in placements],
        labels=label_numbers(labels),
        ids=ids or [],
        digests=_digests(inputs, placements) if ids is None else [],
        meta=meta | options | details,
    )
    if method == "exact":
        warn_of_error(result)
    return result


def _digests(inputs, placements) -> list[str]:
    """What tells samples without ids apart: of a sentence itself, whatever its tokens."""
    texts = not isinstance(inputs, Tensor) and all(isinstance(text, str) for text in inputs)
    samples = sample_ids(inputs if texts else [x.inputs for x in placements], None)
    return [f"{sample:016x}" for sample in samples]


def _checked(kind: str, method: str, n: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options that act with this kind and method, with their defaults; refuses all others."""
    given = {"kind": kind, "method": method}
    if kind not in ("and", "and-or"):
        raise ValueError(f"kind={kind!r}; expected 'and' or 'and-or'")
    if method not in METHODS:
        raise ValueError(f"method={method!r}; expected 'exact', 'search' or 'sampled'")
    if kind == "and-or" and method != "exact":
        raise ValueError(
            f"kind={kind!r} with method={method!r}: the split into AND and OR needs the value of "
            "every coalition, of which this method sees few; use kind='and', or method='exact'"
        )
    defaults = {
        "noise": 0.0, "tol": 1e-3, "budget": 512 if method == "sampled" else 2**13,
        "max_order": 5, "seed": 0,
    }  # fmt: skip
    acting = {}
    for name, value in options.items():
        what, choices = _ACTS_WITH[name]
        if given[what] in choices:
            acting[name] = defaults[name] if value is None else value
        elif value is not None:
            raise ValueError(
                f"{name}={value!r} does nothing with {what}={given[what]!r}: it acts with {what}="
                f"{' or '.join(map(repr, choices))}. Leave it out, or choose that {what}"
            )
    if (budget := acting.get("budget", 1)) < 1:
        raise ValueError(f"budget={budget}; expected at least 1 coalition per sample")
    if method != "exact" and budget >= 2**n:
        raise ValueError(
            f"{n} players have {2**n:,} coalitions, no more than budget={budget:,}: "
            "method='exact' evaluates them all and is exact; or give a smaller budget"
        )
    return acting


def _exact(v: Tensor, kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Fields of a result of all coalitions."""
    if kind == "and":
        return {"v": v, "i_and": and_transform(v)}
    split = and_or_split(v, **options)
    return {
        "v": v, "i_and": split.i_and, "i_or": split.i_or, "details": {"gap": split.gap.tolist()}
    }  # fmt: skip


def _sampled(pairs, n: int, budget: int) -> dict[str, Any]:
    """Fields of a result of random coalitions, drawn independently with each player in or out."""
    ends = torch.tensor([[False] * n, [True] * n])
    drawn, rows = torch.empty(0, budget, n, dtype=torch.bool), []
    for game, rng in pairs:
        coalitions = torch.from_numpy(rng.random((budget, n)) < 0.5)
        drawn = torch.cat([drawn, coalitions[None]])
        rows.append(game(torch.cat([ends, coalitions])))
    v = torch.stack(rows) if rows else torch.empty(0, budget + 2, dtype=torch.float64)
    return {"v": v[:, 2:], "ends": v[:, :2], "sampled": drawn}


def _settings(players, labels, engine: dict[str, Any]) -> dict[str, Any]:
    """What decides v beside model, samples and coalitions, as JSON values."""
    output = engine.get("output")
    settings = {
        "value": value_name(engine.get("value", values.log_odds)),
        "output": value_name(output) if callable(output) else repr(output or "logits"),
    }
    if torch.as_tensor(labels).ndim != 1:  # a box or map each, which `label_numbers` leaves out
        settings["labels"] = fingerprint(torch.as_tensor(labels))
    settings["players"] = type(players).__name__
    for name in ("baseline", "background", "masking"):
        setting = getattr(players, name, None)
        if name == "baseline" and setting == "mean" and getattr(players, "mean", None) is not None:
            setting = torch.as_tensor(players.mean)
        if isinstance(setting, Tensor):
            few = setting.numel() <= 4
            setting = str(setting.tolist()) if few else f"tensor {fingerprint(setting)}"
        if setting is not None:
            settings[name] = setting if isinstance(setting, str) else repr(setting)
    return settings


def value_name(value: Callable) -> str:
    """A value function's name; with a digest of its code, if it is not one of `pi_lib`."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if getattr(values, name, None) is value:
        return name
    try:
        return f"{name} {digest(value)[:16]}"
    except Unidentified:  # neither code nor data to be seen: the name is all there is
        return name


def warn_of_error(result: Interactions) -> None:
    """Warn if the error of v, ``meta["error"]``, amplified reaches the threshold of salience.

    A dividend of order m sums ``2**m`` values with alternating signs: an error of each of them
    becomes ``2**(m/2)`` times as much.
    """
    error = result.meta.get("error", 0.0)
    strongest = result.terms.abs().masked_fill(result.orders == 0, 0).amax(-1)
    amplified = error * 2 ** (torch.arange(1, result.n + 1) / 2)
    reached = amplified >= SALIENT * strongest[strongest > 0, None]
    if error > 0 and reached.any():
        lowest = reached.any(0).nonzero()[0].item() + 1
        warnings.warn(
            f"values are off by up to {error:.2g}, and a dividend of order m by 2**(m/2) times "
            f"that: from order {lowest} on this reaches the threshold of salience, {SALIENT} of "
            f"the strongest interaction, in {reached.any(1).sum()} of {len(result)} samples. What "
            "is salient there may be rounding: extract in float64 (model.double() and float64 "
            "inputs), or trust lower orders only",
            stacklevel=3,
        )
