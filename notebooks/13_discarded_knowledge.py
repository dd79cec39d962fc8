# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "What discarded knowledge is good for: corrupted pictures, foreign pictures, the old task."
# ---

# %% [markdown]
# # What is discarded knowledge good for?
#
# **Key points**
#
# - One pre-trained network is fine-tuned for one task at several learning rates and numbers of epochs,
#   each *setting* in several runs. How {term}`similar <similarity>` do the runs stay to the
#   {term}`linear probe`, whose encoder is the pre-trained one?
# - If what was discarded is good for something, settings that keep more should do better at
#   something: the task itself, corrupted pictures, foreign pictures, the old task.
# - Each answer is a rank correlation over settings: something *rises* or *falls*, or it is
#   *undecided*.
#
# *Needs: [What is preserved](03_what_is_preserved).*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/discarding"  # folder of the recorded settings

# %%
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, recorded, study_figures, tables
from pi_lib.study import comparisons, data, findings

begin(profile)

# %%
records = recorded(record)
runs = {name: findings.Runs(r) for name, r in records.items()}
rates, epochs = (
    {name: r.header["settings"][setting] for name, r in records.items()}
    for setting in ("rate", "epochs")
)

# %% [markdown]
# ## The settings
#
# All settings start from the same pre-trained network and see the same training samples. They differ in
# the learning rate and in the number of epochs, and in nothing else.

# %% tags=["hide-input"]
if runs:
    first = next(iter(records.values()))
    settings, header = first.header["settings"], first.header
    guessed = 100 / len(data.classes(header["task"]))
    display(
        Markdown(
            f"**{first.transfer}**: {len(runs)} settings, {settings['runs']} fine-tuned runs each; "
            f"{settings['n_train']:,} training samples and {header['tested']:,} test samples, of "
            f"which guessing would get {guessed:.0f} % right; interactions of {settings['samples']} "
            f"of them, with {first.runs('probe')[0].n} players that cover the picture."
        )
    )

# %% [markdown]
# ## What stays similar
#
# The *similarity* of fine-tuned runs with the linear probe is 0 by chance, and 1 if both reproducibly know
# the same. Of what fine-tuned runs reproducibly know, pre-training *alone* explains a share: the part
# that training from scratch would not have brought. Their *reliability* is how much of a run comes back
# in another.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-kept", "caption": "As the learning rate grows, the similarity with the probe {glue:text}`kept_rate_similarity`, the share from pre-training alone {glue:text}`kept_rate_origins`, and the reliability {glue:text}`kept_rate_reliability`; with more epochs, the similarity {glue:text}`kept_epochs_similarity`, the share {glue:text}`kept_epochs_origins`, and the reliability {glue:text}`kept_epochs_reliability`. A line for each number of epochs. What is not measurable is left out. Whiskers: 95 % intervals over samples."}, "image": {"alt": "Three panels over the learning rate, on a logarithmic axis: similarity with the probe, share from pre-training alone, reliability; a line with whiskers for each number of epochs."}}
measured = pd.concat([comparisons.quantities(runs), comparisons.elsewhere(runs)])
measured["rate"], measured["epochs"] = measured["cell"].map(rates), measured["cell"].map(epochs)
measured["key"] = measured["quantity"] + " of " + measured["of"]
KEPT = "similarity of probe", "origins of pretraining", "reliability of finetuned"
kept = measured[measured["key"].isin(KEPT)]
if runs:
    figure = study_figures.over_settings(kept)

# %% tags=["hide-input"]
trends = {
    "with the learning rate": comparisons.trends(kept, rates),
    "with the number of epochs": comparisons.trends(kept, epochs),
}
for name, trend in zip(("rate", "epochs"), trends.values(), strict=True):
    verdicts = trend.set_index("quantity")["verdict"]
    for quantity in ("similarity", "origins", "reliability"):
        word = verdicts.get(quantity, "not measured")
        glue(f"kept_{name}_{quantity}", tables.trend(word), display=False)
if runs:
    display(Markdown("\n".join(f"- {what}: {tables.in_words(x)}" for what, x in trends.items())))
    display(tables.trends(trends))

# %% [markdown]
# A quantity *rises* or *falls* if the 95 % interval of the rank correlation lies on one side of 0 and its p,
# corrected for the number of rows that a column has (Holm), is below 0.05. If not, it is *undecided*. The
# interval comes from resampling settings, p from permuting them. Each correlation leaves out the settings in
# which its quantity is not measurable.
#
# ## What it might be good for
#
# Each network is tested on the test pictures as they are, and corrupted as shown below. The *old task* is
# that of pre-training. Its pictures are *foreign*: they belong to no class of the new task. AUROC is how often
# a network is more confident of a picture of its task than of a foreign one, 0.5 for guessing. For the old
# task, a linear probe is fitted on the fine-tuned encoder: what a probe on the pre-trained encoder got right
# and this one gets wrong, the encoder has forgotten.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-corruptions", "caption": "Three pictures as they are, with noise, blurred, at low contrast and inverted."}, "image": {"alt": "Three rows of five pictures of clothing; the first of each row is clean, the others are noisy, blurred, pale and inverted."}}
pictures = data.load("fashion-mnist", n_train=20, n_test=20, size=32).test.inputs[:3]
figure = study_figures.corruptions(pictures)

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-uses", "caption": "As the learning rate grows, the accuracy of fine-tuned runs {glue:text}`uses_accuracy`, and that on the old task {glue:text}`uses_source`. A line for each number of epochs. Dashed: the linear probe; dotted: training from scratch, mean over settings. Whiskers: 95 % intervals, of accuracies over test samples, of AUROC over runs."}, "image": {"alt": "Panels over the learning rate: accuracy, accuracy under four corruptions, AUROC and accuracy on the old task; in each a line with whiskers for each number of epochs, a dashed and a dotted line."}}
uses = measured[(measured["of"] == "finetuned") & (measured["quantity"] != "reliability")]
if runs:
    figure = study_figures.over_settings(uses, measured)

# %% [markdown]
# ## Do settings that keep more do better?
#
# A setting that keeps more may merely have learned less. So the correlation with the similarity is given
# once more at *equal accuracy*: what goes with the ranks of the accuracy is taken out of both numbers first
# (a partial rank correlation).

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-trends", "caption": "As the similarity with the probe grows, what a network is good for {glue:text}`trends_similar`; at equal accuracy, it {glue:text}`trends_equal`. Rank correlations over settings, with learning rate, epochs and similarity. Whiskers: 95 % intervals from resampling settings."}, "image": {"alt": "Four panels on one scale from -1 to 1 with a dot and whisker for each use, beside a line at 0."}}
similar, accuracy = (
    measured[measured["key"] == key].set_index("cell")["value"].to_dict()
    for key in ("similarity of probe", "accuracy of finetuned")
)
beyond = uses[uses["quantity"] != "accuracy"]
trends = {
    "with the learning rate": comparisons.trends(uses, rates),
    "with the number of epochs": comparisons.trends(uses, epochs),
    "with the similarity": comparisons.trends(uses, similar),
    "with the similarity, at equal accuracy": comparisons.trends(beyond, similar, accuracy),
}
verdicts = trends["with the learning rate"].set_index("quantity")["verdict"]
for quantity in ("accuracy", "source"):
    word = verdicts.get(quantity, "not measured")
    glue(f"uses_{quantity}", tables.trend(word), display=False)
at_equal_accuracy = trends["with the similarity, at equal accuracy"]
glue("trends_similar", tables.in_counts(trends["with the similarity"]), display=False)
glue("trends_equal", tables.in_counts(at_equal_accuracy), display=False)
if runs:
    figure = study_figures.differences(tables.by_quantity(trends), "rank correlation over settings")

# %% tags=["hide-input"]
if runs:
    display(Markdown("\n".join(f"- {what}: {tables.in_words(x)}" for what, x in trends.items())))
    display(tables.trends(trends))

# %% [markdown]
# ## What it means

# %% tags=["hide-input"]
SAYS = {
    "rises": "settings that keep more do better at: {}",
    "falls": "settings that keep more do worse at: {}",
    "undecided": "it is undecided whether settings that keep more do better at: {}",
    "not measurable": "not measurable: {}",
}
answers = [
    SAYS[verdict].format(", ".join(tables.quantities(rows)))
    for verdict, rows in at_equal_accuracy.groupby("verdict", sort=False)
]
if runs:
    best = uses[uses["quantity"] == "accuracy"].set_index("cell")["value"].idxmax()
    similarity = runs[best].moments().similarity("probe", "finetuned")
    display(
        Markdown(
            f"At equal accuracy, {'; '.join(answers)}. The most accurate setting is learning rate "
            f"{rates[best]:g} with {epochs[best]} epochs: accuracy "
            f"{records[best].accuracy('finetuned')}, similarity {similarity}."
        )
    )

# %% [markdown]
# Settings share their data and their pre-training: they describe one transfer of one small network, and a
# correlation over them is no cause. The corruptions have one strength each, and foreign pictures are of
# one kind, which the network has seen before.
#
# So far every network named what is on a picture. Next: [the same questions](14_other_tasks) of networks
# that also have to say where it is.
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
if runs:
    words = [f"learning rate {rates[name]:g}, {epochs[name]} epochs" for name in records]
    same, rest = tables.alike(tables.provenance(records).set_axis(words))
    display(Markdown(f"Of all settings: {same}."), rest)

# %% [markdown]
# To compute them again, with a folder of data as [](../data) describes it:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/discarding.yml \
#         --record notebooks/recorded/discarding
