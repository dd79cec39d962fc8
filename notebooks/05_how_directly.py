# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Whether fine-tuning reaches its end faster and more directly than training from scratch."
# ---

# %% [markdown]
# # How directly each run gets there
#
# **Key points**
#
# - The paper compares a run at each checkpoint with the *end of the same run*, and finds that
#   fine-tuning approaches it faster and more directly. But every run comes to its own end, and a run
#   that stands still is there from the start.
# - Here a run is compared with the ends of *other* runs of its arm, so that nothing is won by standing
#   still and noise does not count. "Faster" is fewer steps to half of the final value.
# - "More directly" is the length of the straight way over the length of the way taken; without
#   replicates of the checkpoints noise looks like detours, and the number is not measurable.
# - Both take many samples. Cells that were asked about many stand first, those of the other pages after
#   them.
#
# *Needs: [Train it twice](02_train_it_twice).*

# %% tags=["parameters"]
profile = "quick"  # of the two cells that this book trains itself: smoke, quick, reduced or full
record = "recorded/paper"  # folder of the recorded cells
many = "recorded/over_time"  # cells that were asked about many samples at every checkpoint

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, study_figures, tables
from pi_lib.book import recorded as read
from pi_lib.book.explorers import explore_training
from pi_lib.study import comparisons, findings

begin(profile)
live = {record.name: record for record in study.run_all([*study.offline_cells(profile).values()])}
records = study.read_all(record) | live
runs = {r.title: findings.Runs(r) for r in records.values()}

# %% [markdown]
# ## Towards the ends of other runs
#
# The figures show, for a run $X^q$ of an arm at each step $t$,
#
# $$\frac{C(X^q_t, X^r_{end})}{\sqrt{V(X^q_t)\, C_{XX}(end)}}, \qquad r \neq q,$$
#
# with $C$ and $V$ as in [Train it twice](02_train_it_twice), as a mean over the runs $q$ whose checkpoints
# are recorded and over the ends $r$ of the others. At the end it is not 1 but, on average over runs, the
# square root of the {term}`reliability`: even finished runs agree no better.
#
# Noise hides a way unless many samples are asked about. So the cells of this figure were computed for this
# page: at every checkpoint, {glue:text}`many_runs` runs of each arm are asked about
# {glue:text}`many_samples` samples, with {glue:text}`many_players` players. Each arm has the learning rate
# that does best on its validation samples; where the two differ, that alone could make one way longer or more
# crooked. So some cells were computed again with one rate for both, that of scratch or that of fine-tuning:
# they name the rate that was changed.

# %% mystnb={"figure": {"name": "fig-approach", "caption": "At their end, runs of an arm have a similarity of {glue:text}`ends` with the ends of other runs; two equal runs would have 1. Similarity of a run with the ends of other runs of its arm, at each checkpoint. What is not measurable is left out. Bands: 95 % intervals over samples. Steps on a logarithmic axis."}, "image": {"alt": "A panel per cell with the curves of fine-tuned and of scratch runs over the steps of training."}}
by_rates = comparisons.by_rates(read(many).values())
asked = {name: r for chosen in by_rates.values() for name, r in chosen.items()}


def ways_of(runs):
    return {(name, arm): r.approach(arm) for name, r in runs.items() for arm in two_arms}


def curves_of(ways):
    return pd.concat(
        [way.to_frame().assign(cell=name, arm=arm) for (name, arm), way in ways.items()]
    )


two_arms = ("finetuned", "scratch")
ways = ways_of(asked)
figure = study_figures.approaches(curves_of(ways)) if ways else None

# %% [markdown]
# ## Faster? More directly?
#
# The table counts the steps until a run has half, and 80 %, of its own final similarity, and says how
# direct the way was. Beside them stand the steps until a run has 80 % of its own final accuracy, for every
# run that was tested on its way. Where a network ends hardly above chance, it has that much from the start,
# and 0 steps say nothing.
#
# No way is straighter than a straight one, so no true {term}`directness` is above 1. Noise can still make
# an interval reach beyond 1. If the way taken may seem shorter than half the straight one, it is mostly
# noise, and the directness is *not measurable*.


# %% tags=["hide-input"]
def table_of(runs, ways):
    return pd.DataFrame(
        {
            (name, tables.ARMS[arm]): {
                "steps to half": tables.said(way.steps_to(0.5)),
                "steps to 80 %": tables.said(way.steps_to(0.8)),
                "directness": tables.said(way.directness),
                "steps to 80 % of the final accuracy, by run": ", ".join(
                    f"{steps:.0f}" for steps in runs[name].record.steps_to_accuracy(arm, 0.8)
                ),
            }
            for (name, arm), way in ways.items()
        }
    ).T


table_of(asked, ways) if asked else None

# %% tags=["hide-input"]
two_claims = findings.CLAIMS[6:]
for words, chosen in by_rates.items():
    claims = findings.findings(chosen, two_claims)
    lines = [
        f"- *{claim}*: {findings.in_words(rows)}."
        for claim, rows in claims.groupby("claim", sort=False)
    ]
    display(Markdown(f"{words[:1].upper()}{words[1:]}:\n\n" + "\n".join(lines)))
    display(tables.claims(claims))

# %% [markdown]
# ## The cells of the other pages
#
# Checkpoints of these cells are of {glue:text}`asked` samples, the games on other pages of
# {glue:text}`all_asked`. What so few can decide:

# %% mystnb={"figure": {"name": "fig-approach-few", "caption": "The same with few samples: of {glue:text}`few_squares`. Similarity of a run with the ends of other runs of its arm, at each checkpoint. What is not measurable is left out. Bands: 95 % intervals over samples. Steps on a logarithmic axis."}, "image": {"alt": "A panel per cell with the curves of fine-tuned and of scratch runs over the steps of training."}}
few_ways = ways_of(runs)
figure = study_figures.approaches(curves_of(few_ways))

# %% tags=["hide-cell"]
table_of(runs, few_ways)

# %% tags=["hide-input"]
claims = findings.findings(runs, two_claims)
tables.counts(claims)

# %% [markdown]
# Every number behind these verdicts stands on the page [Findings](06_findings).
#
# ## Accuracy along the way

# %% mystnb={"figure": {"name": "fig-accuracy", "caption": "At their ends, the first fine-tuned run is more accurate than the first scratch run in {glue:text}`first_better` cells. Accuracy on the test samples along the first run of each arm; dashed: the linear probe. Steps on a logarithmic axis."}, "image": {"alt": "A panel per cell with the accuracy of a fine-tuned and of a scratch run over the steps of training, and a dashed line for the linear probe."}}
figure = study_figures.accuracies(records)
ends = [
    log[(log["arm"] == arm) & (log["run"] == 1)]["value"].iloc[-1]
    for log in (r.accuracies() for r in records.values())
    for arm in ("finetuned", "scratch")
]
better = sum(fine > scratch for fine, scratch in zip(ends[::2], ends[1::2], strict=True))
glue("first_better", f"{better} of {len(records)}", display=False)

# %% [markdown]
# ## Through training, frame by frame
#
# Move the slider over the checkpoints of the cells that this book trains itself: *preserved* is what
# a checkpoint has in common with the finished fine-tuned model, *discarded* what only the finished
# model has, *new* what only the checkpoint has. This is the paper's measure, of single runs.

# %%
explore_training({r.title: r for r in live.values()})

# %% tags=["remove-cell"]
last = curves_of(ways or few_ways).dropna(subset="value").groupby(["cell", "arm"])["value"].last()
glue("ends", tables.spans(last, ".2f"), display=False)


def at_checkpoints(runs):
    return [len(next(iter(r.record.over_time("finetuned").values()))) for r in runs.values()]


glue("asked", tables.spans(at_checkpoints(runs), "d"), display=False)
glue(
    "all_asked",
    tables.spans((len(r.arms["finetuned"][0]) for r in runs.values()), "d"),
    display=False,
)
settings = [r.record.header["settings"] for r in asked.values()]
for key, setting in (("runs", "traced"), ("samples", "traced_samples"), ("players", "n")):
    values = [s[setting] for s in settings]
    glue(f"many_{key}", tables.spans(values, "d") if values else "no", display=False)
counts = claims["verdict"].value_counts()
said = ", ".join(f"{counts[v]} {v}" for v in findings.VERDICTS if v in counts)
glue("few_squares", f"{len(claims)} verdicts, {said}", display=False)

# %% [markdown]
# ## Exercises
#
# 1. A run stays at its start. How similar is it to its own end, at every step? And to the ends of other
#    runs?
# 2. Why do most curves of {numref}`fig-approach` end below 1?
# 3. Fine-tuning starts with a higher accuracy. Does it follow that it is *faster* in the sense of this
#    page?
#
# :::{dropdown} Answers
# 1. To its own end 1, from the first step on: the paper's measure calls it the fastest of all. To the
#    ends of other runs as similar as the start is, which is what this page draws.
# 2. Two runs agree only on what comes back. Here the curves end at {glue:text}`ends`; 1 would be two
#    equal runs. A run that is less noisy than the others may agree with them better than they do among
#    themselves: such a curve ends higher.
# 3. No. Steps are counted to half of a run's *own* final value: a run that starts high and goes far may
#    need more of them.
# :::
#
# Next: [all claims, side by side](06_findings).
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)
