# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How directly each run gets there
#
# **Key points**
#
# - Training moves a network from its first {term}`interactions <interaction>` to its last. At each
#   checkpoint we measure how similar they are to the last ones, by a signed weighted
#   {term}`Jaccard similarity`.
# - The paper claims that fine-tuning approaches its target faster and more steadily than scratch
#   training. Here that becomes three numbers: area under the curve, when it crosses a half, and
#   directness.
#
# *Needs: [What is preserved](03_what_is_preserved), whose results it reads. Five minutes to read,
# seconds to run.*

# %% tags=["parameters"]
profile = "quick"
seed = 0

# %%
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import figures
from pi_lib.book.explorers import explore_training

figures.style()
cells = study.offline_cells(profile, seed)
results = dict(zip(cells, study.run_all(list(cells.values())), strict=True))

# %% [markdown]
# ## Similarity with the end of the run
#
# With $I^+ = \max(I, 0)$ and $I^- = \max(-I, 0)$,
#
# $$J(I_1, I_2) = \frac{\sum_S \min(I_1^+, I_2^+) + \min(I_1^-, I_2^-)}
#                      {\sum_S \max(I_1^+, I_2^+) + \max(I_1^-, I_2^-)}.$$
#
# It is 1 for equal interactions and 0 for interactions that share nothing. The curve is the mean
# over samples of $J(I_t, I_{end})$, the band its 95 % bootstrap interval; at the right edge it is 1
# by definition.

# %% mystnb={"figure": {"name": "fig-own", "caption": "Similarity of each run's interactions with those of its own end. Bands: 95 % bootstrap intervals."}, "image": {"alt": "Line charts for fine-tuning and scratch training, rising to one, in two panels."}}
figure = figures.trajectories(results)

# %% [markdown]
# ### Claim: fine-tuning gets there faster
#
# Faster means more area under the curve. Each sample has its own curve under both runs, so the test
# is paired: the mean over samples of the difference of areas.

# %% tags=["hide-input"]
WORDS = {"above": "**confirmed**", "below": "**contradicted**", "undecided": "**undecided**"}
lines, table = [], {}
for name, result in results.items():
    fine, scratch = result.trajectory("finetuned"), result.trajectory("scratch")
    gain = pi.bootstrap(fine.areas() - scratch.areas())
    lines.append(
        f"- {name}: area fine-tuned {fine.area()}, scratch {scratch.area()}, difference {gain}: "
        f"{WORDS[gain.compared_with(0)]}"
    )
    for phase, one in (("fine-tuned", fine), ("scratch", scratch)):
        table[name, phase] = {
            "area under the curve": str(one.area()),
            "progress at which J reaches 0.5": str(one.reaches(0.5)),
            "progress at which J reaches 0.8": str(one.reaches(0.8)),
            "directness": str(one.directness()),
        }
display(Markdown("\n".join(lines)))

# %% [markdown]
# ### Claim: fine-tuning gets there more directly
#
# *Directness* is the total rise of the mean curve over its total variation: 1 if it never turns
# back. An interval of `nan` means that some resamples of the samples leave the number undefined.

# %% tags=["hide-input"]
pd.DataFrame(table).T

# %% tags=["hide-input"]
lines = []
for name, result in results.items():
    fine = result.trajectory("finetuned").directness()
    scratch = result.trajectory("scratch").directness()
    verdict = (
        "confirmed" if fine.low > scratch.high
        else "contradicted" if fine.high < scratch.low
        else "undecided"
    )  # fmt: skip
    lines.append(f"- {name}: directness fine-tuned {fine}, scratch {scratch}: **{verdict}**")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Similarity with the fine-tuned model
#
# Each run's own end is a moving standard: a run that learns nothing is close to its own end from
# the start. So we also measure both runs against one target, the fine-tuned model.

# %% mystnb={"figure": {"name": "fig-target", "caption": "Similarity of both runs with the fine-tuned model. Bands: 95 % bootstrap intervals."}, "image": {"alt": "Line charts in two panels; only the fine-tuned run rises to one."}}
figure = figures.trajectories(results, target="finetuned")

# %% tags=["hide-input"]
lines = []
for name, result in results.items():
    end = result.trajectory("scratch", "finetuned").similarity[-1]
    start = result.trajectory("finetuned", "finetuned").similarity[0]
    lines.append(
        f"- {name}: scratch training ends at a similarity of {pi.bootstrap(end)} with the "
        f"fine-tuned model, which itself started at {pi.bootstrap(start)}"
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Accuracy along the way

# %% mystnb={"figure": {"name": "fig-accuracy", "caption": "Accuracy on the test split along both runs, with 95 % Wilson intervals; dashed: the linear probe."}, "image": {"alt": "Line charts of accuracy against training progress, in two panels."}}
figure = figures.accuracies(results)

# %% [markdown]
# ## Through training, frame by frame
#
# Besides how similar two models are, we can ask in which orders. At any checkpoint, *preserved* is
# what it shares with the finished fine-tuned model, *discarded* what it lacks of it, and *new* what
# it has beyond it. {numref}`fig-scratch-end` shows this for the end of scratch training.

# %% mystnb={"figure": {"name": "fig-scratch-end", "caption": "What scratch training ends with, held against the finished fine-tuned model, by order. Whiskers: 95 % bootstrap intervals over samples."}, "image": {"alt": "Grouped bars of preserved, discarded and new strength for each order, in two panels."}}
figure = figures.knowledge(
    {
        name: pi.compare(result.finetuned.final, result.scratch.final)
        for name, result in results.items()
    }
)

# %% [markdown]
# Move the slider over the checkpoints, from the first weights to the last.

# %%
explore_training(results)

# %% [markdown]
# ## Where these numbers come from

# %% tags=["hide-input"]
pd.concat({name: result.provenance() for name, result in results.items()})
