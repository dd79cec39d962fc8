# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "What masking, patches and thresholds change in the results."
# ---

# %% [markdown]
# # What the choices change
#
# **Key points**
#
# - The paper leaves settings open: what masks a patch, how many patches and how large, which
#   interactions count. [Choices](../choices) lists them all. This page changes one at a time and
#   measures what becomes of three numbers: the preserved {term}`share` above {term}`chance`, the
#   {term}`similarity` of probe and fine-tuned runs, and the {term}`reliability` of fine-tuned runs.
# - The networks are the same throughout: the {term}`linear probe` and two fine-tuned runs of
#   EfficientNet-Lite0 on Fashion-MNIST. Only the question that they are asked changes.
# - A conclusion should hold whatever is chosen. The last section counts under how many variants each
#   number is above chance.
#
# *Needs: [What is preserved](03_what_is_preserved).*

# %% tags=["parameters"]
profile = "quick"  # how much is computed: smoke, quick, reduced or full

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import begin, figures, tables
from pi_lib.training import images

begin(profile)

# %%
cell = study.offline_cells(profile)["images"]
task = study.load(cell)
default = study.players(cell, task)
networks = [study.trained_model(cell, "probe")]
networks += [study.trained_model(cell, "finetuned", run) for run in (0, 1)]
samples = study.samples(cell, task).take(range(min(8, cell.settings.samples)))
pictures = images(samples.inputs)

# %% [markdown]
# ## One change at a time
#
# Each variant masks the same {glue:text}`choices_samples` images anew, for all three networks. The default
# is a mean-colour {term}`baseline`, patches of a square grid drawn from all but its outermost ring, the
# other patches visible, AND interactions, and a threshold of a twentieth of the strongest.


# %% tags=["hide-input"]
def extract(**changes):
    """Interactions of the probe and of two fine-tuned runs for other players."""
    settings = {"grid": default.grid, "n": default.n, "mean": task.mean} | changes
    players = pi.PatchPlayers(**settings)
    return [
        pi.extract(network, pictures, samples.labels, players, ids=samples.ids)
        for network in networks
    ]


glue("choices_samples", len(samples), display=False)
base = extract()
fewer, more = default.n - 2, min(default.n + 2, len(default.eligible))
variants = {
    ("default", "as listed"): (base, 0.05),
    **{("baseline", b): (extract(baseline=b), 0.05) for b in ("zero", "blur")},
    **{("players", f"n = {n}"): (extract(n=n), 0.05) for n in (fewer, more)},
    **{
        ("patch size", f"1/{g} of the side"): (extract(grid=g), 0.05)
        for g in (default.grid - 2, default.grid + 4)
        if (g - 2) ** 2 >= default.n
    },
    ("cover", "all of a 3x3 grid"): (extract(grid=3, n=None, region="all"), 0.05),
    ("background", "mask"): (extract(background="mask"), 0.05),
    **{("draw", f"seed {s}"): (extract(seed=s), 0.05) for s in (1, 2)},
    **{("threshold", f"tau = {t:g}"): (base, t) for t in (0.0, 0.1, 0.2)},
}

# %% tags=["hide-input"]
NUMBERS = {
    "preserved share, minus chance": lambda probe, runs, tau: (
        pi.compare(probe, runs[0], tau=tau, second_runs=runs[1:]).preserved_share().over_chance
    ),
    "similarity of probe and fine-tuned": lambda probe, runs, tau: pi.similarity(probe, runs),
    "reliability of fine-tuned runs": lambda probe, runs, tau: pi.reliability(runs),
}
measured = pd.DataFrame(
    {"choice": choice, "variant": variant, "number": number}
    | {"value": x.value, "low": x.low, "high": x.high, "shown": str(x)}
    | {"verdict": "not measurable" if np.isnan(x.low) else x.compared_with(0)}
    for (choice, variant), ((probe, *runs), tau) in variants.items()
    for number, measure in NUMBERS.items()
    for x in [measure(probe, runs, tau)]
)

# %% mystnb={"figure": {"name": "fig-choices", "caption": "Above chance: {glue:text}`choices_above`. Three numbers under every variant, with 95 % intervals over samples. The line is the default's value; grey is above chance. What is not measurable is left out."}, "image": {"alt": "Three panels side by side, for the preserved share above chance, the similarity and the reliability, with a dot and an interval for each variant of a choice."}}
figure = figures.choices(measured, dict.fromkeys(NUMBERS, (0, np.inf)))

# %% tags=["hide-input"]
table = measured.pivot(index=["choice", "variant"], columns="number", values="shown")
table.loc[list(variants), list(NUMBERS)].rename_axis(index=[None, None], columns=None)

# %% [markdown]
# ## What holds whatever is chosen

# %% tags=["hide-input"]
WORDS = {"above": "above chance", "below": "below chance", "undecided": "undecided"}
lines, above = [], []
for number in NUMBERS:
    rows = measured[measured["number"] == number]
    if "share" not in number:  # the threshold is no part of it
        rows = rows[rows["choice"] != "threshold"]
    counts = rows["verdict"].replace(WORDS).value_counts()
    verdicts = ", ".join(f"{verdict} under {count}" for verdict, count in counts.items())
    above.append(f"{number} under {(rows['verdict'] == 'above').sum()} of {len(rows)} variants")
    values = rows["value"].dropna()
    span = f"{tables.spans(values, 'z.2f')}; " if len(values) else ""
    lines.append(f"- *{number}*: {span}{verdicts} of {len(rows)} variants.")
glue("choices_above", ", ".join(above), display=False)
display(Markdown("\n".join(lines)))

# %% [markdown]
# The threshold is no part of the similarity or of the reliability: its variants repeat the default there, and
# are not counted.
#
# All this is one network, one task and two runs. The intervals are over samples, and the verdicts are not
# corrected for the number of variants. All variants are asked about the same samples: so two of them may
# differ clearly although their intervals overlap.
#
# ## Exercises
#
# 1. Why is the preserved share *above chance* compared here, and not the share itself?
# 2. The intervals of two variants overlap widely. May one number still be clearly larger than the other?
#
# :::{dropdown} Answers
# 1. With other players or another threshold, chance gives another share. Only what goes beyond it can be due
#    to what two networks have in common.
# 2. Yes. Both were measured on the same samples: what counts is the interval of their difference, sample by
#    sample, which may be much narrower.
# :::
#
# Next: how the split into [AND and OR](08_and_or) interactions is done.
