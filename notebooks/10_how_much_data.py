# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How much data makes pre-training unnecessary?
#
# **Key points**
#
# - The same network and task, with ever more training samples: fine-tuned from pre-trained weights,
#   and from scratch. The page says at which size the gain falls under a margin.
# - Beside the accuracies stand the shares: what is preserved, what is new, and how much of the
#   preserved part scratch training learns once it has the data.
#
# *Needs: [What scratch learns](04_what_scratch_learns) for what is measured. Four minutes to
# read, seconds to run: the numbers were recorded beforehand.*
#
# :::{warning}
# The numbers of this chapter were recorded by an earlier form of the study: one run of each arm and
# seed, and each seed on samples of its own. There is no second run in them, so what chance gives, and
# what would come back, cannot be said ([Train it twice](02_train_it_twice)). Read its shares of
# interactions as descriptions, not as findings. Accuracies and gains stand as they are.
# :::

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/data_size.parquet"
margin = 0.02  # the gain in accuracy below which pre-training counts as unnecessary

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from pi_lib.book import begin, figures

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.study import single_runs

begin(profile)
table, about = single_runs.recorded(record)
names = {
    (cell["backbone"], cell["source"] or "published", cell["task"]): cell["name"].split(",")[0]
    for cell in about["cells"]
}
table["size"] = single_runs.changed(table["changes"], "n_train").astype(int)


def by_size(rows):
    """Everything of one network and task, a row per size of the training set."""
    parts = [single_runs.summary(one).set_axis([size]) for size, one in rows.groupby("size")]
    return pd.concat(parts)


curves = {
    names[key]: by_size(rows)
    for key, rows in table.groupby(["backbone", "source", "task"], sort=False)
}

# %% [markdown]
# ## The setting
#
# Subsets are balanced over the classes and nested: the larger contain the smaller. Each phase has its
# own learning rate, chosen on further samples. A small set is passed over more often than a large
# one, fine-tuned and scratch alike, so that neither is short of steps.

# %% tags=["hide-input"]
passes = pd.DataFrame(
    {
        "network and task": cell["name"].split(",")[0],
        "training samples": cell["settings"]["n_train"],
        "passes": cell["settings"]["epochs"],
        "further samples": cell["settings"]["n_val"],
        "seeds": 1,
    }
    for cell in about["cells"]
)
passes.groupby(
    ["network and task", "training samples", "passes", "further samples"], sort=False
).sum()

# %% [markdown]
# ## What more data changes

# %% tags=["hide-input"]
CAPTION = "accuracy, gain and shares against the number of training samples."
for name, frame in curves.items():
    display(Markdown(f"**{name}**: {CAPTION}"))
    figures.over_sizes(frame, margin)
    display(frame.rename_axis("training samples").T.map(str))

# %% [markdown]
# Bands: 95 % intervals, of accuracies over the test samples of all seeds, of shares by resampling
# the explained samples of all seeds. The gain's interval takes the two accuracies as independent,
# though the test samples are the same: it is rather too wide.
#
# ## The size at which pre-training stops paying
#
# The gain is interpolated between the sizes on the logarithmic axis; the interval comes from drawing
# each gain anew within its own.

# %% tags=["hide-input"]
ends = {
    name: single_runs.crossing(
        frame.index.tolist(), frame["gain over scratch"].tolist(), margin=margin
    )
    for name, frame in curves.items()
}


def size(value):
    return "beyond what was tried" if np.isinf(value) else f"{value:,.0f} samples"


def sentence(name, end, frame):
    largest = frame["gain over scratch"].iloc[-1]
    if np.isinf(end.value):
        advice = (
            f"With {frame.index[-1]:,} samples the gain is still {largest}: start from the "
            "pre-trained weights at every size up to there."
        )
    else:
        advice = (
            f"Below that, start from the pre-trained weights; above, scratch loses less than "
            f"{margin:g} of accuracy."
        )
    return (
        f"- **{name}**: the gain falls under {margin:g} at {size(end.value)} "
        f"(95 % interval: from {size(end.low)} to {size(end.high)}). {advice}"
    )


display(Markdown("\n".join(sentence(name, end, curves[name]) for name, end in ends.items())))

# %% [markdown]
# ## Does scratch catch up with the knowledge too?
#
# Accuracy may be caught up with by other means. If more data also taught scratch what the fine-tuned
# network preserved, its share would rise with the size.

# %% tags=["hide-input"]
lines = []
for name, frame in curves.items():
    for column in ("learned by scratch", "preserved"):
        first, last = frame[column].iloc[0], frame[column].iloc[-1]
        rho = single_runs.rank_correlation(frame.index, [e.value for e in frame[column]])
        word = {
            "above": "rises",
            "below": "falls",
            "undecided": "neither decidedly rises nor falls",
        }
        apart = "apart" if last.low > first.high or last.high < first.low else "overlapping"
        lines.append(
            f"- **{name}**, {single_runs.QUANTITIES[column]}: from {first} with {frame.index[0]:,} samples "
            f"to {last} with {frame.index[-1]:,} (intervals {apart}); over the sizes it "
            f"{word[rho.compared_with(0)]} (rank correlation {rho}, {len(frame)} sizes)."
        )
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## What this rests on
#
# One task and one small network, at sizes that two processor cores train in minutes. A larger network,
# more pre-training, a harder task or a longer training moves the crossing; its existence is not a
# law. To compute it for a grid of your own, or the same cells with several
# runs, as records of games:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/data_size.yml \
#         --record FOLDER_OF_RECORDS
