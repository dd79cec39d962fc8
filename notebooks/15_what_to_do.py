# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What to do with it
#
# **Key points**
#
# - What a practitioner may take from all recorded cells: when to start from pre-trained weights, whether a
#   probe is enough, how long to train, which source to take.
# - Each line stands with its evidence and its limits, and is computed: another record, another line.
#
# *Needs: [Findings against the paper](06_findings) and the chapters before this one, whose records it
# reads. Four minutes to read, seconds to run.*
#
# :::{warning}
# The numbers of this chapter were recorded by an earlier form of the study: one run of each arm and
# seed, and each seed on samples of its own. There is no second run in them, so what chance gives, and
# what would come back, cannot be said ([Train it twice](02_train_it_twice)). Read its shares of
# interactions as descriptions, not as findings. Accuracies and gains stand as they are.
# :::

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
records = {
    "paper": "recorded/paper.parquet",
    "data_size": "recorded/data_size.parquet",
    "domains": "recorded/domains.parquet",
    "pretraining": "recorded/pretraining.parquet",
    "discarding": "recorded/discarding.parquet",
    "layers": "recorded/layers.parquet",
    "other_tasks": "recorded/other_tasks.parquet",
    "domains_text": "recorded/domains_text.parquet",
}
distances = "recorded/domains_distances.csv"
margin = 0.02  # of accuracy, below which a difference does not matter

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin
from pi_lib.study import single_runs

begin(profile)
tables = {name: single_runs.recorded(path)[0] for name, path in records.items()}
paper = single_runs.summary(tables["paper"])


def say(advice, evidence, limits):
    display(Markdown(f"**{advice}**\n\n- *Evidence.* {evidence}\n- *Limits.* {limits}"))


def count(estimates, threshold):
    """How many estimates lie above, below, or undecided against a threshold."""
    sides = [estimate.compared_with(threshold) for estimate in estimates]
    return {side: sides.count(side) for side in ("above", "below", "undecided")}


# %% [markdown]
# ## Start from pre-trained weights, or not?

# %% tags=["hide-input"]
fell = count(paper["gain over scratch"], 0)
size_table = tables["data_size"].assign(
    size=single_runs.changed(tables["data_size"]["changes"], "n_train").astype(int)
)
beyond = []
for name, key in (("segmentation and detection", "other_tasks"), ("editorials", "domains_text")):
    gains = [single_runs.gain(rows) for _, rows in single_runs.cells(tables[key])]
    sides = count(gains, 0)
    beyond.append(
        f"of {name}, more in {sides['above']} and less in {sides['below']} of {len(gains)} cells"
    )
beyond = "; ".join(beyond)
ends, largest = {}, {}
for (backbone, source, task), rows in size_table.groupby(["backbone", "source", "task"]):
    sizes = {size: single_runs.gain(one) for size, one in rows.groupby("size")}
    name = f"{backbone} ({source}) on {task}"
    ends[name] = single_runs.crossing([*sizes], [*sizes.values()], margin)
    largest[name] = max(sizes)


def size(value):
    return "beyond what was tried" if np.isinf(value) else f"{value:,.0f}"


crossed = "; ".join(
    f"{name}: {size(end.value)} (95 %: {size(end.low)} to {size(end.high)}, tried up to "
    f"{largest[name]:,})"
    for name, end in ends.items()
)
say(
    "Start from pre-trained weights, unless your data outgrow them."
    if fell["above"] > fell["below"]
    else "Do not count on pre-trained weights: try both.",
    f"Fine-tuning was decidedly more accurate than scratch in {fell['above']} of {len(paper)} pairs of network and "
    f"task, less in {fell['below']}, undecided in {fell['undecided']}; {beyond}. Training samples at which the gain falls "
    f"under {margin:g}: {crossed}.",
    "Small networks and training sets of at most a few thousand samples; the crossing moves with "
    "the task. See [How much data](10_how_much_data.html).",
)

# %% [markdown]
# ## A probe, or all layers?

# %% tags=["hide-input"]
probed = {
    cell: single_runs.gain(rows, over="probe") for cell, rows in single_runs.cells(tables["paper"])
}
fell = count(probed.values(), margin)
rho = single_runs.rank_correlation(
    paper["preserved"].map(lambda e: e.value), [probed[cell].value for cell in paper.index]
)
LEANS = {
    "below": "the less was preserved, the more fine-tuning was worth",
    "above": "the more was preserved, the more fine-tuning was worth",
    "undecided": "whether it goes with the preserved share is undecided",
}
say(
    "Train all layers where you can afford it."
    if fell["above"] > len(probed) / 2
    else "Try a probe first: fine-tuning is not always decidedly better.",
    f"Fine-tuning beat the probe by more than {margin:g} of accuracy, decidedly, in {fell['above']} of {len(probed)} "
    f"pairs; decidedly not in {fell['below']}. Gains go from {min(probed.values(), key=lambda e: e.value)} to "
    f"{max(probed.values(), key=lambda e: e.value)}; {LEANS[rho.compared_with(0)]} (rank correlation "
    f"{rho}, {len(probed)} pairs).",
    "All layers or the last one; what lies between comes next.",
)

# %% [markdown]
# ## Which layers?
#
# Fine-tuning that leaves the first layers as they were pre-trained: a share of them, counted from the
# input. A probe leaves all.

# %% tags=["hide-input"]
shares = single_runs.changed(tables["layers"]["changes"], "frozen").fillna(0)
partly = {}
for task, rows in tables["layers"].groupby("task", sort=False):
    by_share = dict(iter(rows.groupby(shares[rows.index])))
    trained = {f"{x:g}": (one, "finetuned") for x, one in by_share.items()}
    for name, (one, phase) in (trained | {"1: a probe": (by_share[0], "probe")}).items():
        partly[task, name] = {
            "accuracy": single_runs.accuracy(one, phase),
            "minus all trained": single_runs.difference(
                *single_runs.correct(one, phase), *single_runs.correct(by_share[0], "finetuned")
            ),
            "preserved share": single_runs.share(one, "preserved") if phase == "finetuned" else "",
        }
partly = pd.DataFrame.from_dict(partly, orient="index").rename_axis(["task", "share frozen"])
partly.loc[(slice(None), "0"), "minus all trained"] = ""
display(partly.map(str))
some = partly[~partly.index.get_level_values(1).isin(["0", "1: a probe"])]
sides = some["minus all trained"].map(lambda e: e.compared_with(0)).groupby(level=1)
worse = {name: (one == "below").any() for name, one in sides}
better = [name for name, one in sides if (one == "above").any()]
free = [x for x in worse if not any(bad for y, bad in worse.items() if float(y) <= float(x))]
kept = "; ".join(
    f"on {task}, from {one.iloc[0]} with none frozen to {one.iloc[-2]} with {one.index[-2][1]}"
    for task, one in partly["preserved share"].groupby(level=0, sort=False)
)
costly = [
    f"on {task} with {name} frozen"
    for (task, name), e in some["minus all trained"].items()
    if e.compared_with(0) == "below"
]
over_scratch = "; ".join(
    f"on {task}, {single_runs.gain(rows[shares[rows.index] == 0])}"
    for task, rows in tables["layers"].groupby("task", sort=False)
)
say(
    f"Freezing the first {free[-1]} of the layers cost nothing that shows; more of them, a little on one task or the other."
    if free and costly
    else "Freezing the first layers cost nothing that shows."
    if free
    else "Train all layers: freezing even the first few cost accuracy.",
    f"Decidedly less accurate than training all layers: {', '.join(costly) or 'none'}; decidedly more: "
    f"{', '.join(f'with {name} frozen' for name in better) or 'none'}. The preserved share went, {kept}.",
    "One small network and two tasks; no correction for several comparisons; the learning rate was chosen anew for each share. "
    f"Over scratch, training all layers gained: {over_scratch}. What is saved is the gradient of the frozen layers, "
    "not their forward pass.",
)

# %% [markdown]
# ## How many passes?


# %% tags=["hide-input"]
def early(rows, phase="finetuned"):
    """Accuracy at the end minus that at the last checkpoint before half of the training."""
    accuracies = rows[(rows["quantity"] == "accuracy") & (rows["phase"] == phase)]
    half = accuracies.loc[accuracies["progress"] <= 0.5, "progress"].max()
    sums = accuracies.groupby("progress")[["numerator", "denominator"]].sum()
    return single_runs.difference(*sums.loc[1.0], *sums.loc[half])


second = {
    phase: [early(rows, phase) for _, rows in single_runs.cells(tables["paper"])]
    for phase in ("finetuned", "scratch")
}
fell = {phase: count(gains, margin) for phase, gains in second.items()}
means = {phase: pi.bootstrap([e.value for e in gains]) for phase, gains in second.items()}
pairs = zip(second["finetuned"], second["scratch"], strict=True)
sooner = pi.bootstrap([fine.value - scratch.value for fine, scratch in pairs])
settings = single_runs.summary(tables["discarding"])
settings.index = settings.index.str.split(", ", n=1).str[1]  # of one network and task
passes = single_runs.changed(settings.index, "epochs")
rho = single_runs.rank_correlation(passes, settings["accuracy finetuned"].map(lambda e: e.value))
say(
    (
        "Fine-tuning needs fewer passes than scratch"
        if sooner.compared_with(0) == "below"
        else "Give fine-tuning as many passes as you would give scratch"
    )
    + (
        ", but do not stop early: more passes still paid."
        if rho.compared_with(0) == "above"
        else ", and stop by a validation set."
    ),
    f"The second half of training added {means['finetuned']} of accuracy to fine-tuning and {means['scratch']} to "
    f"scratch, means over {len(paper)} pairs (difference {sooner}); more than {margin:g}, decidedly, in {fell['finetuned']['above']} and "
    f"{fell['scratch']['above']} of them. With one network fine-tuned at {len(settings)} settings, accuracy and the "
    f"number of passes have rank correlation {rho}.",
    "The learning rate falls along a cosine: half of this training is not a training of half the length.",
)

# %% [markdown]
# ## Which source?

# %% tags=["hide-input"]
apart = pd.read_csv(distances, index_col="source")["value"]
sources = {source: single_runs.gain(rows) for source, rows in tables["domains"].groupby("source")}
rho = single_runs.rank_correlation(
    [apart[source] for source in sources], [gain.value for gain in sources.values()]
)
probes = [
    single_runs.accuracy(rows, "probe").value for _, rows in tables["domains"].groupby("source")
]
tells = single_runs.rank_correlation(probes, [gain.value for gain in sources.values()])
LEANS = {
    "below": "Pre-train on pictures like yours, and measure how alike they are.",
    "above": "Do not choose a source by likeness: here the unlike ones gained more.",
    "undecided": "Do not choose a source by likeness alone: try a probe of each."
    if tells.compared_with(0) == "above"
    else "Neither likeness nor a probe tells which source to take.",
}
ordered = sorted(sources, key=lambda source: -sources[source].value)
say(
    LEANS[rho.compared_with(0)],
    f"Gain over scratch and distance of the source have rank correlation {rho} over {len(sources)} sources, gain and accuracy of a probe {tells}; the best "
    f"is {ordered[0]} ({sources[ordered[0]]}), the last {ordered[-1]} ({sources[ordered[-1]]}).",
    "One small network and one task; sources differ in difficulty too. See [How far apart](11_how_far_apart.html).",
)

# %% [markdown]
# ## Which kind of pre-training?

# %% tags=["hide-input"]
kinds, wins = tables["pretraining"], {}
kind = single_runs.objective(kinds)
for task, rows in kinds.groupby("task", sort=False):
    of = {
        name: single_runs.accuracy(rows[kind[rows.index] == name], "finetuned")
        for name in kind.unique()
    }
    best = max(of, key=lambda name: of[name].value)
    clear = all(of[best].low > e.high for name, e in of.items() if name != best)
    wins[task] = best, clear, of
supervised = sum(best == "supervised" for best, _, _ in wins.values())
say(
    "The kind of pre-training mattered little: none was decidedly the best."
    if not any(clear for _, clear, _ in wins.values())
    else "Pre-train with labels, where you have them."
    if supervised == len(wins)
    else "Try more than one kind of pre-training: none was best everywhere.",
    "; ".join(
        f"on {task}, {best} was best{'' if clear else ', though not decidedly'} ("
        + ", ".join(f"{name} {e}" for name, e in of.items())
        + ")"
        for task, (best, clear, of) in wins.items()
    )
    + ".",
    "Few passes over few pictures, at which contrastive pre-training has not come far. See "
    "[Which pre-training](12_which_pretraining.html).",
)

# %% [markdown]
# ## How gently?

# %% tags=["hide-input"]
rates = single_runs.changed(settings.index, "rate")
kept = single_runs.rank_correlation(rates, settings["preserved"].map(lambda e: e.value))
best = settings["accuracy finetuned"].map(lambda e: e.value).idxmax()
says = {
    "below": "A high learning rate discards more",
    "above": "A high learning rate preserves more",
    "undecided": "The learning rate does not decide what is preserved",
}
say(
    f"{says[kept.compared_with(0)]}: choose it by accuracy, and know what it costs.",
    f"Learning rate and preserved share have rank correlation {kept} over {len(settings)} settings; the most accurate "
    f"setting is {best}, accuracy {settings.loc[best, 'accuracy finetuned']}, preserved "
    f"{settings.loc[best, 'preserved']}.",
    "One transfer. Whether discarding costs robustness is the question of [Discarded knowledge](13_discarded_knowledge.html).",
)

# %% [markdown]
# ## May one read advice from interactions at all?
#
# The preserved share is a description of two networks on a few inputs. Read it against its nulls
# ([](09_do_they_mean_anything)), with the choices that it depends on ([](07_choices)), and never across
# tasks as if it were a score: in the table of [](06_findings), over pairs of network and task,

# %% tags=["hide-input"]
display(
    Markdown(
        "\n".join(
            f"- {row.of}: rank correlation {pi.Estimate(row.rho, row.low, row.high)}, {row.cells} cells: "
            f"**{row.verdict}**"
            for row in single_runs.correlations(tables["paper"]).itertuples()
        )
    )
)
