# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "Interactions of your own image model, in five lines."
# ---

# %% [markdown]
# # Your own image model
#
# **Key points**
#
# - `pi_lib.extract` takes any callable from images to logits. Nothing of the model is changed, and
#   nothing of its class need be known.
# - Five lines compare two models: the {term}`players <player>`, the {term}`interactions <interaction>` of
#   each model, and `compare`.
# - Players, {term}`value` and number of classes are yours to choose.
#
# *Needs: [What an interaction is](01_what_is_an_interaction). The model here is torchvision's ShuffleNet.*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
seed = 0  # of the samples, the players and the training
players_n = 8  # players: patches of each image

# %%
import torch
from IPython.display import Markdown, display
from myst_nb import glue
from torch import nn
from torchvision.models import shufflenet_v2_x0_5

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin, figures
from pi_lib.study import backbones, data

begin(profile)
small = profile == "smoke"

# %% [markdown]
# ## A model that was trained before
#
# If you have two checkpoints of your own, skip this section. Here the network learns half of the classes
# of Fashion-MNIST, and is then fine-tuned on the other half.


# %% tags=["hide-input"]
def half(split, first):
    """The samples of five classes, numbered from 0."""
    part = split.take([i for i, y in enumerate(split.labels.tolist()) if first <= y < first + 5])
    return data.Split(part.inputs, part.labels - first, part.ids)


clothes = data.load(
    "fashion-mnist",
    n_train=200 if small else 1200,
    n_test=100 if small else 400,
    size=32,
    seed=seed,
)
torch.manual_seed(seed)
net = shufflenet_v2_x0_5()
net.fc = nn.Identity()
model = backbones.Classifier(net, nn.Linear(1024, 5))

epochs = 1 if small else 5
earlier = pi.pretrain(
    model,
    half(clothes.train, 0),
    half(clothes.test, 0),
    epochs=epochs,
    learning_rate=3e-3,
    seed=seed,
)
start = backbones.transfer(earlier.model, 5, seed=seed)
task = half(clothes.train, 5), half(clothes.test, 5)
probe = pi.linear_probe(start, *task)
finetuned = pi.finetune(start, *task, epochs=epochs, learning_rate=1e-3, seed=seed)

# %% tags=["hide-input"]
display(
    Markdown(
        f"Accuracy on held-out images: linear probe {probe.accuracy:.2f}, fine-tuned "
        f"{finetuned.accuracy:.2f}."
    )
)

# %% [markdown]
# ## Five lines
#
# `images` are floats as the model takes them, `labels` the true classes.

# %%
chosen = task[1].take(range(4 if small else 12))
images, labels = data.images(chosen.inputs), chosen.labels

# %% [markdown]
# The same `players` object goes to both calls, so both models are asked about the same patches.

# %% mystnb={"figure": {"name": "fig-own-image", "caption": "Of what the probe knew, a share of {glue:text}`own_preserved` is preserved; by chance it is {glue:text}`own_chance`. Preserved, discarded and new knowledge of this page's model, by order. Whiskers: 95 % bootstrap intervals over samples."}, "image": {"alt": "Grouped bars of preserved, discarded and new strength for each order."}}
players = pi.PatchPlayers(grid=8, n=players_n, region="central", seed=seed)
before = pi.extract(probe.model, images, labels, players)
after = pi.extract(finetuned.model, images, labels, players)
knowledge = pi.compare(before, after)
figure = knowledge.plot()

# %% tags=["hide-input"]
preserved, new = knowledge.preserved_share(), knowledge.new_share()
glue("own_preserved", str(preserved), display=False)
glue("own_chance", str(preserved.chance), display=False)
display(
    Markdown(
        f"Of what the probe knew, {preserved} is preserved; of what the fine-tuned model knows, "
        f"{new} is new. By chance, that is with the interactions shuffled, it is "
        f"{preserved.chance} and {new.chance}."
    )
)

# %% [markdown]
# A share alone says little: {term}`chance` stands beside it here. What a {term}`second run` of your model
# would give is asked in [](21_your_own_transfer).
#
# ## Look at one image

# %% mystnb={"figure": {"name": "fig-own-patches", "caption": "The strongest interactions of one test image. First the image with its players, then the patches that act together; orange adds to the true class, blue takes away."}, "image": {"alt": "A small picture of clothing with outlined patches, and copies of it that show the strongest groups of patches."}}
figure = figures.interactions_on_image(players.place(images)[0], after)

# %%
after.top(5)

# %% [markdown]
# ## Other players
#
# Anything that can be written as a map of labels can be a player: superpixels, organs, the cells of
# a table. -1 is background. Here the picture is cut into four squares, with a border as background.

# %%
squares = torch.full((32, 32), -1)
for k, (row, column) in enumerate([(4, 4), (4, 16), (16, 4), (16, 16)]):
    squares[row : row + 12, column : column + 12] = k
regions = pi.LabelMapPlayers(squares, baseline=0.0)
pi.extract(finetuned.model, images, labels, regions).top(5)

# %% [markdown]
# ## Another value
#
# The default is the log-odds of the true class. `value=` takes any function of the model's output
# and the labels: here the margin of the true class over the best of the others. For segmentation, detection and
# regression, see [](14_other_tasks).


# %%
def margin(logits, labels):
    true = logits.gather(-1, labels[:, None])[:, 0]
    return true - logits.scatter(-1, labels[:, None], -torch.inf).amax(-1)


pi.extract(finetuned.model, images, labels, regions, value=margin).top(5)

# %% [markdown]
# ## If it refuses
#
# `extract` checks before it computes, and says what to do: a model left in training mode, one that
# answers the same input differently, labels out of range, images smaller than the grid, more players
# than can be enumerated.

# %%
try:
    pi.extract(finetuned.model.train(), images, labels, players)
except ValueError as error:
    print(error)

# %% [markdown]
# Next: [your own text model](18_your_text_model).
