# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "The whole comparison of pre-trained and fresh weights, on a network of your own."
# ---

# %% [markdown]
# # The whole question, on a network of your own
#
# **Key points**
#
# - `pi.transfer_study` takes two functions that build your network, with pre-trained and with random
#   weights, and your data. It trains the networks of every {term}`arm` of this book's experiments, and
#   compares what they know.
# - `report()` says in words, tables and one picture where the knowledge of your fine-tuned network
#   comes from, and how much of it would come back in a second run.
# - Given a folder, it can be stopped at any time and goes on where it was.
#
# *Needs: [Train it twice](02_train_it_twice), which says why one run is not enough. The network here
# is a small ShuffleNet of torchvision; at the end the same is asked of a network of transformers.*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
seed = 0  # of the data, the weights and the training
runs = 3  # fine-tuned networks, and networks from scratch

# %%
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown, display
from torchvision.models import ShuffleNetV2

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin, tables
from pi_lib.study import assets, data, findings
from pi_lib.study.record import Record

begin(profile)
small = profile == "smoke"

# %% [markdown]
# ## Data, and weights that were trained before
#
# Bring your own and skip this section. Here the network learns half of the classes of Fashion-MNIST
# from many pictures; the new task is the other half, of which it gets few.


# %% tags=["hide-input"]
def half(split, first, most=None):
    """The samples of five classes, numbered from 0."""
    chosen = [i for i, y in enumerate(split.labels.tolist()) if first <= y < first + 5]
    part = split.take(chosen[:most])
    return data.Split(part.inputs, part.labels - first, part.ids)


clothes = data.load(
    "fashion-mnist",
    n_train=200 if small else 1200,
    n_test=100 if small else 600,
    size=32,
    seed=seed,
)
train, test = half(clothes.train, 5, most=100), half(clothes.test, 5)


# %%
def fresh():
    """The network with random weights: other ones in every call."""
    return ShuffleNetV2([1, 1, 1], [16, 32, 64, 128, 256], num_classes=5)


# %%
torch.manual_seed(seed)
earlier = pi.pretrain(
    fresh(), half(clothes.train, 0), half(clothes.test, 0), epochs=1 if small else 5,
    learning_rate=3e-3, checkpoints=2, seed=seed,
)  # fmt: skip
weights = earlier.model.state_dict()


# %%
def pretrained():
    """The network with pre-trained weights and a new head."""
    net = fresh()
    net.load_state_dict({k: x for k, x in weights.items() if not k.startswith("fc.")}, strict=False)
    return net


# %% [markdown]
# ## One call
#
# The {term}`players <player>` are the patches of a coarse grid, which cover the picture. Leave
# `learning_rate` out and several rates are tried, for fine-tuning and scratch apart; one that you know saves
# that time. `long_runs=2` adds networks from scratch that train several times as long: without them you
# cannot tell what scratch never learns from what it has not learned yet.

# %%
players = pi.PatchPlayers(grid=2 if small else 3, n=None, region="all")
options = {
    "runs": runs, "samples": 5 if small else 12, "epochs": 2 if small else 10,
    "learning_rate": 3e-3, "batch_size": 20, "seed": seed, "folder": tempfile.mkdtemp(),
}  # fmt: skip
study = pi.transfer_study(pretrained, fresh, train, test, players, **options)

# %% mystnb={"image": {"alt": "A stacked bar of pre-training alone, both, scratch alone and neither; beside it a dot with the gain in accuracy and its whiskers."}}
study.report()

# %% [markdown]
# The first table is about what is *reproducible*: what two {term}`runs <run>` of an arm have in common,
# which is 0 by chance. The second has the shares of {cite}`jiang2024`, of single runs. Read a share only
# together with what stands beside it: {term}`chance`, that is what shuffled interactions give, and what a
# {term}`second run` has. The picture shows where the knowledge comes from ({term}`origins`) and, on the
# right, the gain in accuracy over scratch.
#
# ## By order
#
# Every number takes `orders=`: do effects of few patches come back more than those of many?

# %% tags=["hide-input"]
by_order = {
    f"order {order}": {
        "comes back in a second run": str(study.reliability(orders=[order])["finetuned"]),
        "similarity of probe and fine-tuned": str(study.similarity(orders=[order])["probe"]),
    }
    for order in (1, 2, 3)
}
pd.DataFrame(by_order).T

# %% [markdown]
# ## Stopped, and asked again
#
# Finished runs and games lie in the folder, each under a name made from all that decides it: weights,
# code of the network, data, training. The same call reads them; a call with more runs, or more
# samples, computes only what is new. A run that was stopped goes on from its last minute.

# %%
start = time.perf_counter()
again = pi.transfer_study(pretrained, fresh, train, test, players, **options)
same = all(
    torch.equal(x.v, y.v)
    for arm in study.arms
    for x, y in zip(study.arms[arm], again.arms[arm], strict=True)
)
print(f"{time.perf_counter() - start:.1f} s, {'the same' if same else 'other'} values")

# %% [markdown]
# ## The claims of the paper, on your network
#
# `save` writes the {term}`games <game>` of all runs into one file, a {term}`record` as this book is made
# from. So the claims of [Findings](06_findings), where each number is explained, can be held against your
# network as well. Those about speed and directness need {term}`checkpoints <checkpoint>`, which are not kept
# here. A tested number above 0 speaks for the claim.

# %%
path = study.save(Path(options["folder"]) / "mine.npz")
mine = findings.Runs(Record.load(path))
asked = [claim for claim in findings.CLAIMS if not claim.over_time]
claims = findings.findings({"this network": mine}, asked)
tables.claims(claims).droplevel(-1)[["tested number", "verdict"]]

# %% [markdown]
# ## A network of `transformers`
#
# It is the same call. Data are a list of sentences with their labels, the players are words, and the
# output's `.logits` are found without being named. The weights here are MiniLM's, in a folder that comes with
# this book; two of its six layers are enough for a page. A name such as `"distilbert-base-uncased"` does as
# well.

# %%
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, logging

logging.set_verbosity_error()  # each network that is made has a new head, which it would tell
logging.disable_progress_bar()
name, sizes = assets.fetch("minilm"), {"num_labels": 2, "num_hidden_layers": 2}
tokenizer = AutoTokenizer.from_pretrained(name)


# %%
def pretrained_text():
    """The network with pre-trained weights and a new head."""
    return AutoModelForSequenceClassification.from_pretrained(name, **sizes)


def fresh_text():
    """The network with random weights."""
    config = AutoConfig.from_pretrained(name, **sizes)
    return AutoModelForSequenceClassification.from_config(config)


# %%
texts = pi.WordPlayers(tokenizer, n=3 if small else 5)
reviews = data.load("movie-reviews", n_train=20 if small else 120, n_test=20 if small else 200)
text_study = pi.transfer_study(
    pretrained_text, fresh_text, reviews.train, reviews.test, texts, runs=2,
    samples=5 if small else 8, epochs=1 if small else 4, learning_rate=1e-4, batch_size=20,
    seed=seed,
)  # fmt: skip

# %% mystnb={"image": {"alt": "A stacked bar of pre-training alone, both, scratch alone and neither for sentences; beside it a dot with the gain in accuracy and its whiskers."}}
text_study.report()

# %% tags=["hide-input"]
true = {
    "pictures": torch.as_tensor(test.labels), "sentences": torch.as_tensor(reviews.test.labels)
}  # fmt: skip
shares = [f"{x.bincount().max() / len(x):.2f} ({name})" for name, x in true.items()]
display(Markdown(f"Always giving the most frequent class has an accuracy of {', '.join(shares)}."))

# %% [markdown]
# The probe reads the input of the last linear layer. Where that is not where the pre-trained part
# ends, as in a head of two layers, name the place: `features="bert"`. A data set of torchvision
# goes in as it is, with `transform=ToTensor()`.
#
# ## If it refuses
#
# What cannot be answered is refused before anything is trained: one run, too few samples, a network
# with the wrong number of outputs, `fresh` that gives the same weights twice.

# %%
try:
    pi.transfer_study(pretrained, fresh, train, test, players, runs=1)
except ValueError as error:
    display(Markdown(f"`{error}`"))

# %% [markdown]
# Next: [how fast](22_how_fast) the library is, or what each function takes and returns: the
# [reference](../reference).
