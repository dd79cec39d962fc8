# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "How much of the pre-trained knowledge fine-tuning preserves, and how much of that is chance."
# ---

# %% [markdown]
# # What is preserved
#
# **Key points**
#
# - Three models share one architecture and one task: a {term}`linear probe` on the frozen
#   pre-trained encoder, the fine-tuned model, and a model trained from scratch.
# - The paper splits their {term}`interactions <interaction>` into a *preserved*, a *discarded* and a
#   *new* part, and claims that little is preserved, and that complex knowledge goes first.
# - Beside each of its shares stand here what shuffled interactions would give, and what a second
#   fine-tuned run gives. Then the same question is asked of what is reproducible.
#
# *Needs: [What an interaction is](01_what_is_an_interaction), [Train it twice](02_train_it_twice).*

# %% tags=["parameters"]
profile = "quick"  # of the two cells that this book trains itself: smoke, quick, reduced or full
record = "recorded/paper"  # folder of the recorded cells
examples = "recorded/hero"  # photograph and sentence of the explorer, credits, records
tau = 0.05  # threshold of salience, a fraction of a sample's strongest interaction

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, figures, hero, study_figures, tables
from pi_lib.book.explorers import explore, explore_transfer
from pi_lib.study import findings

begin(profile)
live = {record.name: record for record in study.run_all([*study.offline_cells(profile).values()])}
records = study.read_all(record) | live
runs = {r.title: findings.Runs(r, tau=tau) for r in records.values()}

# %% [markdown]
# ## The cells
#
# Each cell is a pre-trained network and a new task. The book trains two of them itself; the others
# were recorded beforehand. Within a cell all runs see the same training samples under the same
# schedule, and all are asked about the same test samples with the same players.

# %% tags=["hide-input"]
tables.settings(records)

# %% [markdown]
# ## Preserved, discarded, new
#
# Let $I_{pre}(S)$ be an interaction of the probe, and $I_{ft}(S)$ that of the fine-tuned model, each
# divided by its model's mean $|v(N) - v(\emptyset)|$, and set to zero unless it is {term}`salient`.
# Where the two have the same sign,
#
# $$K_{preserve}(S) = \operatorname{sign}(I_{ft}) \min(|I_{pre}|, |I_{ft}|),$$
#
# and 0 elsewhere; $K_{discard} = I_{pre} - K_{preserve}$ and $K_{new} = I_{ft} - K_{preserve}$
# {cite}`jiang2024`.

# %% mystnb={"figure": {"name": "fig-knowledge", "caption": "Of the probe's strength, {glue:text}`kept_live` is preserved in the first run of the cells that this book trains. Preserved, discarded and new knowledge by order. Strengths add up the sizes of effects of both signs, which cancel in the output: so their sum may be many times the change of the output, which is the unit. Whiskers: 95 % intervals over samples. The scales of the panels differ."}, "image": {"alt": "Grouped bars of preserved, discarded and new strength per order, in a panel for images and a panel for sentences."}}
first = {r.title: runs[r.title].knowledge for r in live.values()}
figure = figures.knowledge(first)
kept = [known.preserved_share().value for known in first.values()]
glue("kept_live", tables.spans(kept), display=False)

# %% [markdown]
# In {numref}`fig-knowledge`, the grey and blue bars together are the probe's strength, the orange and
# blue bars together the fine-tuned model's. Most blue bars are small, as the paper says. But what
# would two networks show that share nothing?
#
# ## The same share by chance, and in a second run
#
# *Chance* shuffles the fine-tuned model's interactions within each sample and order, positions and
# signs: their strength stays, and whatever they shared with the probe is gone. *Second run* is how
# much of one fine-tuned run is preserved in another, from the same weights.


# %% mystnb={"figure": {"name": "fig-preserved", "caption": "The observed share is above chance in {glue:text}`preserved_above` cells. Share of the probe's strength that is found in the fine-tuned model, beside what shuffled interactions give (chance), and the share of one fine-tuned run found in another (second run). Whiskers: 95 % intervals."}, "image": {"alt": "For each cell three marks on a line: observed, chance, second run."}}
def beside(share):
    return {"observed": share, "chance": share.chance, "second run": share.second_run}


label = "share of the strength that is found again"
figure = study_figures.shares({name: beside(r.preserved) for name, r in runs.items()}, label)

# %% tags=["hide-input"]
shares = [r.preserved for r in runs.values()]
above = sum(share.verdict == "above chance" for share in shares)
glue("preserved_above", f"{above} of {len(shares)}", display=False)
half = sum(share.chance.high < 0.5 and share.second_run.high < 0.5 for share in shares)
display(
    Markdown(
        f"In {above} of {len(shares)} cells the observed share is above chance. The share of one "
        f"fine-tuned run that another has is {tables.spans(s.second_run.value for s in shares)}. *Less "
        f"than half is preserved* would be confirmed by chance and by a second run as well in {half} of "
        f"{len(shares)} cells: alone, it says nothing about pre-training."
    )
)

# %% [markdown]
# ## One input, before and after
#
# A share is a mean over many inputs. Here are the two inputs of the front page, group by group. The
# effect of a group is its Walsh coefficient: how it changes the output on average over what else is
# visible. A group is *kept* if the probe and the fine-tuned run have it with the same sign, *lost* if
# the probe alone has it, *new* if the run alone has it; to have it is to reach a tenth of the
# strength of the strongest. Choose one run, then the next: many groups come and go. Then choose all
# runs: *kept* and *new* is now only what every run has, and *lost* what no run has.

# %% tags=["hide-input"]
example = hero.examples(examples)
explore_transfer(example)

# %% tags=["remove-input"]
display(Markdown(hero.credits(example)))

# %% [markdown]
# ## What is reproducible in both
#
# The {term}`similarity` of what is reproducible has no such floor. Its square is the share of one
# arm's reproducible knowledge that the other explains: 0 by chance, 1 if both know the same.

# %% tags=["hide-input"]
orders = pd.concat(r.similarities().assign(cell=name) for name, r in runs.items())
orders = orders[(orders["arm"] == "probe") & (orders["orders"] != "1-3")]
above_0 = (orders[orders["orders"] == "all"]["low"] > 0).sum()
glue("similar_above", f"{above_0} of {len(runs)}", display=False)

# %% mystnb={"figure": {"name": "fig-similarity", "caption": "Over all orders, the interval lies above 0 in {glue:text}`similar_above` cells. Similarity of what is reproducible in the probe and in fine-tuned runs, in Walsh coefficients, by order. What is not measurable is left out. Whiskers: 95 % intervals over samples."}, "image": {"alt": "A panel per cell with a mark for each order and one for all orders; where an order is not measurable, there is no mark."}}
shown = orders.assign(panel=orders["cell"], name="probe and fine-tuned runs")
figure = study_figures.by_order(shown, "similarity of probe and fine-tuned")

# %% [markdown]
# ## The claims
#
# The paper makes four claims: little is preserved; complex knowledge is discarded most; much is new;
# what is new is complex. What fine-tuned runs reproducibly know is either in the probe or new. So the
# first and the third claim rest on one number, the square of the similarity, which is held against a half.
# It is of one pre-training, whose own chance counts as knowledge of the probe and makes the number smaller:
# [Which pre-training?](12_which_pretraining) says by how much, and judges the claims over several pre-trainings.
# The table says in how many cells each claim holds. The numbers behind it, cell by cell, stand on the page
# [Findings](06_findings).

# %% tags=["hide-input"]
claims = findings.findings(runs)
four = [claim.name for claim in findings.CLAIMS[:4]]
tables.counts(claims[claims["claim"].isin(four)])

# %% [markdown]
# ## Does the threshold decide the answer?
#
# The paper does not state its threshold of salience. Move it: observed share and chance move
# together. The choice is one of those listed in [Choices](../choices).


# %%
def at_threshold(threshold):
    again = {name: findings.Runs(r.record, tau=threshold).preserved for name, r in runs.items()}
    return study_figures.shares({name: beside(x) for name, x in again.items()}, label)


explore(
    at_threshold,
    alt="Observed share, chance and second run in each cell",
    start={"threshold": tau},
    threshold=sorted({0.0, 0.05, 0.2, tau}),
)

# %% [markdown]
# ## What to keep in mind
#
# The probe sees the pre-trained features through a linear head that is fitted to the downstream
# labels, so "pre-trained knowledge" is always knowledge *for this task*. Players are a few patches
# or words of an input; the others stay visible ([Choices](../choices)).

# %% tags=["remove-cell"]
glue("chance", tables.spans(share.chance.value for share in shares), display=False)
glue("second", tables.spans(share.second_run.value for share in shares), display=False)

# %% [markdown]
# ## Exercises
#
# 1. Two networks know nothing in common. Is the preserved share between them 0?
# 2. A paper reports that 25 % of the pre-trained knowledge is preserved. Which two numbers do you ask
#    for?
# 3. Why does the similarity need at least two fine-tuned runs, and the preserved share only one?
#
# :::{dropdown} Answers
# 1. No. Wherever two interactions happen to have the same sign, the smaller of them counts as shared:
#    in the cells above, shuffled interactions give {glue:text}`chance`.
# 2. What shuffled interactions give, and what a second run of the same fine-tuning gives; the latter is
#    {glue:text}`second` here, although such a run has learned the same.
# 3. The similarity divides by what comes back in another run. One run does not show what would.
# :::
#
# Next: [could the preserved part have been learned without pre-training?](04_what_scratch_learns)
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance(records)
