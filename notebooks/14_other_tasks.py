# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Interactions of segmentation, detection and regression."
# ---

# %% [markdown]
# # Tasks that are not classification
#
# **Key points**
#
# - {term}`Interactions <interaction>` need a {term}`value` of a masked picture, nothing else. Segmentation,
#   detection and regression have one too: what the network says of a region, of a box, or of a number.
# - One network, pre-trained to classify, is fine-tuned to segment and to detect. Is it more accurate
#   than a {term}`linear probe`, and than the same network from {term}`scratch`?
# - Where does its reproducible knowledge come from (its {term}`origins`), and do the paper's claims hold?
#   Against {term}`chance` and a {term}`second run`, as for classification, each is confirmed,
#   contradicted, undecided or not measurable.
#
# *Needs: [What is preserved](03_what_is_preserved). The detector at the end is
# trained by this page.*

# %% tags=["parameters"]
profile = "quick"  # of the detector that this page trains: smoke, quick, reduced or full
seed = 0  # of the scenes that are shown
record = "recorded/other_tasks"  # folder of the recorded cells

# %% tags=["hide-input"]
import torch
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, figures, recorded, study_figures, tables
from pi_lib.study import advice, data, findings
from pi_lib.study.cell import title_of

begin(profile)

# %%
records = recorded(record)

# %% [markdown]
# ## Scenes with masks and boxes
#
# The data sets of this book have no masks or boxes, so scenes are made that do: two garments of
# Fashion-MNIST, of different classes, each in a quarter of its own of a black canvas. A garment's mask
# is its pixels brighter than 16 of 255, its box the smallest that holds them. The networks are
# pre-trained to classify other pictures.

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
# *Regression*: minus the squared error (`pi.negative_error`). Players are patches of the whole scene; a
# region or box without a player is refused.

# %% [markdown]
# ## The cells
#
# A row is one network, one source of pre-training, one task. "Odd" and "even" are every second picture
# of Fashion-MNIST, so that no picture is in both. All runs of a cell are tested on the same scenes, and
# asked about the same players, patches that {term}`cover <covering>` the scene.

# %% tags=["hide-input"]
runs = {
    f"{data.aim(r.header['task'])}, {r.header['settings']['n_train']} scenes, "
    f"from {title_of(r.header['source'])}": findings.Runs(r)
    for r in records.values()
}
runs = dict(sorted(runs.items()))
records = {name: r.record for name, r in runs.items()}
if runs:
    same, rest = tables.alike(tables.settings(records).set_axis([*runs]))
    if len(runs) > 1:
        display(Markdown(f"Of all cells: {same}."))
    display(rest)

# %% [markdown]
# ## Does pre-training to classify help?

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-other-gains", "caption": "That fine-tuned runs are more accurate than runs from scratch: {glue:text}`other_scratch`; than a linear probe: {glue:text}`other_probe`. Share of garments found, minus that of scratch (left) and of the probe (right), on the same test scenes. Whiskers: 95 % intervals."}, "image": {"alt": "Two panels with a dot and whisker for each cell, on one scale, beside a line at 0."}}
gains = {
    name: {"minus scratch": r.gain(), "minus linear probe": r.gain("probe")}
    for name, r in records.items()
}
if runs:
    figure = study_figures.differences(gains, "share of garments found, fine-tuned minus other")

# %% tags=["hide-input"]
for key, line in {"scratch": advice.start, "probe": advice.probe}.items():
    if not runs:
        glue(f"other_{key}", "not measured", display=False)
        continue
    answer = line([*records.values()])
    glue(f"other_{key}", findings.in_words(answer.claims[0].frame), display=False)
    display(Markdown(f"**{answer.question}** {answer.sentence} {answer.evidence}"))

# %% [markdown]
# ## Where does what they know come from?
#
# Of what fine-tuned runs reproducibly know, how much does the probe explain, how much training from
# scratch, both, neither? Chance is 0 for all but *neither*.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-other-origins", "caption": "By 95 % intervals, of what fine-tuned runs reproducibly know, pre-training alone explains {glue:text}`other_pretraining`, scratch alone {glue:text}`other_from_scratch`, both {glue:text}`other_both`, neither {glue:text}`other_neither`. Left: a row per cell. Right: gain in accuracy, the share of garments found, over training from scratch, with 95 % intervals."}, "image": {"alt": "A stacked bar per cell, split into pre-training alone, both, scratch alone and neither; beside it a dot with the gain."}}
if runs:
    origins = findings.origins_table(runs)
    figure = study_figures.origins(origins, {name: r.gain() for name, r in records.items()})

# %% tags=["hide-input"]
explained = dict.fromkeys(["pretraining", "from_scratch", "both", "neither"], "not measured")
if runs:
    for part, rows in origins.dropna(subset="value").groupby("part"):
        key = "from_scratch" if part == "scratch" else part
        explained[key] = tables.spans([*rows["low"], *rows["high"]])
    display(tables.estimates(origins, index="cell", columns="part"))
for part, share in explained.items():
    glue(f"other_{part}", share, display=False)

# %% [markdown]
# Part of what a patch does is the same for all patches: one more is visible. That is no knowledge of the
# scene. The first table has the same shares without it: of each scene, the mean effect of each order is taken
# out. The second table has accuracies and {term}`reliability`:

# %% tags=["hide-input"]
if runs:
    centred = findings.origins_table(runs, centred=True)
    display(tables.estimates(centred, index="cell", columns="part"))
    display(tables.overview(runs))

# %% [markdown]
# ## Do the paper's claims hold here?
#
# The claims about speed are left out: they need games of several {term}`checkpoints <checkpoint>`, which these
# records do not hold.

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-other-claims", "caption": "A claim of the paper {glue:text}`other_claims` squares. The verdict on each claim (columns) in each cell (rows), against chance and a second run."}, "image": {"alt": "A grid of coloured squares with the words confirmed, contradicted, undecided or not measurable."}}
if runs:
    claims = findings.findings(runs, [claim for claim in findings.CLAIMS if not claim.over_time])
    figure = study_figures.verdicts(claims)

# %% tags=["hide-input"]
glue("other_claims", tables.in_counts(claims) if runs else "is not measured", display=False)
for name, rows in claims.groupby("claim", sort=False) if runs else ():
    display(Markdown(f"**{name[:1].upper()}{name[1:]}**: {rows['number'].iloc[0]}"))
    display(tables.claims(rows))

# %% [markdown]
# ## Look at one scene
#
# A smaller run, trained by this page: pre-trained on the other half of the garments, fine-tuned to detect.

# %% tags=["hide-input"]
changes = {"n_train": 240, "n_test": 100, "epochs": 8, "n_source": 1500, "source_epochs": 4}
small = profile == "smoke"
cell = study.Cell(
    "resnet20", "fashion-mnist+even+detection", profile, source="fashion-mnist+odd",
    changes={} if small else changes | {"grid": 4, "samples": 4, "rate": 1e-3, "checkpoints": 2},
)  # fmt: skip

# %% mystnb={"figure": {"name": "fig-detected", "caption": "A scene with its players, then the patches of the strongest interactions of the detector's value; orange adds to the score of the garment's box, blue takes away."}, "image": {"alt": "A scene with two pieces of clothing and numbered patches, and copies of it in which the strongest groups of patches stand out."}}
detector = study.trained_model(cell, "finetuned")
task = study.load(cell)
scenes, players = study.samples(cell, task), study.players(cell, task)
images, truth = data.images(scenes.inputs), scenes.targets[:, 0]  # class and box of a garment each
interactions = pi.extract(detector, images, truth, players, value=pi.box_log_odds, ids=scenes.ids)
figure = figures.interactions_on_image(players.place(images, scenes.ids)[0], interactions)

# %%
interactions.top(5)[["players", "order", "value"]]

# %% [markdown]
# ## On a model of your own
#
# `extract` needs a model's output as one tensor. For segmentation that is logits `(B, C, H, W)`, as
# most networks give them, and label maps with -1 outside the region. For detection it is
# `(B, boxes, 4 + classes)`: of a DETR-like model, `torch.cat([boxes, logits], -1)` with the boxes as left,
# top, right, bottom in pixels. For regression, labels are the true numbers. Here a number is read
# linearly from the features of the detector's encoder: the share of a scene that is bright.


# %% tags=["hide-input"]
def bright(inputs):
    """Share of a scene's pixels that are bright: (B,)."""
    return (inputs.amax(1) > 16).float().mean((1, 2))


def features(x):
    """Features of the encoder, and a constant."""
    return torch.nn.functional.pad(detector.encoder(x), (0, 1), value=1.0)


with torch.no_grad():
    known = features(data.images(task.train.inputs))
shares = bright(task.train.inputs)[:, None]
weights = torch.linalg.lstsq(known, shares, driver="gelsd").solution[:, 0]


# %%
def area(x):
    """Predicted share of bright pixels: (B,)."""
    return features(x) @ weights


truth = bright(scenes.inputs)
errors = pi.extract(area, images, truth, players, value=pi.negative_error, ids=scenes.ids)
errors.top(3)[["players", "order", "value"]]

# %% [markdown]
# A region that no player touches says nothing about the players, and is refused:

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
# One small network, whose feature map has every fourth pixel of every fourth row. The scenes are easier than
# photographs: the background is black, so brightness alone tells where a garment is, though not which one. A
# probe of a feature map is no convex problem: it is trained, and only once. Its noise is not taken out of its
# similarity with the fine-tuned runs, which is therefore rather too low.

# %% tags=["hide-cell"]
if runs:
    display(tables.provenance(records).set_axis([*runs]))

# %% [markdown]
# The cells were computed with
#
#     PI_LIB_DATA=FOLDER python -m pi_lib study --grid notebooks/grids/other_tasks.yml \
#         --record notebooks/recorded/other_tasks
#
# All layers were trained here. Next: [ways to fine-tune](15_ways_to_fine_tune) that change less.
