# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Every claim of the paper in every cell: confirmed, contradicted, undecided or not measurable."
# ---

# %% [markdown]
# # Findings
#
# **Key points**
#
# - Each claim of the paper becomes one number that is above 0 if the claim holds. The claim is *confirmed*
#   where the number's 95 % interval lies above 0 and its p, corrected for the number of cells, is below
#   0.05; *contradicted* where the interval lies below 0 and p is as small; *undecided* if neither; *not
#   measurable* where single runs agree on too little.
# - Beside it stand the paper's own share, chance and a second run, and what the paper's number alone
#   would have said.
#
# *Needs: [Train it twice](02_train_it_twice).*

# %% tags=["parameters"]
profile = "quick"  # of the two cells that this book trains itself: smoke, quick, reduced or full
record = "recorded/paper"  # folder of the recorded cells
again = "recorded/again"  # cells of it that were computed a second time, from the start

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, study_figures, tables
from pi_lib.book import recorded as read
from pi_lib.study import findings

begin(profile)
live = {record.name: record for record in study.run_all([*study.offline_cells(profile).values()])}
records = study.read_all(record) | live
runs = {r.title: findings.Runs(r) for r in records.values()}
claims = findings.findings(runs)

# %% [markdown]
# ## Every claim in every cell

# %% mystnb={"figure": {"name": "fig-verdicts", "caption": "{glue:text}`findings_verdicts`. The verdict on each claim (columns) in each cell (rows). The first and the third claim rest on one number."}, "image": {"alt": "A grid of coloured squares with the words confirmed, contradicted, undecided or not measurable."}}
figure = study_figures.verdicts(claims)

# %% tags=["remove-cell"]
counts = claims["verdict"].value_counts()
said = ", ".join(f"{counts[v]} {v}" for v in findings.VERDICTS if v in counts)
glue("findings_verdicts", f"Of {len(claims)} squares: {said}", display=False)

# %% tags=["hide-input"]
tables.counts(claims)

# %% [markdown]
# The column *paper's number alone* gives the verdict of the paper's own number on the same networks:
# without chance, without a second run. It is empty where the paper has no such number. What only a
# fine-tuned run has is *new*, so *only a small part is preserved* and *much is learned anew* are tested by
# one number. Steps and directness: see [How directly each run gets there](05_how_directly). All verdicts here
# are of one pre-training; [Which pre-training?](12_which_pretraining) judges the first six claims over several.

# %% tags=["hide-input"]
for name, rows in claims.groupby("claim", sort=False):
    display(Markdown(f"**{name[:1].upper()}{name[1:]}**: {rows['number'].iloc[0]}"))
    display(tables.claims(rows))

# %% [markdown]
# ## Where the fine-tuned knowledge comes from
#
# Of what fine-tuned runs reproducibly know, how much does the probe explain, how much does training
# from scratch, how much both, how much neither? (Commonality analysis of the similarities; all orders
# of Walsh coefficients.) The probe is that of one pre-training: what another one would not bring back counts
# against it, by as much as [Which pre-training?](12_which_pretraining) shows.

# %% mystnb={"figure": {"name": "fig-origins-by-cell", "caption": "Pre-training alone explains {glue:text}`origins_pretraining`, neither it nor scratch {glue:text}`origins_neither`. Left: where what fine-tuned runs reproducibly know comes from. Right: gain in accuracy of fine-tuning over training from scratch. Intervals of the shares stand in the table below."}, "image": {"alt": "A stacked bar per cell: pre-training alone, both, scratch alone, neither; beside it a dot with the gain in accuracy."}}
found = findings.origins_table(runs)
figure = study_figures.origins(found, {name: r.record.gain() for name, r in runs.items()})

# %% tags=["hide-input"]
for part in ("pretraining", "neither"):
    shares = found[found["part"] == part]["value"].dropna().clip(0)
    glue(f"origins_{part}", tables.spans(shares), display=False)
tables.estimates(found, index="cell", columns="part")

# %% [markdown]
# Each sample has a mean effect of how many of its players are visible, in every network, which is no
# knowledge of the sample. With that effect taken out within each order:

# %% tags=["hide-input"]
tables.estimates(findings.origins_table(runs, centred=True), index="cell", columns="part")

# %% [markdown]
# ## Accuracy and reliability
#
# Where a column is empty, there is no such arm, or one run of it. Of the linear probe there is usually one,
# its optimum; where there are two, they were trained, under two heads.

# %% tags=["hide-input"]
tables.overview(runs)

# %% [markdown]
# ## Other players
#
# Players may also *cover* the whole input: all patches of a coarse grid, or contiguous chunks of a sentence.
# Then no draw of players decides the answer.

# %% tags=["hide-input"]
covering = {
    r.title: findings.Runs(r, "covering")
    for r in records.values()
    if r.count("finetuned", "covering")
}
said = f"{len(covering)} of {len(runs)} cells were asked so."
if covering:
    whole = findings.origins_table(covering)
    parts = whole.dropna(subset="value").pivot(index="cell", columns="part", values="value")
    probe = parts.reindex(columns=["pretraining", "both"]).sum(axis=1, min_count=2).dropna()
    if len(probe):
        said += (
            f" The probe explains {tables.spans(probe.clip(0))} of what fine-tuned runs reproducibly "
            f"know, less than half in {(probe < 0.5).sum()} of {len(probe)}:"
        )
display(Markdown(said))
tables.estimates(whole, index="cell", columns="part") if covering else None

# %% [markdown]
# ## Cells that were computed again
#
# All networks of these cells were trained a second time, with learning rates chosen anew, and pre-trained
# a second time too where weights are not published. What else differs is said with each cell. Does it come
# to the same verdicts? (Each verdict here is on its cell alone, without a correction for the number of
# cells: so a claim may be *confirmed* here that is *undecided* above.)


# %% tags=["hide-input"]
def made(one):
    """Training set, players and long scratch of a cell."""
    s = one.record.header["settings"]
    long = (
        f"long scratch of {s['long']} times the epochs" if "long" in one.arms else "no long scratch"
    )
    return f"{s['n_train']:,} labels, {s['n']} players, {long}"


twice = {r.title: findings.Runs(r) for r in read(again).values() if r.title in runs}
pairs = {
    name: [findings.findings({name: one}) for one in (runs[name], second)]
    for name, second in twice.items()
}
if pairs:
    first, second = (pd.concat(frames) for frames in zip(*pairs.values(), strict=True))
    same = (first["verdict"] == second["verdict"]).sum()
    opposite = [
        {*both} == {"confirmed", "contradicted"}
        for both in zip(first["verdict"], second["verdict"], strict=True)
    ]
    numbers = [
        (x, y)
        for x, y in zip(first["tested"], second["tested"], strict=True)
        if x.measurable and y.measurable
    ]
    apart = sum(x.low > y.high or y.low > x.high for x, y in numbers)
    why = ": intervals over samples do not hold what another training, or another setting, changes"
    display(
        Markdown(
            f"In all, {same} of {len(first)} verdicts are the same both times; {sum(opposite)} are "
            f"*confirmed* one time and *contradicted* the other. Of {len(numbers)} numbers that are "
            f"measured both times, {apart} have intervals that lie apart{why if apart else ''}."
        )
    )
for name, both in pairs.items():
    table = both[0][["claim"]].assign(
        **{
            f"{what}, {when}": frame["tested"].map(tables.said)
            if what == "number"
            else frame["verdict"]
            for what in ("number", "verdict")
            for when, frame in zip(("first", "again"), both, strict=True)
        }
    )
    same = (both[0]["verdict"] == both[1]["verdict"]).to_numpy()
    differ = both[0]["claim"][~same]
    differ = f"; not on: {', '.join(differ)}" if len(differ) else ""
    ids = [one.record.header["ids"] for one in (runs[name], twice[name])]
    display(
        Markdown(
            f"**{name}**: the same verdict on {same.sum()} of {len(same)} claims{differ}. First: "
            f"{made(runs[name])}. Again: {made(twice[name])}; of its {len(ids[1])} samples, "
            f"{len({*ids[0]} & {*ids[1]})} are among those of the first time."
        )
    )
    display(table.set_index("claim").rename_axis(None))

# %% [markdown]
# ## Learning rates
#
# The rate with the best accuracy of the first run on the validation set was taken.

# %% tags=["hide-input"]
tried = [
    (rate["chosen"], [float(x) for x in rate["tried"]])
    for r in records.values()
    for rate in (r.header["rates"][arm] for arm in ("finetuned", "scratch"))
    if rate["tried"]
]
edge = sum(taken in (min(rates), max(rates)) for taken, rates in tried)
display(
    Markdown(
        f"In {edge} of the {len(tried)} choices below among several rates, the one taken is the "
        "smallest or the largest that was tried: a better one may lie beyond it."
    )
)
tables.rates(records)

# %% [markdown]
# ## Exercises
#
# 1. A claim is true in none of twenty cells. In how many would it seem confirmed, on average, if each cell
#    were judged alone at p below 0.05, half of that on the side of the claim? What does the correction change?
# 2. A claim is *undecided* in every cell. Is it false?
#
# :::{dropdown} Answers
# 1. In 20 · 0.025, half a cell: about two such grids in five would show a green square, although the claim
#    is true nowhere. With Holm's correction, the chance of even one such square per claim is below 0.05.
# 2. No. The numbers are compatible with 0, and with what the intervals hold besides: more samples and runs
#    could decide it.
# :::
#
# Next: settings that the paper leaves open, and [what they change](07_choices).
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)

# %% [markdown]
# The cells that were computed again:

# %% tags=["hide-cell"]
tables.provenance({name: second.record for name, second in twice.items()}) if twice else None

# %% [markdown]
# To compute the recorded cells anew, on a GPU and with a folder of data as [](../data) describes it:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/paper.yml --profile full \
#         --record notebooks/recorded/paper
