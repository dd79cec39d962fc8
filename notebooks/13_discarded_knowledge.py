# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is discarded knowledge good for?
#
# **Key points**
#
# - Fine-tuning discards part of what the network knew. Whether learning rate and number of passes
#   decide how much is measured.
# - Corrupted pictures and pictures of other things are what the discarded part might have been good
#   for. Networks that discarded more are held against networks that discarded less.
# - Some orders speak for the true class, in others the interactions cancel each other: a number says
#   which.
#
# *Needs: [What is preserved](03_what_is_preserved) for what is measured. Five minutes to read, seconds
# to run: the networks were trained and tested beforehand.*
#
# :::{warning}
# The numbers of this chapter were recorded by an earlier form of the study: one run of each arm and
# seed, and each seed on samples of its own. There is no second run in them, so what chance gives, and
# what would come back, cannot be said ([Train it twice](02_train_it_twice)). Read its shares of
# interactions as descriptions, not as findings. Accuracies and gains stand as they are.
# :::

# %% tags=["parameters"]
profile = "quick"
seed = 0
record = "recorded/discarding.parquet"
tests = "recorded/discarding_tests.parquet"  # accuracies on other pictures, of the same networks
within = 0.1  # of the best accuracy: settings below count as hardly trained

# %%
import pandas as pd
import torch
from IPython.display import HTML, Markdown, display
from torchvision.transforms import functional as pictures

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, figures
from pi_lib.statistics import ratio_of_sums
from pi_lib.study import findings, single_runs

begin(profile)

# %% [markdown]
# ## Pictures unlike those of the training set
#
# Each network is tested on its own test pictures, clean and corrupted in four ways, and asked how
# sure it is of pictures that belong to none of its classes. The last is a number between 0 and 1: how
# often it is surer of a picture of the task than of a foreign one, with 0.5 for guessing.


# %%
def noisy(x):
    generator = torch.Generator().manual_seed(0)
    return (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


CORRUPTED = {
    "noise": noisy,
    "blur": lambda x: pictures.gaussian_blur(x, 7, 2.0),
    "low contrast": lambda x: 0.5 + 0.3 * (x - 0.5),
    "inverted": lambda x: 1 - x,
}

table, about = single_runs.recorded(record)
scores = pd.read_parquet(tests)
settings = {cell["name"].split(", ", 1)[1]: cell["changes"] for cell in about["cells"]}

# %% [markdown]
# ## How much is discarded
#
# One transfer, fine-tuned with every pair of learning rate and passes over the data:

# %% tags=["hide-input"]
numbers = {
    changes: single_runs.summary(rows).iloc[0]
    for changes, rows in table.groupby("changes", sort=False)
}
frame = pd.DataFrame(numbers).T
for name in ("rate", "epochs"):
    frame[name] = [settings[changes][name] for changes in frame.index]
frame["shown"] = [
    f"{one.preserved}<br>accuracy {one['accuracy finetuned']}" for _, one in frame.iterrows()
]
shown = frame.pivot(index="rate", columns="epochs", values="shown")
shown.index.name, shown.columns.name = "learning rate", "passes"
display(Markdown(f"Preserved share and test accuracy, {about['cells'][0]['name'].split(',')[0]}:"))
display(HTML(shown.to_html(escape=False)))

# %% tags=["hide-input"]
WORDS = {"above": "**rises**", "below": "**falls**", "undecided": "**neither** rises nor falls"}
values = frame["preserved"].map(lambda estimate: estimate.value)
lines = []
for name, what in (("rate", "learning rate"), ("epochs", "number of passes")):
    rho = single_runs.rank_correlation(frame[name].astype(float), values)
    lines.append(
        f"- with the {what} the preserved share {WORDS[rho.compared_with(0)]}: rank correlation {rho} over "
        f"{len(frame)} settings."
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## Does discarding cost robustness?
#
# Of each setting, all seeds together: the accuracy that is left under a corruption, as a share of the
# accuracy on clean pictures, and the caution on foreign ones, against the preserved share.


# %% tags=["hide-input"]
def ratio(rows, kind):
    """Share of the clean accuracy that is left, resampling networks."""
    return pi.bootstrap(rows[kind].to_numpy(), rows["clean"].to_numpy(), statistic=ratio_of_sums)


for kind in CORRUPTED:
    frame[f"left under {kind}"] = [ratio(scores[scores["changes"] == c], kind) for c in frame.index]
frame["surer of its own"] = [
    pi.bootstrap(scores.loc[scores["changes"] == c, "foreign"].to_numpy()) for c in frame.index
]
kinds = [*(f"left under {kind}" for kind in CORRUPTED), "surer of its own"]
frame.index = [
    f"rate {rate:g}, {epochs} passes"
    for rate, epochs in zip(frame["rate"], frame["epochs"], strict=True)
]
accuracies = frame["accuracy finetuned"].map(lambda estimate: estimate.value)
trained = frame[accuracies > accuracies.max() - within]
frame[kinds].map(str)

# %% mystnb={"figure": {"name": "fig-discarding", "caption": "Preserved share against accuracy, what is left of it under noise and blur, and caution on foreign pictures; a mark per learning rate and number of passes, with 95 % intervals."}, "image": {"alt": "Four scatter plots with one mark per setting of fine-tuning."}}
figure = figures.over_cells(
    frame,
    "preserved",
    ["accuracy finetuned", "left under noise", "left under blur", "surer of its own"],
)

# %% tags=["hide-input"]
SAYS = {
    "above": "networks that preserved more keep **more**: discarding costs",
    "below": "networks that preserved more keep **less**: discarding pays",
    "undecided": "**undecided**",
}
lines = []
told = {}
for kind in ("accuracy finetuned", *kinds):
    told[kind] = single_runs.rank_correlation(
        trained["preserved"].map(lambda e: e.value), trained[kind].map(lambda e: e.value)
    )
    lines.append(
        f"- {kind}: {SAYS[told[kind].compared_with(0)]} (rank correlation with the preserved share "
        f"{told[kind]}, {len(trained)} settings)"
    )
display(
    Markdown(
        f"{len(frame) - len(trained)} of {len(frame)} settings lie more than {within:g} of accuracy below the "
        "best, and count as hardly trained. They are in the picture, but not in what "
        "follows.\n\n" + "\n".join(lines)
    )
)

# %% [markdown]
# Settings differ in more than what they preserve, so this is a description, not a cause. The first
# line says how far accuracy alone goes with preserving; the others are relative to it.
#
# ## Which orders speak for the true class?
#
# Interactions of one order may pull in one direction or cancel each other. Of each order, the sum of
# its interactions over the sum of their sizes: 1 if all speak for the true class, 0 if they cancel,
# below 0 if they speak against it. The networks are those of [](03_what_is_preserved).

# %%
cells = study.offline_cells(profile)
live = dict(zip(cells, study.run_all(list(cells.values())), strict=True))
agreement = pd.concat(
    findings.Runs(one).knowledge.agreement_by_order().assign(data=name)
    for name, one in live.items()
)

# %% mystnb={"figure": {"name": "fig-agreement", "caption": "How far the interactions of an order speak for the true class, within what was preserved, discarded and newly learned; whiskers: 95 % bootstrap intervals over samples."}, "image": {"alt": "A panel per data set with bars by order for preserved, discarded and new knowledge, between -1 and 1."}}
figure = figures.agreement(agreement)

# %% tags=["hide-input"]
lines = []
for (name, part), rows in agreement.groupby(["data", "part"], sort=False):
    orders = {
        side: [
            str(row.order)
            for row in rows.itertuples()
            if pi.Estimate(row.value, row.low, row.high).compared_with(0) == side
        ]
        for side in ("above", "below")
    }
    lines.append(
        f"- {name}, {part}: for the true class at order {', '.join(orders['above']) or 'none'}, "
        f"against it at {', '.join(orders['below']) or 'none'}, undecided at the others."
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## In practice

# %% tags=["hide-input"]
costs = [kind for kind in kinds if told[kind].compared_with(0) == "above"]
best = accuracies.idxmax()
display(
    Markdown(
        f"The most accurate setting, {best}, has accuracy {frame.loc[best, 'accuracy finetuned']} and preserves "
        f"{frame.loc[best, 'preserved']}. "
        + (
            f"If pictures may come with what is named here ({', '.join(costs)}), fine-tune gently: there "
            "discarding costs."
            if costs
            else "On none of these pictures did discarding decidedly cost anything: choose the learning "
            "rate by accuracy alone, and test on the corruptions that you expect."
        )
    )
)

# %% [markdown]
# ## What this rests on
#
# One small network (ResNet-20, pre-trained on CIFAR-10) and one task with few training pictures;
# corruptions of one strength each. Settings are not independent experiments: they share data and
# pre-training. The same cells with several runs, as records of games:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/discarding.yml \
#         --record FOLDER_OF_RECORDS
