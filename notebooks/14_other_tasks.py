# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tasks that are not classification
#
# **Key points**
#
# - Interactions need a value of a masked picture, nothing else. Segmentation, detection and regression
#   have one too: what the network says of a region, of a box, or of a number.
# - One network, pre-trained to classify, fine-tuned to segment and to detect: what does it keep, and is
#   it ahead of the same network from scratch?
# - The same players, transforms and quantities as in the chapters before; the claims of the paper are
#   held against both tasks.
#
# *Needs: [What is preserved](03_what_is_preserved) for what is measured. Five minutes to read, a minute
# or two to run: the numbers were recorded beforehand.*
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
record = "recorded/other_tasks.parquet"

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, figures
from pi_lib.study import data, single_runs

begin(profile)
table, about = single_runs.recorded(record)
table["task"] = table["task"].str.rpartition("+")[2]
table["scenes"] = single_runs.changed(table["changes"], "n_train").astype(int)

# %% [markdown]
# ## Scenes with masks and boxes
#
# No data set at hand has masks or boxes, so they are made: a garment of Fashion-MNIST and another one of
# a different class, both as they are, each in a quarter of its own of a black canvas. A garment's mask
# is its pixels brighter than 16 of 255, its box the smallest that holds them. The networks are
# pre-trained to classify other pictures, of another half of Fashion-MNIST or of CIFAR-10.

# %% mystnb={"figure": {"name": "fig-scenes", "caption": "Four scenes with the boxes of both garments, and below them their masks; in gold the garment that is asked about, named first."}, "image": {"alt": "Four black canvases with two pieces of clothing each, outlined by boxes, and below each the two silhouettes in two colours."}}
shown = {
    name: data.load(f"fashion-mnist+even+{name}", n_train=20, n_test=20, size=32, seed=seed)
    for name in ("segmentation", "detection")
}
both = shown["detection"], shown["segmentation"]
figure = figures.scenes(*(task.test for task in both), classes=both[0].classes)

# %% [markdown]
# A head reads the encoder's feature map, linearly at every position: the classes of the pixels there, or
# a class and a box, as in FCOS {cite}`tian2019`. For a probe the encoder is frozen, so that what it
# knows of the scene is read out, as in classification.
#
# *Accuracy* is the share of test scenes whose garment is found: by a mask, or by the likeliest box of its
# class, that overlaps the true one by more than half (intersection over union).
#
# ## The value of a masked scene
#
# *Segmentation*: the log-odds of the true class, averaged over the garment's pixels $R$
# (`pi.region_log_odds`),
#
# $$v(x_T) = \frac{1}{|R|} \sum_{u \in R} \log \frac{p_u(y \mid x_T)}{1 - p_u(y \mid x_T)}.$$
#
# *Detection*: a box $b$ scores by its overlap with the true one $b^*$ times its probability of the true
# class, as in D-RISE {cite}`petsiuk2021`, and the best counts, as log-odds (`pi.box_log_odds`),
#
# $$v(x_T) = \log \frac{s}{1 - s}, \qquad s = \max_b \operatorname{IoU}(b, b^*)\, p_b(y \mid x_T).$$
#
# *Regression*: minus the squared error (`pi.negative_error`). Players are patches of a 4 x 4 grid, drawn
# from all over the scene; a scene of which no player shows the garment is left out, and a region or box
# without a player is refused.

# %% [markdown]
# ## What is preserved, and what it is worth

# %% tags=["hide-input"]
table["changes"] = table["scenes"].astype(str) + " scenes"  # the name of a cell
numbers = single_runs.summary(table)
settings = about["cells"][0]["settings"]
seeds = table.groupby(list(single_runs.CELL))["seed"].nunique().min()
display(
    Markdown(
        f"{about['cells'][0]['backbone']}; {settings['samples']} scenes and {settings['n']} players a seed, at least {seeds} "
        "seeds a column; intervals of 95 %."
    )
)
cells = [
    (task, source, scenes)
    for (_, source, task, scenes), _ in table.groupby(single_runs.CELL, sort=False)
]
index = pd.MultiIndex.from_tuples(cells, names=["task", "pre-trained on", "training"])
display(numbers.set_index(index).drop(columns="salient error").T.map(str))

# %% mystnb={"figure": {"name": "fig-other-tasks", "caption": "The knowledge before and after fine-tuning, a row per task and source: what was preserved and discarded, what is new, and how much of the preserved part scratch training learned."}, "image": {"alt": "Three panels of horizontal bars, one row per task and source of pre-training."}}
figure = figures.kept(table)

# %% [markdown]
# ## Do the paper's claims hold here?

# %% mystnb={"figure": {"name": "fig-other-claims", "caption": "Each claim's number in every cell, with its 95 % interval, and the region in which the claim holds."}, "image": {"alt": "A panel for each claim with a mark and whisker per task, source and number of scenes."}}
found = single_runs.findings(table)
found["cell"] = found["cell"].map(dict(zip(numbers.index, map(", ".join, cells), strict=True)))
figure = figures.findings(found)

# %% tags=["hide-input"]
found["task"] = found["cell"].str.extract(f"({'|'.join(shown)})", expand=False)
lines = []
for claim, rows in found.groupby("claim", sort=False):
    counts = {task: one["verdict"].value_counts() for task, one in rows.groupby("task", sort=False)}
    of = (
        f"{task}, " + ", ".join(f"{count} {verdict}" for verdict, count in one.items())
        for task, one in counts.items()
    )
    lines.append(f"- *{claim}*: {'; '.join(of)}")
display(Markdown("\n".join(lines)))

# %% tags=["hide-input"]
SAYS = {
    "above": "**start from pre-trained weights**",
    "below": "**train from scratch**",
    "undecided": "either will do",
}
lines, sides = [], {"scratch": [], "a probe": []}
for (task, source, scenes), (_, own) in zip(cells, single_runs.cells(table), strict=True):
    gain, over_probe = single_runs.gain(own), single_runs.gain(own, over="probe")
    sides["scratch"].append(gain.compared_with(0))
    sides["a probe"].append(over_probe.compared_with(0))
    lines.append(
        f"- {task}, pre-trained on {source}, {scenes}: {SAYS[gain.compared_with(0)]}. Share of garments found, "
        f"fine-tuned minus scratch: {gain}; minus a probe: {over_probe}. Of what the probe knew, "
        f"{single_runs.share(own, 'preserved')} is preserved, and scratch learned {single_runs.share(own, 'learned by scratch')} of that."
    )
counted = "; ".join(
    f"against {other}, decidedly better in {one.count('above')} and worse in {one.count('below')} of {len(one)}"
    for other, one in sides.items()
)
advice = (
    "Do not stop at a probe: a network that was taught to name a thing has not been taught to say where it is."
    if sides["a probe"].count("above") > len(lines) / 2
    else "Try a probe first."
) + (
    " And try scratch: pre-training to classify is no sure help here."
    if sides["scratch"].count("above") <= len(lines) / 2
    else " Start from pre-trained weights."
)
display(Markdown("In practice:\n\n" + "\n".join(lines) + f"\n\nFine-tuning, {counted}. {advice}"))

# %% [markdown]
# ## Look at one scene
#
# A smaller run of this page's own: pre-trained on the other half of the garments, fine-tuned to detect.

# %% mystnb={"figure": {"name": "fig-detected", "caption": "A scene with its players, then the patches of the strongest interactions of the detector's value; orange adds to the score of the garment's box, blue takes away."}, "image": {"alt": "A scene with two pieces of clothing and numbered patches, and copies of it in which the strongest groups of patches stand out."}}
changes = {"n_train": 240, "n_test": 100, "epochs": 8, "n_source": 1500, "source_epochs": 4}
small = profile == "smoke"
cell = study.Cell(
    "resnet20", "fashion-mnist+even+detection", profile, source="fashion-mnist+odd",
    changes={} if small else changes | {"grid": 4, "samples": 4, "rate": 1e-3, "checkpoints": 2},
)  # fmt: skip
detector = study.trained_model(cell, "finetuned")
task = study.load(cell)
scenes, players = study.samples(cell, task), study.players(cell, task)
images, true = data.images(scenes.inputs), scenes.targets[:, 0]  # class and box of a garment each
interactions = pi.extract(detector, images, true, players, value=pi.box_log_odds, ids=scenes.ids)
figure = figures.interactions_on_image(players.place(images, scenes.ids)[0], interactions)

# %%
interactions.top(5)[["players", "order", "value"]]

# %% [markdown]
# ## On a model of your own
#
# `extract` wants a model's output as one tensor. For segmentation that is logits `(B, C, H, W)`, as
# most networks give them, and label maps with -1 outside the region. For detection it is
# `(B, boxes, 4 + classes)`: of a DETR-like model, `torch.cat([boxes, logits], -1)` with the boxes as left,
# top, right, bottom in pixels. For regression, labels are the true numbers. Here a number is read from
# the features of the detector's encoder: the share of a scene that is bright.

# %%
split = task.train
pictures = data.images(split.inputs)
bright = (split.inputs.amax(1) > 16).float().mean((1, 2))
with torch.no_grad():
    features = torch.nn.functional.pad(detector.encoder(pictures), (0, 1), value=1.0)
weights = torch.linalg.lstsq(features, bright[:, None], driver="gelsd").solution[:, 0]


def area(x):
    """Predicted share of bright pixels: (B,)."""
    return torch.nn.functional.pad(detector.encoder(x), (0, 1), value=1.0) @ weights


asked = (scenes.inputs.amax(1) > 16).float().mean((1, 2))
pi.extract(area, images, asked, players, value=pi.negative_error, ids=scenes.ids).top(3)[
    ["players", "order", "value"]
]

# %% [markdown]
# A region that no player touches says nothing of the players, and is refused:

# %%
corner = torch.full((len(images), *images.shape[2:]), -1)
corner[:, 0, 0] = 0
try:
    middle = pi.PatchPlayers(grid=8, n=4, region="central")
    pi.extract(detector, images, corner, middle, value=pi.region_log_odds)
except ValueError as error:
    print(error)

# %% [markdown]
# ## What this rests on
#
# One small network, whose feature map has a position for every four pixels, and scenes that are easier
# than photographs: the ground is black, so where a garment is can be seen by its brightness; which
# it is cannot. The same cells with several runs,
# as records of games:
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/other_tasks.yml \
#         --record FOLDER_OF_RECORDS
