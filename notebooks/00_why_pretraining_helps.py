# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a network keeps of its pre-training
#
# A network that was trained on one large data set learns a second, smaller task faster and better
# than a network that starts from nothing. What does it take along? Does it keep what it knew, or
# does it merely start from a good place and learn anew? This book looks inside: it takes the output
# of a network apart into the effects of small groups of input parts, before and after
# fine-tuning, and counts which effects stayed, which went, and which are new.
#
# *Five minutes to read, seconds to run. The chapters need nothing but a browser, and no internet.*

# %% tags=["parameters", "remove-cell"]
profile = "quick"  # the same page at every profile
record = "recorded/paper.parquet"

# %% tags=["remove-input"]
from IPython.display import Markdown, display

from pi_lib.book import figures

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib.study import findings, grid

figures.style()
table, about = grid.recorded(record)
claims = findings.findings(table)

# %% tags=["remove-input"] mystnb={"figure": {"name": "fig-kept", "caption": "A row per pre-trained network and new task. Left: the knowledge before fine-tuning, split into what fine-tuning preserved and discarded. Middle: the knowledge after, split into what was preserved and what is new. Right: how much of the preserved part a network learns that never was pre-trained. Whiskers: 95 % intervals."}, "image": {"alt": "Three panels of horizontal bars, one row per network and task: preserved and discarded, preserved and new, and the share learned from scratch."}}
figure = figures.kept(table)


# %% tags=["remove-input"]
def span(quantity):
    """A share, from the cell with the least to the cell with the most."""
    shares = [findings.share(rows, quantity) for _, rows in findings.cells(table)]
    least, most = min(shares, key=lambda e: e.value), max(shares, key=lambda e: e.value)
    return f"{least.value:.0%} to {most.value:.0%}"


def verdicts(*names):
    """How often each verdict fell on the claims."""
    found = claims[claims["claim"].isin(names)]["verdict"].value_counts()
    return ", ".join(f"{found[v]} times {v}" for v in findings.VERDICTS if v in found)


seeds = sorted({rows["seed"].nunique() for _, rows in findings.cells(table)})
gains = [findings.gain(rows) for _, rows in findings.cells(table)]
better = sum(gain.low > 0 for gain in gains)
display(
    Markdown(
        f"Over {len(gains)} pairs of network and task, with {' or '.join(map(str, seeds))} seeds each: fine-tuning "
        f"preserved {span('preserved')} of the strength of what the network knew before, and "
        f"{span('new')} of what it knew afterwards was new. A network that learned the same task from "
        f"scratch found {span('learned by scratch')} of the preserved part. The fine-tuned network was "
        f"reliably more accurate than the one from scratch in {better} of {len(gains)} pairs."
    )
)

# %% [markdown]
# ## The idea in one paragraph
#
# Cut an input $x$ into $n$ parts, image patches or words: the {term}`players <player>`. Show the
# network only some of them, the {term}`coalition` $T$, and hide the rest behind a neutral
# {term}`baseline`; its output is then $v(T)$, the log-odds that it gives to the true class.
# Whatever a group $S$ of parts adds to the output that no smaller group within it explains is the
# {term}`interaction` of $S$, also known as its {term}`Harsanyi dividend`:
#
# $$I(S) = \sum_{T \subseteq S} (-1)^{|S| - |T|}\, v(T),
# \qquad\text{and conversely}\qquad
# v(T) = \sum_{S \subseteq T} I(S).$$
#
# The second formula says that nothing is lost: the interactions are the output, sorted by which
# parts must be present together. Their number of parts $|S|$, the {term}`order`, tells simple
# effects from complex ones. Two networks that are asked about the same input with the same parts
# can be compared interaction by interaction.
#
# ## Three networks
#
# | | encoder starts from | trained on the new task |
# |---|---|---|
# | **linear probe** | pre-trained weights, kept frozen | the last layer only |
# | **fine-tuned** | pre-trained weights | everything |
# | **scratch** | random weights | everything, same data and schedule |
#
# The {term}`linear probe` shows what the pre-trained network already had to say about the new task.
# What the probe and the fine-tuned network share is {term}`preserved`; what only the probe has is
# {term}`discarded`; what only the fine-tuned network has is {term}`new`. The scratch network shows
# what of this could have been learned without any pre-training.
#
# ## What the paper claims, and what came out here
#
# The method is that of *Why pre-training is beneficial for downstream classification tasks?*
# {cite}`jiang2024`, for which no code was published. Each claim is held against every pair of network
# and task: confirmed, contradicted or undecided.

# %% tags=["remove-input"]
lines = [
    (
        "Only a small part of what was known is preserved",
        "only a small part is preserved",
        "03_what_is_preserved",
    ),
    (
        "It is the complex part that is discarded most",
        "the complex part is discarded most",
        "03_what_is_preserved",
    ),
    ("Much is learned anew", "much is learned anew", "03_what_is_preserved"),
    ("What is new is complex", "what is new is complex", "03_what_is_preserved"),
    (
        "What is preserved is hard to learn from scratch",
        "what is preserved is hard to learn from scratch",
        "04_what_scratch_learns",
    ),
    (
        "Fine-tuning approaches its end faster than scratch training",
        "fine-tuning approaches its end faster",
        "05_how_directly",
    ),
    ("And more directly", "and more directly", "05_how_directly"),
]
display(
    Markdown(
        "\n".join(
            f"{k}. [{text}]({page}.html): {verdicts(name)}."
            for k, (text, name, page) in enumerate(lines, 1)
        )
    )
)

# %% [markdown]
# [Findings](06_findings) has every number behind this list, with its interval and its seeds. The
# networks and data here are smaller than the paper's: a copy of the book must be computable on a
# laptop, from package registries alone. A claim that fails here has failed *here*;
# [Choices](../choices) says where the paper left a choice open, and
# [what the choices change](17_choices) measures it.
#
# ## Where to go from here
#
# - [What an interaction is](01_what_is_an_interaction) works a toy game by hand, then one image and
#   one sentence; [AND and OR](02_and_or) is about the two kinds.
# - [What is preserved](03_what_is_preserved), [What scratch learns](04_what_scratch_learns) and
#   [How directly](05_how_directly) take the claims in turn.
# - Beyond the paper: [whether interactions mean anything](07_do_they_mean_anything),
#   [how much data](08_how_much_data) makes pre-training unnecessary, [how far apart](09_how_far_apart)
#   the domains may be, [which pre-training](10_which_pretraining) to take,
#   [what discarded knowledge is good for](11_discarded_knowledge),
#   [tasks that are not classification](12_other_tasks), and [what to do with it](13_what_to_do).
# - [Your own image model](14_your_image_model), [your own text model](15_your_text_model) and
#   [your own training run](16_your_training_run) are pages that run on a model of yours:
#
#       import pi_lib as pi
#       players = pi.PatchPlayers(grid=8, n=10, region="central")
#       before  = pi.extract(probe, images, labels, players)
#       after   = pi.extract(finetuned, images, labels, players)
#       pi.compare(before, after).plot()
#
# Sliders choose among figures that were drawn when the book was built; without scripts the first
# figure of each stands in its place. To compute it all again, in a checkout:
#
#     make book                                       # everything, at the quick profile
#     .venv/bin/python -m pi_lib run --profile full   # more data, longer training
#     .venv/bin/python -m pi_lib run --only 03 -p seed=1
#     .venv/bin/python -m pi_lib twins                # .ipynb, for JupyterLab
#
# Every number in the chapters was computed by the notebook in which it stands;
# [How this copy was made](record.md) says when and on what.
