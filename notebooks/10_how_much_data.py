# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "From how many labels on pre-training is unnecessary."
# ---

# %% [markdown]
# # How much data makes pre-training unnecessary?
#
# **Key points**
#
# - One network and one task, with ever more labels: fine-tuned from pre-trained weights, and trained
#   from {term}`scratch`, each in several {term}`runs <run>`. The page says from how many labels on the
#   gain in accuracy stays below a margin.
# - Beside the accuracies stand how similar scratch and fine-tuned runs are in what is reproducible
#   (their {term}`similarity`), and where the knowledge of fine-tuned runs comes from (its
#   {term}`origins`).
# - A quantity *rises* or *falls* with the labels if its rank correlation with their number can be told
#   from 0. If not, it is *undecided*.
#
# *Needs: [Train it twice](02_train_it_twice), [What scratch learns](04_what_scratch_learns).*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/data_size"  # records that differ in the number of labels
margin = 0.02  # gain in accuracy below which pre-training is unnecessary

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, by, recorded, study_figures, tables
from pi_lib.study import comparisons, findings
from pi_lib.study.across_cells import crossing

begin(profile)

# %%
records = by(recorded(record), lambda r: r.header["settings"]["n_train"])
runs = {labels: findings.Runs(r) for labels, r in records.items()}

# %% [markdown]
# ## The setting
#
# Training sets are balanced over the classes and nested: the larger contain the smaller. A small one
# is gone through in more epochs than a large one, in fine-tuning and in training from scratch alike.
# All networks are asked about the same test samples, with {term}`players <player>` that cover the
# whole picture.

# %% tags=["hide-input"]
if records:
    fewest, most = min(records), max(records)
    display(Markdown(f"**{records[most].transfer}.** Pre-training:"))
    display(tables.pretraining({"": records[most]}).set_index("network").rename_axis(None))
    same, table = tables.alike(tables.settings(records).set_index("training samples"))
    display(
        Markdown(
            f"Fine-tuning and training from scratch, with all numbers of labels ({same}). "
            + tables.guessing([records[most]])
        )
    )
    display(table.rename_axis(index=None, columns="labels"))

# %% [markdown]
# ## Accuracy and knowledge
#
# A similarity of 0 is what chance gives; at 1, two {term}`arms <arm>` reproducibly know the same,
# whatever their accuracies. The {term}`origins` divide what fine-tuned runs reproducibly know into what
# the {term}`linear probe` explains alone, what scratch runs explain alone, what both do, and what
# neither does. Noise may take a similarity above 1, or a share below 0. Where the runs of an arm share
# nothing that can be told from 0, both are *not measurable*.

# %% mystnb={"figure": {"name": "fig-labels", "caption": "Over numbers of labels, pre-training {glue:text}`labels_helps`. With more labels, the gain in accuracy over scratch {glue:text}`labels_gain`, and the similarity of scratch and fine-tuned runs {glue:text}`labels_similarity`. Panels: test accuracy, gain, similarity with fine-tuned runs, and where their reproducible knowledge comes from. Whiskers: 95 % intervals over test samples. Each panel has a scale of its own; what is not measurable is left out."}, "image": {"alt": "Four panels over the number of labels, on a logarithmic axis, with whiskers at every number and the name of each line at its end."}}
measured = comparisons.quantities(runs)
if runs:
    by_labels = measured.assign(x=measured["cell"])
    figure = study_figures.over(by_labels, "labels", log=True, margin=margin)

# %% [markdown]
# The numbers behind the figure:

# %% tags=["hide-cell"]
if runs:
    named = measured.assign(name=tables.quantities(measured))
    display(tables.estimates(named, index="name", columns="cell"))

# %% [markdown]
# ## From how many labels on?
#
# The gain is interpolated between the numbers of labels, on the logarithmic axis. The interval comes
# from drawing each gain anew within its own interval, as if the gains were independent. They are not
# quite: they share their test samples.


# %% tags=["hide-input"]
def labels(count):
    if count > most:
        return f"more than {most:,}"
    return f"{count:,.0f}" if count > fewest else f"{fewest:,} or fewer"


def stays_below(end, gain):
    between = f"95 % interval: from {labels(end.low)} to {labels(end.high)} labels"
    if end.value <= most:
        return f"The gain stays below {margin:g} from {labels(end.value)} labels on ({between})."
    return (
        f"Up to {most:,} labels, the most that were tried, the gain does not stay below {margin:g} "
        f"({between}). There it is {gain}."
    )


gains = comparisons.gains(runs)
glue("labels_helps", tables.in_counts(gains), display=False)
if runs:
    end = crossing([*runs], [*gains["tested"]], margin)
    display(Markdown(stays_below(end, gains["tested"].iloc[-1])))
    display(Markdown(f"Pre-training, by number of labels: {tables.in_words(gains)}."))
    table = tables.judged(gains, tested="gain in accuracy over scratch")
    display(table.rename_axis(columns="labels"))

# %% [markdown]
# Pre-training *helps*, or *hurts*, if the 95 % interval of the gain lies on one side of 0 and its p,
# corrected for the number of rows of the table (Holm), is below 0.05. If not, it is *undecided*. Every
# verdict of this page is made so.
#
# ## What more labels change
#
# Scratch runs may become as accurate by other knowledge. If with more labels they came to know what
# fine-tuned runs know, their similarity would rise, and the share from pre-training alone would fall.

# %% tags=["hide-input"]
of_gain = measured["quantity"] == "gain"  # a question of its own: not about knowledge
of_knowledge = measured["quantity"].isin(["similarity", "origins"])
trends = pd.concat(
    comparisons.trends(measured[part], {n: n for n in runs}) for part in (of_gain, of_knowledge)
)
if runs:
    display(Markdown(f"With more labels: {tables.in_words(trends)}."))
    columns = {"first": "fewest labels", "last": "most labels", "tested": "rank correlation"}
    if trends["cells"].nunique() > 1:
        columns["cells"] = "numbers of labels"
    display(tables.judged(trends, **columns))

# %% [markdown]
# The columns *fewest labels* and *most labels* have the quantity at the smallest and the largest number of
# labels with which it is measurable. The intervals of the rank correlations come from resampling the
# numbers of labels. For the gain p is not corrected; for the other rows it is, all together.

# %% tags=["hide-input"]
CATCHES_UP = {
    "rises": "with more labels, scratch and fine-tuned runs have more of their knowledge in common",
    "falls": "with more labels, scratch and fine-tuned runs have less of their knowledge in common",
    "undecided": "it is undecided whether they have more in common with more labels",
}
verdicts = trends.set_index(["quantity", "of"])["verdict"]
for quantity in ("gain", "similarity"):
    word = verdicts.get((quantity, "scratch"), "not measured")
    glue(f"labels_{quantity}", tables.trend(word), display=False)
if runs:
    word = verdicts["similarity", "scratch"]
    answer = CATCHES_UP.get(word, f"what they have in common is {word}")
    display(Markdown(f"Does scratch catch up with the knowledge too? By the similarity, {answer}."))

# %% [markdown]
# ## What this rests on
#
# One small network, one task and one pre-training. With the number of labels, the epochs and the number
# of steps change too. Scratch runs have as many steps as fine-tuned runs; trained longer, they may come
# closer. The intervals of single numbers are over test samples, for the
# runs that there are; other runs may differ by more. The shares *alone* are squares, never below 0:
# where they are small, noise makes them rather too large. With another network, pre-training or task
# the gain becomes small at another number of labels. To compute this grid again, or one of your own:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/data_size.yml \
#         --record notebooks/recorded/data_size
#
# The next two chapters keep the number of labels, and change the pre-training: first the data,
# [How far may the domains be apart?](11_how_far_apart), then what is learned from them.
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
if records:
    display(tables.provenance(records))
