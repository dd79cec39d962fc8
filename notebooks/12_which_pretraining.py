# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which pre-training?
#
# **Key points**
#
# - One network, the same pictures of CIFAR-10, and three things to learn from them: to name them
#   (supervised), to recognise a picture among others after it was cropped and mirrored (contrastive,
#   without labels), and to name them under attack (adversarial).
# - Fine-tuned on the same small tasks, the three are held against each other: accuracy, gain over
#   scratch, and what of their knowledge is preserved.
#
# *Needs: [What is preserved](03_what_is_preserved) for what is measured. Four minutes to read,
# seconds to run: the numbers were recorded beforehand.*
#
# :::{warning}
# The numbers of this chapter were recorded by an earlier form of the study: one run of each arm and
# seed, and each seed on samples of its own. There is no second run in them, so what chance gives, and
# what would come back, cannot be said ([Train it twice](02_train_it_twice)). Read its shares of
# interactions as descriptions, not as findings. Accuracies and gains stand as they are.
# :::

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/pretraining.parquet"

# %%
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin, figures
from pi_lib.objectives import OBJECTIVES
from pi_lib.study import single_runs

begin(profile)
table, about = single_runs.recorded(record)
kind = single_runs.objective(table)
numbers = {
    task: pd.concat(
        [
            single_runs.summary(rows).set_axis([name])
            for name, rows in part.groupby(kind[part.index], sort=False)
        ]
    )
    for task, part in table.groupby("task", sort=False)
}

# %% [markdown]
# ## The three
#
# *Supervised* is cross-entropy. *Contrastive* is SimCLR {cite}`chen2020` on the encoder's own features,
# without a projection head. *Adversarial* is cross-entropy at the worst picture that one gradient step
# finds within 4/255 of each pixel {cite}`wong2020`. Pictures, network, passes and optimiser are the
# same; only the loss differs (`pi_lib.objectives`).

# %% tags=["hide-input"]
for task, frame in numbers.items():
    settings = about["cells"][0]["settings"]
    display(Markdown(f"**{task}**, {settings['n_train']} training samples:"))
    display(frame.T.map(str))

# %% mystnb={"figure": {"name": "fig-pretraining", "caption": "The knowledge before and after fine-tuning, a row per task and kind of pre-training: what was preserved and discarded, what is new, and how much of the preserved part scratch training learned."}, "image": {"alt": "Three panels of horizontal bars, one row per task and kind of pre-training."}}
figure = figures.kept(table.assign(changes=""))

# %% [markdown]
# ## Which is better?
#
# Supervised pre-training against the two others, on the same test samples and seeds. A difference of
# accuracies has its normal interval; of preserved shares, it comes from resampling the explained
# samples, which are the same for all three.


# %% tags=["hide-input"]
def accuracy_gap(task, name):
    """Accuracy after fine-tuning, one kind minus supervised."""
    of = {one: table[(table["task"] == task) & (kind == one)] for one in (name, "supervised")}
    return single_runs.difference(
        *single_runs.correct(of[name], "finetuned"),
        *single_runs.correct(of["supervised"], "finetuned"),
    )


def preserved_gap(task, name):
    """Preserved share, one kind minus supervised, over the same samples."""
    rows = table[(table["task"] == task) & (table["quantity"] == "preserved")]
    sums = [
        rows[kind[rows.index] == one]
        .groupby(["seed", "sample"])[["numerator", "denominator"]]
        .sum()
        for one in (name, "supervised")
    ]

    def difference(a, b, c, d, axis=-1):
        return a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis)

    return pi.bootstrap(*sums[0].to_numpy().T, *sums[1].to_numpy().T, statistic=difference)


others = [name for name in OBJECTIVES if name != "supervised"]
gaps = pd.DataFrame(
    {
        "task": task,
        "pre-training": name,
        "accuracy, minus supervised": accuracy_gap(task, name),
        "preserved share, minus supervised": preserved_gap(task, name),
    }
    for task in numbers
    for name in others
).set_index(["task", "pre-training"])
gaps.map(str)

# %% tags=["hide-input"]
MORE = {"above": "**more**", "below": "**less**", "undecided": "**not decidedly more or less**"}
BETTER = {
    "above": "**better**",
    "below": "**worse**",
    "undecided": "**not decidedly better or worse**",
}
lines = [
    f"- {task}, {name}: {BETTER[row.iloc[0].compared_with(0)]} than supervised ({row.iloc[0]}), and "
    f"{MORE[row.iloc[1].compared_with(0)]} of it is preserved ({row.iloc[1]})."
    for (task, name), row in gaps.iterrows()
]
display(Markdown("\n".join(lines)))

# %% tags=["hide-input"]
advice = []
for name in others:
    sides = [row.iloc[0].compared_with(0) for (_, one), row in gaps.iterrows() if one == name]
    gains = [numbers[task].loc[name, "gain over scratch"] for task in numbers]
    helps = sum(gain.compared_with(0) == "above" for gain in gains)
    advice.append(
        f"- *{name}*: better than supervised in {sides.count('above')}, worse in {sides.count('below')} of "
        f"{len(sides)} tasks; better than no pre-training in {helps}. "
        + (
            "Take it."
            if sides.count("above") > sides.count("below")
            else "Where labels are at hand, pre-train with them; it is of use where they are not."
            if name == "contrastive" and helps
            else "Do not pay for it in the hope of a better transfer."
        )
    )
display(Markdown("In practice:\n\n" + "\n".join(advice)))

# %% [markdown]
# ## What this rests on
#
# A small network, few passes over a few thousand pictures: contrastive pre-training is known to need
# far more of both than supervised, so its number here is a lower end. Weights of your own, such as
# DINO's for a vision transformer, are read from a folder by `backbones.build("vit-small", ...)`, as
# [](../data) says, and go through the same study. The same cells with several runs,
# as records of games:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/pretraining.yml \
#         --record FOLDER_OF_RECORDS
