# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "What a fine-tuned network keeps of its pre-training, what it loses, what is new: measured by interactions, against chance and a second run."
# ---

# %% tags=["parameters", "remove-cell"]
profile = "quick"  # the same page at every profile
record = "recorded/paper"  # folder of the recorded cells
examples = "recorded/hero"  # photograph and sentence of the first figure, credits, records
many = "recorded/over_time"  # pairs that were asked about many samples at every checkpoint
again = "recorded/pretraining_again"  # pairs whose pre-training was done several times
paper_again = "recorded/again"  # pairs that were computed a second time, pre-training included

# %% tags=["remove-cell"]
from IPython.display import Markdown, display
from myst_nb import glue

# Not installed? In a checkout of the project: pip install --editable .
from pi_lib import study
from pi_lib.book import begin, hero, recorded, study_figures, tables
from pi_lib.study import comparisons, findings

begin(profile)
records = study.read_all(record)
runs = {r.title: findings.Runs(r) for r in records.values()}
origins = findings.origins_table(runs)
claims = findings.findings(runs)
weights = {
    r.title: "weights that others published" if r.header["source"] is None else "pre-trained here"
    for r in records.values()
}
by_weights = sorted(runs, key=weights.get, reverse=True)  # published ones first
gains = {name: runs[name].record.gain() for name in by_weights}

shares = origins.dropna(subset="value").pivot(index="cell", columns="part", values="value")
brought = shares["pretraining"] + shares["both"]
glue("cells", len(runs), display=False)
glue("measurable", len(shares), display=False)
glue("own", int((brought < 0.5).sum()), display=False)
glue("neither", tables.spans(shares["neither"]), display=False)
glue("probe", tables.spans(brought.clip(0)), display=False)
covering = {
    r.title: findings.Runs(r, "covering")
    for r in records.values()
    if r.count("finetuned", "covering")
}
if covering:  # the same question with players that leave nothing of the input out
    whole = findings.origins_table(covering).dropna(subset="value")
    whole = whole.pivot(index="cell", columns="part", values="value")
    whole = whole.reindex(columns=["pretraining", "both"]).sum(axis=1, min_count=2).dropna()
    few = f"less than half in {(whole < 0.5).sum()} of {len(whole)} pairs"
    covered = f"{tables.spans(whole.clip(0))}, {few}"
else:
    covered = "a part that is not measured"
glue("covered", covered, display=False)
several = comparisons.by_pretraining(recorded(again).values())
several |= comparisons.by_pretraining([*records.values(), *recorded(paper_again).values()])
across = {name: comparisons.Pretrainings(x) for name, x in several.items()}
come_back = [x.comes_back() for x in across.values()]
for key, numbers in {
    "probe": [x["probe"].value for x in come_back],
    "finetuned": [x["finetuned"].value for x in come_back],
    "common": [x.explained for x in (y.origins() for y in across.values()) if x.measurable],
    "one": [
        x.explained for x in (cells[0].origins() for cells in several.values()) if x.measurable
    ],
}.items():
    said = tables.spans(max(0, x) for x in numbers) if numbers else "an unknown share"
    glue(f"again_{key}", said, display=False)
two = {"small": findings.CLAIMS[0], "hard": findings.CLAIMS[4]}  # preserved, hard to learn
for key, cells in {"one": {name: x[0] for name, x in several.items()}, "all": across}.items():
    for name, claim in two.items():
        said = tables.in_counts(findings.tested(cells, [claim]))
        glue(f"again_{name}_{key}", said, display=False)
glue("scratch", tables.spans(shares["scratch"] + shares["both"]), display=False)
glue("pretraining", tables.spans(shares["pretraining"].clip(0)), display=False)
glue("better", sum(gain.low > 0 for gain in gains.values()), display=False)
counts = claims["verdict"].value_counts()
glue(
    "verdicts",
    ", ".join(f"{counts[v]} {v}" for v in findings.VERDICTS if v in counts),
    display=False,
)
alone = claims[claims["paper"] != ""]
glue("alone", f"{(alone['paper'] == 'confirmed').sum()} of {len(alone)}", display=False)
glue("own_numbers", f"{alone['claim'].nunique()} of the {claims['claim'].nunique()}", display=False)
glue("squares", len(claims), display=False)

# %% [markdown]
# # What a network keeps of its pre-training
#
# **In {glue:text}`own` of {glue:text}`measurable` pairs, a linear probe of the pre-trained network explains
# less than half of what a network reliably knows after fine-tuning.** A *pair* is a pre-trained network and a
# new task; of the {glue:text}`cells` pairs here, {glue:text}`measurable` can be compared. *Reliably* means: it
# comes back each time that the network is fine-tuned again. The probe explains {glue:text}`probe` of that
# knowledge; {glue:text}`pretraining` is explained by the probe alone. Training from scratch, without
# pre-training, explains {glue:text}`scratch`. The rest, {glue:text}`neither`, is in neither: it may need the
# pre-trained weights to start from, but a linear probe does not find it in them. In {glue:text}`better` of
# {glue:text}`cells` pairs, the fine-tuned network is clearly more accurate than one trained from scratch.
#
# **But a pre-trained network is a single run as well.** Where pre-training was done more than once on the same
# data ([Which pre-training?](12_which_pretraining)):
#
# - Of what a probe knows, {glue:text}`again_probe` comes back; of what fine-tuned runs know,
#   {glue:text}`again_finetuned`. By chance it would be nothing.
# - One probe explains {glue:text}`again_one` of what fine-tuned runs know. What the probes have in common explains
#   {glue:text}`again_common` of what all fine-tuned runs have in common: the chance of a single pre-training,
#   counted as knowledge, makes the probe's share too small.
# - The paper's claim that *only a small part is preserved* {glue:text}`again_small_one` of these pairs with one
#   probe, but {glue:text}`again_small_all` over several pre-trainings.
# - Its claim that *what is preserved is hard to learn from scratch* {glue:text}`again_hard_one` with one, and
#   {glue:text}`again_hard_all` over several.
#
# How much the probe explains depends on the parts into which an input is cut. These numbers are of a few
# parts of each input, as in the paper. With parts that cover the whole input, the probe explains
# {glue:text}`covered`. [Findings](06_findings) has all these numbers with their intervals, those of two
# small pairs that the book trains itself, and pairs that were computed a second time.

# %% tags=["remove-input"] mystnb={"figure": {"name": "fig-hero", "caption": "What comes back in every run, on one photograph and one sentence, which is read downwards. A band joins patches, and an arc joins words, that act together; a dot alone is a patch or word alone. Drawn is what has the same sign in every run of a column, and in each at least a tenth of the strength of the strongest; of what is lost, the strongest few. Effects are those on the output, averaged over what else may be visible. Words in grey are always visible."}, "image": {"alt": "Above, a photograph three times, under a grid, below it a sentence three times, word under word: for the linear probe, for fine-tuned runs and for runs from scratch. Coloured bands and arcs join patches and words: blue ones are kept, grey ones are lost, orange ones are new, green ones are in scratch runs."}}
example = hero.examples(examples)
figure = example and hero.draw(example)

# %% tags=["remove-input"]
display(Markdown(hero.in_words(example)))
if example:
    display(hero.usual(example))
    display(Markdown(hero.credits(example)))

# %% tags=["remove-input"] mystnb={"figure": {"name": "fig-origins", "caption": "In {glue:text}`own` of {glue:text}`measurable` pairs, the probe explains less than half. Left: where what fine-tuned runs reproducibly know comes from, a row per pre-trained network and new task; *both* is in the probe and in scratch runs. Not measurable: in one of the three, nothing comes back that could be compared. Right: how much more accurate fine-tuning is than training from scratch, with 95 % intervals; those of the shares stand in the chapter Findings."}, "image": {"alt": "A stacked bar per network and task, split into pre-training alone, both, scratch alone and neither, grouped by where the weights come from; beside it a dot with the gain in accuracy."}}
figure = study_figures.origins(origins, gains, weights)

# %% [markdown]
# *The chapters need nothing but a browser, and no internet.*
#
# ## The question
#
# A network that was trained on one large data set often learns a second, smaller task better than a
# network that starts from nothing. Does it keep what it knew, or does it merely start from a
# good place and learn anew? The paper *Why pre-training is beneficial for downstream classification
# tasks?* ([arXiv](https://arxiv.org/abs/2410.08455), {cite}`jiang2024`) looks inside: it takes the output of a network apart into the effects of
# small groups of input parts, and counts which effects stay, which go, and which are new. No code was
# published for it. This book implements all of it on real data and really pre-trained weights, and
# then asks of each number what it would be *by chance*, and what it would be *in a second run* of the
# same training. Both change the answer.
#
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
# parts must be present together. Two networks that are asked about the same input with the same parts
# can be compared interaction by interaction.
#
# ## The networks
#
# | | encoder starts from | trained on the new task | runs |
# |---|---|---|---|
# | **linear probe** | pre-trained weights, kept frozen | the last layer only | one, its optimum, or two trained ones |
# | **fine-tuned** | pre-trained weights | everything | several: other head, other batches |
# | **scratch** | random weights | everything, same data and schedule | several: other weights too |
# | **long scratch** | random weights | the same, several times as long | several |
#
# ## What the paper claims, and what came out here
#
# A square is one claim in one pair. For {glue:text}`own_numbers` claims the paper has a number of its
# own; by it alone, {glue:text}`alone` squares would be confirmed. Held against chance and a second run, of
# all {glue:text}`squares`: {glue:text}`verdicts`. *Undecided* means that the number behind a
# square cannot be told from 0. *Only a small part is preserved* and *much is learned anew* rest on one
# and the same number, since what reliably comes back is either in the probe or new: they are one finding,
# not two; and it is that of a single probe, in which the chance of its pre-training counts as knowledge:
# what is left of it over several pre-trainings is said at the top of this page.

# %% tags=["remove-input"] mystnb={"figure": {"name": "fig-claims", "caption": "{glue:text}`verdicts`. The verdict on each claim (columns) in each pair (rows), against chance and a second run."}, "image": {"alt": "A grid of coloured squares with the words confirmed, contradicted, undecided or not measurable."}}
figure = study_figures.verdicts(claims)

# %% tags=["remove-input"]
lines = []
for words, asked in comparisons.by_rates(recorded(many).values()).items():
    verdicts = findings.findings(asked, findings.CLAIMS[6:]).groupby("claim", sort=False)
    faster, direct = (findings.in_words(rows) for _, rows in verdicts)
    lines.append(f"- {words}: *faster* is {faster}; *more direct* is {direct}.")
if lines:
    display(
        Markdown(
            "Whether fine-tuning is *faster* (in steps) and *more direct* (in straight way over way taken) "
            "takes more samples at every checkpoint than these pairs were asked about, and it depends "
            "on the learning rates. In pairs that were asked about more, with\n\n"
            + "\n".join(lines)
        )
    )

# %% [markdown]
# - *Preserved, discarded, new*: [What is preserved](03_what_is_preserved).
# - *Hard to learn from scratch*: [What scratch learns](04_what_scratch_learns).
# - *Faster, and more direct*: [How directly](05_how_directly).
# - Every number behind the squares, with intervals: [Findings](06_findings).
#
# The networks and data here are smaller than the paper's. A claim that fails here has failed *here*;
# [Choices](../choices) says where the paper left a choice open, and
# [what the choices change](07_choices) measures it.
#
# ## Where to go from here
#
# - [What an interaction is](01_what_is_an_interaction) works a toy game by hand, then one image and
#   one sentence. [Train it twice](02_train_it_twice) shows how much of it comes back in a second run.
# - Beyond the paper: [whether interactions mean anything](09_do_they_mean_anything),
#   [how much data](10_how_much_data) makes pre-training unnecessary, [how far apart](11_how_far_apart)
#   the domains may be, [which pre-training](12_which_pretraining) to take,
#   [what discarded knowledge is good for](13_discarded_knowledge),
#   [tasks that are not classification](14_other_tasks), [ways to fine-tune](15_ways_to_fine_tune),
#   and [what to do with it](16_what_to_do).
# - [Your own image model](17_your_image_model), [your own text model](18_your_text_model),
#   [a language model](19_a_language_model) and [your own training run](20_your_training_run) are
#   pages that run on a model of yours:
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
#     .venv/bin/python -m pi_lib run --only 03 -p tau=0.1
#     .venv/bin/python -m pi_lib twins                # .ipynb, for JupyterLab
#
# What *quick* and *full* mean stands on the page [Profiles](23_profiles).
# [How this copy was made](record.md) says when and on what each page was computed; pages that draw
# recorded cells say so.
