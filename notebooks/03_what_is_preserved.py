# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is preserved
#
# **Key points**
#
# - Three models share one architecture and one task: a {term}`linear probe` on the frozen
#   pre-trained encoder, the fine-tuned model, and a model trained from scratch.
# - Each {term}`interaction` of the probe and of the fine-tuned model is split into a *preserved*, a
#   *discarded* and a *new* part.
# - The paper claims that fine-tuning preserves only a small part, discards most of the complex
#   knowledge, and learns much that is new and complex. This chapter checks each on our data.
#
# *Needs: [What an interaction is](01_what_is_an_interaction). Ten minutes to read; several minutes
# to run the first time, since three networks are trained for each of two tasks.*

# %% tags=["parameters"]
profile = "quick"
seed = 0
tau = 0.05

# %%
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import figures
from pi_lib.book.explorers import explore

figures.style()
cells = study.offline_cells(profile, seed)

# %% [markdown]
# ## Three models, two tasks
#
# Images: EfficientNet-Lite0 with ImageNet weights, on Fashion-MNIST with few labels. Sentences:
# MiniLM, a six-layer BERT that was distilled and then tuned contrastively on sentence pairs, on
# film-review sentences. Fine-tuned and scratch see the same batches in the same order under the
# same schedule; each phase has its own learning rate, the best of those tried on a
# validation split.

# %%
results = dict(zip(cells, study.run_all(list(cells.values())), strict=True))

# %% tags=["hide-input"]
pd.DataFrame(
    {
        name: {
            "samples for interactions": len(result.probe.final),
            "classes among them": len(set(result.probe.final.labels)),
            "skipped, too few players": result.probe.final.meta["skipped"],
            "players": result.probe.final.n,
        }
        | {
            f"test accuracy, {figures.NAMES[p]}": str(getattr(result, p).accuracy)
            for p in study.PHASES
        }
        | {
            f"learning rate, {figures.NAMES[p]}": f"{getattr(result, p).settings['learning_rate']:g}"
            for p in study.PHASES
        }
        for name, result in results.items()
    }
)

# %% [markdown]
# Accuracies are on held-out data, with 95 % Wilson intervals. Everything that follows compares the
# interactions of these models on the same samples, with the same players.
#
# ## Preserved, discarded, new
#
# Let $I_{pre}(S)$ be an interaction of the probe (what the *pre-trained* features say about the
# task) and $I_{ft}(S)$ that of the fine-tuned model, each divided by its model's mean
# $|v(N) - v(\emptyset)|$, and set to zero unless it is {term}`salient`. Where the two have the same
# sign,
#
# $$K_{preserve}(S) = \operatorname{sign}(I_{ft}) \min(|I_{pre}|, |I_{ft}|),$$
#
# and 0 elsewhere; $K_{discard} = I_{pre} - K_{preserve}$ and $K_{new} = I_{ft} - K_{preserve}$
# {cite}`jiang2024`.

# %% mystnb={"figure": {"name": "fig-knowledge", "caption": "Preserved, discarded and new knowledge by order. Whiskers: 95 % bootstrap intervals over samples."}, "image": {"alt": "Grouped bars per order in two panels, images and sentences."}}
knowledge = {
    name: pi.compare(result.probe.final, result.finetuned.final, tau=tau)
    for name, result in results.items()
}
figure = figures.knowledge(knowledge)

# %% [markdown]
# {numref}`fig-knowledge` shows the strength by {term}`order`, the mean over samples of
# $\sum_{|S|=m} |K(S)|$. The grey and blue bars together are the probe's strength, the orange and
# blue bars together the fine-tuned model's.
#
# ### Claim 1: only a small part is preserved
#
# The paper's sentence is qualitative. We read "a small part" as less than half of the pre-trained
# strength, and say what the interval allows.

# %% tags=["hide-input"]
WORDS = {"below": "**confirmed**", "above": "**contradicted**", "undecided": "**undecided**"}
lines = []
for name, one in knowledge.items():
    share = one.preserved_share()
    lines.append(
        f"- {name}: preserved share {share}; less than half: {WORDS[share.compared_with(0.5)]}"
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ### Claim 2: complex knowledge is discarded most
#
# If so, the preserved share falls with the order.

# %% mystnb={"figure": {"name": "fig-share", "caption": "Share of the pre-trained strength that fine-tuning preserved, within each order. Bands: 95 % bootstrap intervals."}, "image": {"alt": "Line charts of the preserved share against the order, in two panels."}}
figure = figures.preserved_share(knowledge)

# %% [markdown]
# In one number: the difference between the mean order of what is discarded and of what is preserved
# (weighted by strength). The claim says that it is positive.

# %% tags=["hide-input"]
FLIPPED = {"above": "**confirmed**", "below": "**contradicted**", "undecided": "**undecided**"}
lines = []
for name, one in knowledge.items():
    gap = one.order_gap("discarded", "preserved")
    lines.append(
        f"- {name}: mean order discarded {one.mean_order('discarded')}, preserved "
        f"{one.mean_order('preserved')}; difference {gap}: {FLIPPED[gap.compared_with(0)]}"
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ### Claim 3: much that is new is learned, and it is complex
#
# Two numbers: the share of the fine-tuned model's strength that is new ("much" read as more than
# half), and whether what is new is of higher order than what is preserved.

# %% tags=["hide-input"]
lines = []
for name, one in knowledge.items():
    share, gap = one.new_share(), one.order_gap("new", "preserved")
    lines.append(
        f"- {name}: new share {share}, more than half: {FLIPPED[share.compared_with(0.5)]}; mean "
        f"order new minus preserved {gap}: {FLIPPED[gap.compared_with(0)]}"
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Does the threshold decide the answer?
#
# The paper does not state its threshold of salience. Here is the preserved share for others; 0
# keeps every interaction. The choice is one of those listed in [Choices](../choices).

# %% tags=["hide-input"]
pd.DataFrame(
    {
        name: {
            f"tau = {t}": str(
                pi.compare(result.probe.final, result.finetuned.final, tau=t).preserved_share()
            )
            for t in (0.0, 0.02, 0.05, 0.1, 0.2)
        }
        for name, result in results.items()
    }
)

# %% [markdown]
# The bars of {numref}`fig-knowledge` under each of these thresholds:


# %%
def at_threshold(threshold):
    return figures.knowledge(
        {
            name: pi.compare(result.probe.final, result.finetuned.final, tau=threshold)
            for name, result in results.items()
        }
    )


explore(
    at_threshold,
    alt="Preserved, discarded and new knowledge by order, images beside sentences",
    start={"threshold": tau},
    threshold=sorted({0.0, 0.02, 0.05, 0.1, 0.2, tau}),
)

# %% [markdown]
# ## What to keep in mind
#
# One seed, few samples: the intervals are over samples only, and another seed may shift all of a
# panel. The probe sees the pre-trained features through a linear head trained on the downstream
# labels, so "pre-trained knowledge" is always knowledge *for this task*.
#
# ## Where these numbers come from

# %% tags=["hide-input"]
pd.concat({name: result.provenance() for name, result in results.items()})
