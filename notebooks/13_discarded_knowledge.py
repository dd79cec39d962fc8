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
# - One pre-trained network is fine-tuned for one task at several learning rates and numbers of
#   epochs, three runs or more of each {term}`setting <profile>`. How similar do the runs stay to the
#   {term}`linear probe`, whose encoder is the pre-trained one?
# - If what was discarded is good for something, settings that keep more should do better at
#   something: the task itself, corrupted pictures, foreign pictures, the task of pre-training.
# - Each answer is a rank correlation over settings, and says *undecided* where it is.
#
# *Needs: [What is preserved](03_what_is_preserved). Seven minutes to read.*

# %% tags=["parameters"]
profile = "quick"  # the same page at every profile
record = "recorded/discarding"  # folder of the recorded settings

# %%
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.book import begin, recorded, study_figures, tables
from pi_lib.study import comparisons, data, findings

begin(profile)
records = recorded(record)
runs = {name: findings.Runs(r) for name, r in records.items()}
