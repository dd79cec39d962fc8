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
#
# *Needs: [Train it twice](02_train_it_twice).*

# %% tags=["parameters"]
profile = "quick"  # of the two cells that this book trains itself: smoke, quick, reduced or full
record = "recorded/paper"  # folder of the recorded cells

# %%
import pandas as pd
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, study_figures, tables
from pi_lib.book.explorers import explore_training
from pi_lib.study import findings

begin(profile)
live = {record.name: record for record in study.run_all([*study.offline_cells(profile).values()])}
records = study.read_all(record) | live
runs = {r.title: findings.Runs(r) for r in records.values()}

# %% [markdown]
# ## Towards the ends of other runs
#
# $$\frac{C(X^1_t, X^r_{end})}{\sqrt{V(X^1_t)\, C_{XX}(end)}}, \qquad r \neq 1,$$
#
# with $C$ and $V$ as in [Train it twice](02_train_it_twice). At the end it is not 1 but the square root of the
# {term}`reliability`: no run agrees with another one better than runs do.

# %% mystnb={"figure": {"name": "fig-approach", "caption": "At their end, runs of an arm have a similarity of {glue:text}`ends` with the ends of other runs, not 1. Similarity of a run with the ends of other runs of its arm, at each checkpoint. Bands: 95 % intervals over samples. Steps on a logarithmic axis."}, "image": {"alt": "A panel per cell with two rising curves, fine-tuned and scratch."}}
ways = {
    (name, arm): r.approach(arm) for name, r in runs.items() for arm in ("finetuned", "scratch")
}
curves = pd.concat(way.to_frame().assign(cell=name, arm=arm) for (name, arm), way in ways.items())
figure = study_figures.approaches(curves)

# %% [markdown]
# ## Faster? More directly?
#
# Steps until a run has half, and 80 %, of its own final similarity, and how direct the way was. Beside
# them, for each run of the arm, the steps until it has 80 % of its own final accuracy ({numref}`fig-accuracy`
# shows the way there).

# %% tags=["hide-input"]
pd.DataFrame(
    {
        (name, tables.ARMS[arm]): {
            "steps to half": f"{way.steps_to(0.5):.0f}",
            "steps to 80 %": f"{way.steps_to(0.8):.0f}",
            "directness": str(way.directness),
            "steps to 80 % of the accuracy, by run": ", ".join(
                f"{steps:.0f}" for steps in runs[name].record.steps_to_accuracy(arm, 0.8)
            ),
        }
        for (name, arm), way in ways.items()
    }
).T

# %% tags=["hide-input"]
claims = findings.findings(runs)
tables.claims(claims[claims["claim"].isin([c.name for c in findings.CLAIMS[6:]])])

# %% [markdown]
# ## Accuracy along the way

# %% mystnb={"figure": {"name": "fig-accuracy", "caption": "Accuracy on the test samples along the first run of each arm; dashed: the linear probe."}, "image": {"alt": "Line charts of accuracy against steps, a panel per cell."}}
figure = study_figures.accuracies(records)

# %% [markdown]
# ## Through training, frame by frame
#
# Move the slider over the checkpoints of the cells that this book trains itself: *preserved* is what
# a checkpoint has in common with the finished fine-tuned model, *discarded* what only the finished
# model has, *new* what only the checkpoint has. This is the paper's measure, of single runs.

# %%
explore_training({r.title: r for r in live.values()})

# %% tags=["remove-cell"]
last = curves.dropna(subset="value").groupby(["cell", "arm"])["value"].last()
glue("ends", tables.spans(last, ".2f"), display=False)

# %% [markdown]
# ## Exercises
#
# 1. A run stays at its start. How similar is it to its own end, at every step? And to the ends of other
#    runs?
# 2. Why do the curves of {numref}`fig-approach` not end at 1?
# 3. Fine-tuning starts with a higher accuracy. Does it follow that it is *faster* in the sense of this
#    page?
#
# :::{dropdown} Answers
# 1. To its own end 1, from the first step on: the paper's measure calls it the fastest of all. To the
#    ends of other runs as similar as the start is, which is what this page draws.
# 2. Two runs agree only on what comes back. Here the curves end at {glue:text}`ends`; 1 would be two
#    equal runs.
# 3. No. Steps are counted to half of a run's *own* final value: a run that starts high and goes far may
#    need more of them.
# :::
#
# Next: [all claims, side by side](06_findings).
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)
