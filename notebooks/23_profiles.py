# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "How much each profile computes: samples, epochs, runs, players."
# ---

# %% [markdown]
# # Profiles
#
# **Key points**
#
# - A {term}`profile` decides how much is computed: how many samples, epochs, {term}`runs <run>` and
#   {term}`players <player>`. The questions and the pages stay the same.
# - *smoke* is for tests: its numbers mean nothing. *quick* is the default of this book. *reduced* is for
#   a few cells without a GPU, *full* for a GPU.
# - Recorded cells keep the sizes that they were computed with; pages that draw them show these.
#
# *Needs no other chapter.*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile

# %%
from pi_lib.book import begin, tables

begin(profile)

# %% [markdown]
# ## Cells of images

# %% tags=["hide-input"]
tables.profiles("image")

# %% [markdown]
# ## Cells of sentences

# %% tags=["hide-input"]
tables.profiles("text")

# %% [markdown]
# A {term}`validation set` chooses the learning rate; without one, the first of `study.RATES` is taken.
# {term}`Long scratch <long scratch>` runs train as many times longer as the table says. *Traced* runs are asked at every
# {term}`checkpoint`, the others at their end. A size that is larger than a data set is cut to it.
#
# ## Choosing one
#
# For the whole book, for one page, or for a study of your own:
#
#     python -m pi_lib run --profile full
#     python -m pi_lib run --only 03 --profile reduced
#     python -m pi_lib study --grid notebooks/grids/paper.yml --profile full --record FOLDER
#
# Single settings are changed by `changes:` in a grid file, or by
# `study.Cell(..., changes={"n_train": 100})`. How long each page took, and on what machine, stands in
# [How this copy was made](record.md).
