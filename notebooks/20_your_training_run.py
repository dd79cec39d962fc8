# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "A callback that tracks what your training run preserves."
# ---

# %% [markdown]
# # Your own training run
#
# **Key points**
#
# - `KnowledgeTracker` is a callback for a `transformers.Trainer` of yours. It reports what is
#   {term}`preserved` and what is {term}`new` while the run goes on.
# - The run stays as it was: with and without the callback, training gives the same bits.
#
# *Needs: [Your own image model](17_your_image_model) for players and samples.
# The model is a small vision transformer of `transformers`.*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full
seed = 0  # of the samples, the players and the training

# %%
import tempfile

import torch
from myst_nb import glue
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin
from pi_lib.study import data

begin(profile)
small = profile == "smoke"

# %% [markdown]
# ## A run of your own
#
# A usual run: a model, a data set that yields dictionaries, and arguments.

# %% tags=["hide-input"]
clothes = data.load("fashion-mnist", n_train=200 if small else 1000, n_test=200, size=32, seed=seed)


def dataset(split):
    images = data.images(split.inputs)
    return [{"pixel_values": x, "labels": y} for x, y in zip(images, split.labels, strict=True)]


torch.manual_seed(seed)
model = ViTForImageClassification(
    ViTConfig(
        image_size=32, patch_size=4, hidden_size=96, num_hidden_layers=3, num_attention_heads=3,
        intermediate_size=192, num_labels=10,
    )
)  # fmt: skip
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), num_train_epochs=1 if small else 4, learning_rate=1e-3,
    per_device_train_batch_size=32, eval_strategy="epoch", seed=seed, use_cpu=True,
    report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no",
    dataloader_pin_memory=False,
)  # fmt: skip

# %% [markdown]
# ## One more callback
#
# Without `before=`, the tracker compares with the model as training begins. Where that has a new, random
# head, give it the {term}`interactions <interaction>` of a {term}`linear probe`. The trainer's log, folded
# below, has a line for each extraction.

# %% tags=["hide-output"]
tracker = pi.KnowledgeTracker(
    clothes.test.take(range(4 if small else 8)), pi.PatchPlayers(grid=8, n=6, seed=seed)
)
trainer = Trainer(
    model, arguments, train_dataset=dataset(clothes.train), eval_dataset=dataset(clothes.test),
    callbacks=[tracker],
)  # fmt: skip
result = trainer.train()

# %% mystnb={"figure": {"name": "fig-tracked", "caption": "At the end of the run, a share of {glue:text}`tracked_preserved` of what the random start had is preserved, and {glue:text}`tracked_new` of what the model has is new. Left: shares preserved, discarded and new; right: Jaccard similarity with the start and with the end. Bands: 95 % bootstrap intervals over samples."}, "image": {"alt": "Lines over training steps for the tracked shares and similarities."}}
figure = tracker.plot()

# %% tags=["remove-cell"]
reported = tracker.to_frame()
reported = reported[reported["step"] == reported["step"].max()].set_index("measure")
for measure in ("preserved", "new"):
    interval = pi.Estimate(*reported.loc[measure, ["value", "low", "high"]])
    glue(f"tracked_{measure}", str(interval), display=False)

# %% [markdown]
# These are shares of a single run, beside the {term}`Jaccard similarity`. What {term}`chance` and a
# {term}`second run` give, without which a share says little, is asked in [](02_train_it_twice) and, of your
# own network, in [](21_your_own_transfer).
#
# ## What it keeps
#
# A table, the interactions of every tracked step, and a line in the trainer's own log.

# %%
tracker.to_frame().pivot(index="step", columns="measure", values="value").round(2)

# %%
*_, logged = (line for line in trainer.state.log_history if "knowledge_new" in line)
{name: round(value, 3) for name, value in logged.items()}

# %%
last = max(tracker.interactions)
tracker.interactions[last].top(5)

# %% [markdown]
# An extraction runs the model $2^n$ times on each sample: keep the players, $n$, and the samples few. If an
# extraction fails on the way, you get a warning; the training goes on, and `tracker.failures` says why.
#
# Next: [the whole question](21_your_own_transfer), on a network of your own.
