# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Whether training from scratch learns what fine-tuning preserves."
# ---

# %% [markdown]
# # What scratch training learns
#
# **Key points**
#
# - The preserved {term}`interactions <interaction>` are knowledge that both the pre-trained and the
#   fine-tuned model use. Could a network have learned them from the downstream data alone?
# - The paper reports that a model trained from scratch learns 13 to 45 % of them. That says little as
#   long as one does not know how much a *second fine-tuned run* has of them, and how much chance
#   gives.
# - So the question is asked as a difference: how much more of the preserved part does a second
#   fine-tuned run have than a scratch run, and is that more than for the *new* part?
#
# *Needs: [What is preserved](03_what_is_preserved).*

# %% tags=["parameters"]
profile = "quick"  # of the two cells that this book trains itself: smoke, quick, reduced or full
record = "recorded/paper"  # folder of the recorded cells

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, study_figures, tables
from pi_lib.study import findings

begin(profile)
live = {record.name: record for record in study.run_all([*study.offline_cells(profile).values()])}
records = study.read_all(record) | live
runs = {r.title: findings.Runs(r) for r in records.values()}

# %% [markdown]
# ## How much of the preserved part is found again
#
# A preserved interaction counts as learned as far as another model has it, with the same sign:
#
# $$\text{learned} = \frac{\sum_S [K_{preserve}(S)\, I(S) > 0]\;
#   \min(|K_{preserve}(S)|, |I(S)|)}{\sum_S |K_{preserve}(S)|},$$
#
# where $I$ is the model trained from scratch with as many steps as fine-tuning (*scratch*), one
# trained several times as long (*long scratch*), a second fine-tuned run (*second run*), or scratch
# with its interactions shuffled within sample and order (*chance*).


# %% mystnb={"figure": {"name": "fig-learned", "caption": "Scratch has more than chance of the preserved part in {glue:text}`learned_above` cells. That a second fine-tuned run has more, beyond chance, than scratch and long scratch is confirmed in {glue:text}`learned_second`, contradicted in {glue:text}`learned_below`. Share of the preserved knowledge that other networks have. Whiskers: 95 % intervals."}, "image": {"alt": "For each cell marks on a line: chance, scratch, long scratch where there is one, and second run."}}
def learned(r):
    scratch = r.learned()
    long = {"long scratch": r.learned("long")} if "long" in r.arms else {}
    return (
        {"chance": scratch.chance, "scratch": scratch} | long | {"second run": scratch.second_run}
    )


figure = study_figures.shares(
    {name: learned(r) for name, r in runs.items()}, "share of the preserved strength"
)

# %% tags=["hide-input"]
kinds = {
    "scratch": "The scratch model",
    "chance": "chance",
    "second run": "a second fine-tuned run",
}
low = {kind: sum(learned(r)[kind].value < 0.5 for r in runs.values()) for kind in kinds}
display(
    Markdown(
        f"{kinds['scratch']} has less than half of the preserved part in {low['scratch']} of "
        f"{len(runs)} cells. That alone would seem to confirm the paper. But the same is true of "
        f"{kinds['chance']} in {low['chance']}, and of {kinds['second run']} in {low['second run']}."
    )
)

# %% [markdown]
# ## Is it harder than the rest?
#
# A second fine-tuned run starts from the same weights and resembles the first in *everything*, also
# in what is new. So the control is the same difference for the new part: how much more of $K_{new}$
# has the second fine-tuned run than the scratch run? Preserved knowledge is special only as far as its
# own difference is the larger one. From every share, what chance would give is subtracted first: a network
# with stronger interactions has more of any part, also when they are shuffled.
#
# The verdicts below are stricter than the figures: each takes the smaller of the differences to scratch
# and to long scratch, and its p is corrected for the number of cells.

# %% mystnb={"figure": {"name": "fig-special", "caption": "By the verdicts below, that the preserved part differs by more than the new part is confirmed in {glue:text}`special_above` cells, contradicted in {glue:text}`special_below`. How much more a second fine-tuned run has than a scratch run, both beyond chance: of the preserved part, of the new part, and the difference of the two, paired by sample. Whiskers: 95 % intervals."}, "image": {"alt": "For each cell three marks: preserved, new, and the difference, around a line at zero."}}
differences = {
    name: {
        "preserved part": r.hard["scratch"].preserved.excess,
        "new part": r.hard["scratch"].new.excess,
        "preserved minus new": r.hard["scratch"].special,
    }
    for name, r in runs.items()
}
figure = study_figures.differences(
    differences, "share beyond chance in a second fine-tuned run, minus scratch"
)

# %% tags=["hide-input"]
claims = findings.findings(runs)
hard, harder = (claims[claims["claim"] == c.name] for c in findings.CLAIMS[4:6])
counted = {
    "learned_above": sum(r.learned().verdict == "above chance" for r in runs.values()),
    "learned_second": (hard["verdict"] == "confirmed").sum(),
    "learned_below": (hard["verdict"] == "contradicted").sum(),
    "special_above": (harder["verdict"] == "confirmed").sum(),
    "special_below": (harder["verdict"] == "contradicted").sum(),
}
for key, count in counted.items():
    glue(key, f"{count} of {len(runs)}", display=False)
tables.counts(pd.concat([hard, harder]))

# %% [markdown]
# Every number behind these verdicts stands on the page [Findings](06_findings). A second fine-tuned run starts
# from the same weights, so it also has what is the chance of this one pre-training, which no training from
# scratch could find. [Which pre-training?](12_which_pretraining) asks again with runs from another pre-training.
#
# ## What is reproducible
#
# The same question can be asked of what comes back. The figure shows the {term}`similarity` of scratch and
# fine-tuned runs, over all orders of Walsh coefficients: 0 by chance, 1 for the same knowledge. Beside it
# stands the similarity of probe and fine-tuned runs.


# %% mystnb={"figure": {"name": "fig-scratch-similarity", "caption": "The interval of scratch lies above 0 in {glue:text}`scratch_above` cells, that of the probe in {glue:text}`probe_above`. Similarity with fine-tuned runs of what is reproducible, over all orders. What is not measurable is left out. Whiskers: 95 % intervals over samples."}, "image": {"alt": "For each cell marks for probe, scratch and long scratch."}}
def similarities(r):
    arms = {"linear probe": "probe", "scratch": "scratch", "long scratch": "long"}
    whole = r.moments()
    return {kind: whole.similarity(arm, "finetuned") for kind, arm in arms.items() if arm in r.arms}


found = {name: similarities(r) for name, r in runs.items()}
figure = study_figures.shares(found, "similarity with fine-tuned runs")

# %% tags=["remove-cell"]
for key, kind in (("scratch_above", "scratch"), ("probe_above", "linear probe")):
    above = sum(numbers[kind].low > 0 for numbers in found.values())
    glue(key, f"{above} of {len(found)}", display=False)

# %% [markdown]
# ## Exercises
#
# 1. Why is the share in a second fine-tuned run not 1, although it starts from the same weights?
# 2. What would {numref}`fig-learned` look like if scratch training learned nothing at all?
#
# :::{dropdown} Answers
# 1. Because single runs are noisy: see [Train it twice](02_train_it_twice).
# 2. The marks of scratch and of chance would lie on each other.
# :::
#
# Next: [how fast each gets there](05_how_directly).
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)
