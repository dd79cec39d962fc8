# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   myst:
#     html_meta:
#       description: "A small language model, pre-trained and fine-tuned with a prompt: what is noise, what is new."
# ---

# %% [markdown]
# # A language model
#
# **Key points**
#
# - A language model has no head to be replaced. It is asked by a *prompt*, and its {term}`value` is the
#   log-odds of one next word against another: `pi.next_token_log_odds`. So the
#   {term}`interactions <interaction>` of the pre-trained model can be read before any fine-tuning.
# - Of large language models it is said that fine-tuning mostly removes noise-like interactions, and adds few
#   reliable ones {cite}`zhang2026`. Which interactions are noise is known here, as everything was done
#   several times: what does not come back is noise.
# - Each claim is held against a small GPT below, with a verdict that is computed.
#
# *Needs: [Train it twice](02_train_it_twice), [Your own text model](18_your_text_model).*

# %% tags=["parameters"]
profile = "quick"  # how much is computed where no record is named: smoke, quick, reduced or full
seed = 0  # of the samples, the players and the training
record = "recorded/language"  # folder of the recorded games; "" computes them here

# %% tags=["hide-input"]
import time
from collections import Counter
from string import ascii_lowercase

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from myst_nb import glue
from torch.nn import functional as F

# Not installed? In a checkout of the project: pip install --editable .
import pi_lib as pi
from pi_lib.book import begin, study_figures, tables
from pi_lib.coalitions import order
from pi_lib.reliability import Arms, Moments, order_groups
from pi_lib.statistics import Difference, Estimate
from pi_lib.study import backbones, data, findings, store
from pi_lib.study.accuracies import mean_accuracy, paired_gain
from pi_lib.study.record import Record, read_all
from pi_lib.training import Split

begin(profile)

# %% tags=["hide-input"]
size = {
    "smoke": {"texts": 40, "rounds": 1, "train": 40, "epochs": 1, "test": 40, "samples": 5, "n": 3},
    "quick": {
        "texts": 500, "rounds": 1, "train": 200, "epochs": 2, "test": 150, "samples": 8, "n": 4
    },
    "reduced": {
        "texts": None, "rounds": 2, "train": 1200, "epochs": 8, "test": 400, "samples": 40, "n": 6
    },
    "full": {
        "texts": None, "rounds": 10, "train": 5000, "epochs": 8, "test": 1500, "samples": 80, "n": 8
    },
}[profile]  # fmt: skip
RUNS = 3

# %% [markdown]
# ## The model and its prompt
#
# The model is a GPT-2 of four layers, with words of its own: a WordPiece vocabulary of the texts that people
# rated for VADER (see [](../data)), film and product reviews, tweets and editorials. It is pre-trained to
# predict the next token of the training sentences of all four; test sentences are never trained on.

# %% tags=["hide-input"]
LENGTH = 48  # tokens


def vocabulary(texts, most=4000):
    """A tokenizer with the most frequent word pieces of these texts, and a first token for each."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    large = backbones.tokenizer("minilm")
    counts = Counter(x for ids in large(texts, add_special_tokens=False)["input_ids"] for x in ids)
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[:most]
    letters = [large.get_vocab()[x] for letter in ascii_lowercase for x in (letter, f"##{letter}")]
    pieces = [*large.all_special_tokens, *large.convert_ids_to_tokens([*frequent, *letters])]
    known = {piece: k for k, piece in enumerate(dict.fromkeys(pieces))}
    small = Tokenizer(models.WordPiece(known, unk_token=large.unk_token))
    small.normalizer = large.backend_tokenizer.normalizer
    small.pre_tokenizer = large.backend_tokenizer.pre_tokenizer
    small.post_processor = processors.TemplateProcessing(
        single=f"{large.cls_token} $A", special_tokens=[(large.cls_token, known[large.cls_token])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=small, model_max_length=LENGTH, unk_token=large.unk_token,
        cls_token=large.cls_token, pad_token=large.pad_token,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def gpt(tokenizer, number):
    """A small GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(number)
    token = tokenizer.cls_token_id
    sizes = {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": LENGTH}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), bos_token_id=token, eos_token_id=token, **sizes)
    )


# %% [markdown]
# Then it is asked about film reviews: `SENTENCE . this is`, and the next word is to be *good* or *bad*. For
# this it is fine-tuned, too: the loss is that of this one token, among all of the vocabulary.
# {term}`Players <player>` are content words of the sentence; a hidden word is left out of the prompt.

# %%
PROMPT, ANSWERS = "{} . this is", ["bad", "good"]


# %% tags=["hide-input"]
def prompts(split, tokenizer):
    """The sentences of a split as prompts, without those that are too long."""
    asked = [PROMPT.format(sentence) for sentence in split.inputs]
    short = [
        i for i, x in enumerate(tokenizer(asked, verbose=False)["input_ids"]) if len(x) < LENGTH
    ]
    return Split(asked, split.labels, split.ids).take(short)


def losses(answers):
    """The loss of pre-training, and that of fine-tuning; each with the logits of the answers."""

    def read(model, x, attention_mask):
        states = model.transformer(x, attention_mask=attention_mask).last_hidden_state
        last = states[torch.arange(len(x)), attention_mask.sum(1) - 1]
        return states, model.lm_head(last)

    def every_token(model, x, labels, attention_mask):
        states, logits = read(model, x, attention_mask)
        real = attention_mask[:, 1:] > 0
        loss = F.cross_entropy(model.lm_head(states[:, :-1][real]), x[:, 1:][real])
        return loss, logits[:, answers]

    def answer(model, x, labels, attention_mask):
        _, logits = read(model, x, attention_mask)
        return F.cross_entropy(logits, answers[labels]), logits[:, answers]

    return every_token, answer


# %% [markdown]
# ## More than once
#
# A single model cannot say which of its interactions are noise. So the model is pre-trained several times,
# from other random weights and in another order, and each is fine-tuned: {term}`runs <run>` **anew**. The
# first is fine-tuned as often, in other orders: runs from **the same start**. And as many models are trained
# **from scratch** on the prompts alone. All see the same sentences, and all are asked about the same test
# sentences.


# %% tags=["hide-input"]
def experiment():
    """Train all models and play their games: a `Record`."""
    start = time.process_time()
    names = ("movie-reviews", "product-reviews", "tweets", "editorials")
    texts = [s for name in names for s in data.load(name, n_train=size["texts"]).train.inputs]
    films = data.load("movie-reviews", n_train=size["train"], n_test=size["test"], seed=seed)
    tokenizer = vocabulary(texts)
    train, test = prompts(films.train, tokenizer), prompts(films.test, tokenizer)
    corpus = Split(texts, torch.zeros(len(texts), dtype=torch.int64), list(range(len(texts))))
    value = pi.next_token_log_odds(ANSWERS, tokenizer)
    every_token, answer = losses(torch.tensor(value.tokens))
    players = pi.WordPlayers(tokenizer, n=size["n"], masking="drop", seed=seed)
    asked = test.take([i for i, x in enumerate(test.inputs) if players.fits(x)][: size["samples"]])
    shared = {"tokenizer": tokenizer, "batch_size": 32}
    games, logs, correct, last = {}, {}, {}, {}

    def finetuned(arm, run, model, checkpoints):
        done = pi.finetune(
            model, train, test, epochs=size["epochs"], learning_rate=3e-4, loss=answer,
            checkpoints=checkpoints, seed=seed + run, **shared,
        )  # fmt: skip
        key, last[arm] = f"{arm}{run}", done.steps[-1]
        logs[key], correct[key] = done.log, done.correct[-1].numpy()
        if checkpoints:
            correct[f"{key}/start"] = done.correct[0].numpy()
        for step in done.steps:
            game = pi.extract(
                done.at(step), asked.inputs, asked.labels, players, ids=asked.ids, value=value
            )
            at = "" if step == last[arm] else f"@{step}"
            games[f"drawn/{key}{at}"] = game.v.numpy().astype(np.float32)
        return game

    for run in range(1, RUNS + 1):
        model = gpt(tokenizer, seed + run)
        finetuned("scratch", run, model, [])
        pretrained = pi.pretrain(
            model, corpus, test, epochs=size["rounds"], learning_rate=1e-3, loss=every_token,
            checkpoints=2, seed=seed + run, **shared,
        )  # fmt: skip
        logs[f"pretraining{run}"] = pretrained.log
        # the first run anew is the first from the same start
        arm, again = ("anew", [run]) if run > 1 else ("finetuned", range(1, RUNS + 1))
        for number in again:
            game = finetuned(arm, number, pretrained.model, 8)
    header = {
        "cell": "language", "slug": "language", "title": "a small GPT on film reviews",
        "labels": game.labels, "ids": game.ids, "players": {"drawn": game.players},
        "meta": {"drawn": game.meta}, "sentences": asked.inputs, "logs": logs, "last_step": last,
        "rates": {}, "accuracy": {key: log[-1]["accuracy"] for key, log in logs.items()},
        "tested": len(test), "majority": test.labels.bincount().max().item() / len(test),
        "size": size | {"prompts": len(train), "corpus": len(texts)},
    }  # fmt: skip
    made = {"seconds": time.process_time() - start, "finished": time.strftime("%Y-%m-%d")}
    header["provenance"] = {"all": store.environment() | made}
    return Record(header, games, correct)


gpts = next(iter(read_all(record).values())) if record else experiment()

# %% tags=["hide-input"]
header, sizes = gpts.header, gpts.header["size"]
epochs = {key: f"{sizes[key]} epoch{'s' * (sizes[key] != 1)}" for key in ("rounds", "epochs")}
display(
    Markdown(
        f"Here there are {RUNS} runs of each. The vocabulary is of {sizes['corpus']:,} texts, on "
        f"which the models were pre-trained for {epochs['rounds']}. They were fine-tuned on "
        f"{sizes['prompts']:,} prompts for {epochs['epochs']}, "
        f"{header['last_step']['finetuned']} steps. Accuracies are of {header['tested']} test "
        f"sentences, interactions of {len(header['ids'])} of them, with "
        f"{len(header['players']['drawn'][0])} players."
    )
)

# %% [markdown]
# ## What comes back
#
# With Walsh coefficients $w^r(x, S)$ of run $r$, the strength $V = \operatorname{mean}_{x, r} \sum_S w^r(x,
# S)^2$ is the sum of what comes back, $C = \operatorname{mean}_{x, r \neq r'} \sum_S w^r(x, S)\, w^{r'}(x, S)$,
# and of noise, $V - C$. The {term}`reliability` is $C / V$. A fine-tuned language model has noise of two kinds:
# that of its pre-training, which runs from the same start have in common, and that of fine-tuning. Only runs
# anew show both.

# %% tags=["hide-input"]
ways = {
    "anew": [("finetuned", 1), *(("anew", run) for run in range(2, RUNS + 1))],
    "same start": [("finetuned", run) for run in range(1, RUNS + 1)],
}
traced = {way: [gpts.over_time(*run) for run in runs] for way, runs in ways.items()}
steps = list(traced["anew"][0])
start, end = steps[0], steps[-1]
early = max(step for step in steps if step <= max(1, end / 10))
games = {
    f"{way}@{step}": [run[step] for run in runs] for way, runs in traced.items() for step in steps
}
arms = Arms(games | {"scratch": gpts.runs("scratch")}, "walsh")
moments = arms.moments(None)  # of runs in units of their own mean |v(N) - v({})|
in_nats = Moments(arms, moments.products * np.outer(arms.scales, arms.scales))


def parts(of, arm):
    """What comes back of an arm, and its noise; of all samples, then of each resample."""
    back = of.shared(arm)
    return back, of.power(arm) - back


def rows(numbers, panel, name):
    """A line of a figure: resampled numbers by step."""
    return [
        {"panel": panel, "name": name, "step": step} | vars(Estimate.of_resamples(x))
        for step, x in numbers.items()
    ]


# %% mystnb={"figure": {"name": "fig-language-noise", "caption": "Of interactions, a share of {glue:text}`language_start` comes back anew before fine-tuning, and {glue:text}`language_end` after it; that noise is removed is {glue:text}`language_removed`, that it becomes a smaller share {glue:text}`language_noise`. Left: strength of a sentence's interactions in what comes back when all is done anew, and in noise. Right: the share that comes back; 0 by chance. Bands: 95 % intervals over sentences."}, "image": {"alt": "Two panels over the steps of fine-tuning. Left, a line for what comes back and a line for noise. Right, the reliability of runs anew and of runs from the same start, which begins at one."}} tags=["hide-input"]
lines = []
for name, which in (("comes back", 0), ("noise", 1)):
    numbers = {step: parts(in_nats, f"anew@{step}")[which] for step in steps}
    lines += rows(numbers, "strength, in nats squared", name)
for way in ways:
    numbers = {
        step: moments.shared(f"{way}@{step}") / moments.power(f"{way}@{step}") for step in steps
    }
    words = {"anew": "all anew", "same start": "from the same start"}[way]
    lines += rows(numbers, "reliability", words)
figure = study_figures.over_steps(pd.DataFrame(lines))
figure.axes[0].set_yscale("log")

# %% tags=["hide-input"]
shuffle = torch.Generator().manual_seed(seed)


def shuffled(game):
    """A game whose Walsh coefficients are shuffled within each order."""
    terms, sizes = pi.walsh_transform(game.v), order(game.n)
    kept = sizes.argsort(stable=True).expand_as(terms)
    drawn = (sizes + torch.rand(terms.shape, generator=shuffle)).argsort(-1)
    moved = terms.scatter(-1, kept, terms.gather(-1, drawn))
    return pi.Interactions.from_values(pi.walsh_inverse(moved), game.labels, game.ids)


def reliability(arm):
    return moments.reliability(arm)


glue("language_start", str(reliability(f"anew@{start}")), display=False)
glue("language_end", str(reliability(f"anew@{end}")), display=False)
least = min(steps, key=lambda step: reliability(f"anew@{step}").value)
chance = pi.reliability([shuffled(game) for game in games[f"anew@{end}"]])
display(
    Markdown(
        "Of the pre-trained model's interactions, a share of "
        f"{reliability(f'anew@{start}')} comes back when pre-training is done anew; after "
        f"fine-tuning it is {reliability(f'anew@{end}')}, and {reliability(f'same start@{end}')} "
        f"from the same start. It is least at step {least}, {reliability(f'anew@{least}')} anew. "
        "Shuffled within each order, the "
        f"interactions of the fine-tuned models have {chance}, and models trained from scratch "
        f"{reliability('scratch')}."
    )
)

# %% [markdown]
# ## By order

# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-language-orders", "caption": "After fine-tuning, the reliability of runs anew is, by order, {glue:text}`language_orders`. Before it, runs from the same start are one model. Chance is 0. Whiskers: 95 % intervals over sentences."}, "image": {"alt": "Two panels, before and after fine-tuning: dots with whiskers for each order."}}
lines, anew = [], []
for name, orders in order_groups(arms.n).items():
    of_orders = arms.moments(orders)
    for panel, step in (("before fine-tuning", start), ("after fine-tuning", end)):
        for way in ways if step else ("anew",):
            number = of_orders.reliability(f"{way}@{step}")
            lines.append({"panel": panel, "name": way, "orders": name} | vars(number))
    anew.append(f"{name}: {of_orders.reliability(f'anew@{end}')}")
glue("language_orders", "; ".join(anew), display=False)
figure = study_figures.by_order(pd.DataFrame(lines), "reliability")

# %% [markdown]
# ## What stays, and what comes
#
# Here the {term}`similarity` of a {term}`checkpoint` with the start and with the end is that of what comes back
# in both. Only pairs of *different* pre-trainings count: runs of one pre-training have its noise in common.


# %% tags=["hide-input"] mystnb={"figure": {"name": "fig-language-similarity", "caption": "Of what comes back, models before and after fine-tuning have a similarity of {glue:text}`language_similarity`; that what is reliable was there before is {glue:text}`language_before`. Each checkpoint with the start and with the end, over pairs of models that were pre-trained apart; 0 by chance, 1 for the same knowledge. Bands: 95 % intervals over sentences. What is not measurable is left out."}, "image": {"alt": "Two lines over the steps of fine-tuning: similarity with the start, and similarity with the end."}}
def between(first, second):
    """What two checkpoints share, over pairs of runs that were pre-trained apart."""
    members = [arms.members[f"anew@{step}"] for step in (first, second)]
    products = moments.products[:, members[0]][:, :, members[1]]
    return products.mean((1, 2), where=~np.eye(RUNS, dtype=bool))


def similar(first, second):
    """Similarity of two checkpoints, of all samples and of each resample; NaN if not measurable."""
    back = [between(step, step) for step in (first, second)]
    notes = [moments.nothing_shared(x, "the model") for x in back]
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = between(first, second) / np.sqrt(back[0] * back[1])
    return np.full_like(rho, np.nan) if any(notes) else rho


lines = []
for name, other in (("with the start", start), ("with the end", end)):
    lines += rows({step: similar(step, other) for step in steps}, "similarity", name)
figure = study_figures.over_steps(pd.DataFrame(lines))

# %% tags=["hide-input"]
kept = Estimate.of_resamples(similar(start, end))
glue("language_similarity", str(kept), display=False)
display(
    Markdown(
        "Of what comes back, the models before and after fine-tuning have a similarity of "
        f"{kept}; 0 is chance."
    )
)

# %% [markdown]
# ## Is it more accurate?

# %% tags=["hide-input"]
right = {
    "before fine-tuning": [gpts.correct[f"{arm}{run}/start"] for arm, run in ways["anew"]],
    "fine-tuned, anew": [gpts.correct[f"{arm}{run}"] for arm, run in ways["anew"]],
    "fine-tuned, same start": [gpts.correct[f"{arm}{run}"] for arm, run in ways["same start"]],
    "from scratch": [gpts.correct[f"scratch{run}"] for run in range(1, RUNS + 1)],
}
right = {name: np.stack(runs) for name, runs in right.items()}
display(
    pd.DataFrame(
        {
            "accuracy": {name: str(mean_accuracy(runs)) for name, runs in right.items()},
            "fine-tuned anew, minus this": {
                name: str(paired_gain(right["fine-tuned, anew"], runs))
                for name, runs in right.items()
                if not name.startswith("fine-tuned")
            },
        }
    ).fillna("")
)
display(
    Markdown(
        "Always giving the more frequent answer would have an accuracy of "
        f"{header['majority']:.2f}."
    )
)

# %% [markdown]
# ## The claims
#
# The paper {cite}`zhang2026` claims of large language models that fine-tuning (1) primarily removes
# noise-like interactions, (2) while rarely acquiring reliable new ones; that (3) this is brief, and that (4)
# further fine-tuning brings overfitted interactions. There, noise is told by a rule for a single model; here
# it is what does not come back. Each claim is put as a number that is above 0 if it holds, in runs anew.
# Strength is measured in nats squared, where a model that becomes surer has more of everything, and as a share.

# %% tags=["hide-input"]
back, noise = ({s: parts(in_nats, f"anew@{s}")[k] for s in (start, early, end)} for k in (0, 1))
share = {s: noise[s] / (noise[s] + back[s]) for s in (start, early, end)}
rho = similar(start, end)
unknown = Difference.unmeasurable("before fine-tuning, nothing comes back that could be compared")
tested = {
    "noise-like interactions are removed": (
        "strength of noise in nats squared, before minus after",
        noise[start] - noise[end],
    ),
    "noise becomes a smaller share": (
        "noise's share of the strength, before minus after",
        share[start] - share[end],
    ),
    "few reliable ones are added": (
        "strength that comes back in nats squared, before minus half of that after",
        back[start] - back[end] / 2,
    ),
    "what is reliable was there before": (
        "share of what comes back that start and end have in common, minus half",
        rho * abs(rho) - 0.5,
    ),
    "the denoising is brief": (
        f"fall of noise's share until step {early}, minus that from there on",
        share[start] - 2 * share[early] + share[end],
    ),
    "after it, noise-like ones are added": (
        f"noise's share of the strength, after minus at step {early}",
        share[end] - share[early],
    ),
}
numbers = {
    claim: unknown if np.isnan(x[0]) else Difference.of_resamples(x)
    for claim, (_, x) in tested.items()
}
verdicts = findings.judged(numbers)
judged = verdicts.set_index("cell")["verdict"]
glue("language_removed", judged["noise-like interactions are removed"], display=False)
glue("language_noise", judged["noise becomes a smaller share"], display=False)
glue("language_before", judged["what is reliable was there before"], display=False)
words = {claim: what for claim, (what, _) in tested.items()}
display(
    Markdown(
        "\n".join(
            f"- *{row.cell}*: **{row.verdict}** at this size ({words[row.cell]}: "
            f"{row.note if row.verdict == 'not measurable' else row.tested})."
            for row in verdicts.itertuples()
        )
    )
)

# %% [markdown]
# A claim is *confirmed* or *contradicted* if the 95 % interval over sentences lies on one side of 0 and p,
# corrected for the number of claims (Holm), is below 0.05; else it is *undecided*. The intervals are over
# sentences alone: so few runs say little of other runs. A large model answers such a prompt before it is
# fine-tuned; whether this one does, the table of accuracies says. A claim that fails here has failed *here*.
#
# ## Where these numbers come from

# %% tags=["hide-cell"]
tables.provenance({gpts.title: gpts})

# %% [markdown]
# The page draws recorded games. To compute them again:
#
#     python -m pi_lib run --only 19 --profile reduced -p record=""
#
# Next: [your own training run](20_your_training_run).
