# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What the choices change
#
# **Key points**
#
# - The paper leaves settings open: what masks a patch, how many patches and how large, which
#   interactions count. [Choices](../choices) lists them all; this page changes one at a time and
#   measures what becomes of three numbers: the preserved share, the new share, and how much more
#   complex the discarded part is than the preserved.
# - The models are the same throughout: the linear probe and the fine-tuned EfficientNet-Lite0 on
#   Fashion-MNIST. Only the question that they are asked changes.
# - A conclusion that depends on such a choice is none. The last section counts them.
#
# *Needs: [What is preserved](03_what_is_preserved). Five minutes to read, some minutes to run.*

# %% tags=["parameters"]
profile = "quick"
seed = 0
record = "recorded/paper.parquet"

# %%
import pandas as pd
from IPython.display import Markdown, display

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib import study
from pi_lib.book import figures
from pi_lib.study import data, findings, grid

figures.style()
cell = study.offline_cells(profile, seed)["images"]
task, default = study.load(cell), cell.players(study.load(cell))
probe, finetuned = (study.trained_model(cell, phase) for phase in ("probe", "finetuned"))
samples = study.samples(cell, task).take(range(min(12, cell.settings.samples)))
images = data.images(samples.inputs)

# %% [markdown]
# ## One change at a time
#
# Each variant masks the same images for both models anew. The default is a mean-colour baseline,
# patches of an 8 by 8 grid drawn from all but its outermost ring, the other patches visible, AND
# interactions, and a threshold of a twentieth of the strongest.


# %%
def players(**changes):
    about = {"grid": default.grid, "n": default.n, "mean": task.mean, "seed": seed}
    return pi.PatchPlayers(**(about | changes))


def extract(**changes):
    """Interactions of the probe and of the fine-tuned model for other players."""
    who = players(**changes)
    return [
        pi.extract(model, images, samples.labels, who, ids=samples.ids)
        for model in (probe, finetuned)
    ]


def split(pair, noise):
    """The same values, as AND and OR interactions."""
    return [
        pi.Interactions(
            v=one.v, i_and=found.i_and, i_or=found.i_or,
            players=one.players, labels=one.labels, ids=one.ids,
        )
        for one in pair
        for found in [pi.and_or_split(one.v, noise=noise)]
    ]  # fmt: skip


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
    ("region", "all"): (extract(region="all"), 0.05),
    ("background", "mask"): (extract(background="mask"), 0.05),
    **{("draw", f"seed {s}"): (extract(seed=s), 0.05) for s in (seed + 1, seed + 2)},
    **{("threshold", f"tau = {t:g}"): (base, t) for t in (0.0, 0.02, 0.1, 0.2)},
    ("kind", "AND-OR, exact"): (split(base, 0.0), 0.05),
    ("kind", "AND-OR, noise 0.04"): (split(base, 0.04), 0.05),
}

# %% tags=["hide-input"]
NUMBERS = {
    "preserved share": lambda k: k.preserved_share(),
    "new share": lambda k: k.new_share(),
    "mean order, discarded minus preserved": lambda k: k.order_gap("discarded", "preserved"),
}
CLAIMS = {claim.number: claim for claim in findings.CLAIMS if claim.number in NUMBERS}
found = pd.DataFrame(
    {"choice": choice, "variant": variant, "number": number}
    | {"value": e.value, "low": e.low, "high": e.high, "verdict": CLAIMS[number].verdict(e)}
    for (choice, variant), (pair, tau) in variants.items()
    for knowledge in [pi.compare(*pair, tau=tau)]
    for number, of in NUMBERS.items()
    for e in [of(knowledge)]
)

# %% mystnb={"figure": {"name": "fig-choices", "caption": "Three numbers under every variant, with 95 % bootstrap intervals over samples. The line is the default's value; grey is where the paper's claim holds."}, "image": {"alt": "Three panels side by side with a dot and an interval for each variant of a choice."}}
figure = figures.choices(found, {n: (c.low, c.high) for n, c in CLAIMS.items()})

# %% tags=["hide-input"]
found.assign(
    shown=[f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.itertuples()]
).pivot(index=["choice", "variant"], columns="number", values="shown").loc[
    list(variants), list(NUMBERS)
]

# %% [markdown]
# ## Seeds of the training
#
# Another seed draws other training images and another order of batches, and a scratch network starts
# elsewhere. The recorded study has several seeds per {term}`cell`; this is the preserved share of
# each, with the interval over its samples.

# %% tags=["hide-input"]
table, _ = grid.recorded(record)
pd.DataFrame(
    {
        name: {
            f"seed {one}": str(findings.share(rows, "preserved"))
            for one, rows in cell_rows.groupby("seed")
        }
        for name, cell_rows in findings.cells(table)
    }
).T.fillna("")

# %% [markdown]
# ## What holds whatever is chosen

# %% tags=["hide-input"]
lines = []
for number, claim in CLAIMS.items():
    rows = found[found["number"] == number]
    fell = rows["verdict"].value_counts().reindex(findings.VERDICTS, fill_value=0)
    verdicts = ", ".join(f"{verdict} under {count}" for verdict, count in fell.items())
    lines.append(
        f"- *{number}*: from {rows['value'].min():.2f} to {rows['value'].max():.2f}; that "
        f"{claim.name} is {verdicts} of {len(rows)} variants."
    )
display(Markdown("\n".join(lines)))

# %% [markdown]
# One network, one task, one seed of training. The intervals are over samples; the variants share
# them, so two variants differ by less than their intervals suggest, or by more.
#
# ## Where these numbers come from

# %% tags=["hide-input"]
study.run(cell).provenance()
