"""The whole question on a network of one's own: what does it keep, and where does it come from?

`transfer_study` trains the arms of a study on a reader's networks and data, plays their games, and
gives a `TransferStudy`, which holds them against chance and a second run.
"""

import copy
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from pi_lib.engine import MOST_PLAYERS, choose_device, fingerprint
from pi_lib.engine.callables import Unidentified, digest
from pi_lib.engine.outputs import model_output
from pi_lib.extraction import extract, value_name
from pi_lib.interactions import Interactions
from pi_lib.knowledge import Share, compare, learned_by_scratch
from pi_lib.players.placement import describe
from pi_lib.reliability import ARMS, FEWEST_SAMPLES, Arms, Moments, Origins
from pi_lib.statistics import Difference, Estimate
from pi_lib.study.accuracies import mean_accuracy, paired_gain
from pi_lib.study.record import FLOAT32, Record, write
from pi_lib.study.schedule import best_rate
from pi_lib.training import Batches, Run, Split, TrainingDiverged, fit, images
from pi_lib.training.objectives import supervised
from pi_lib.training.probe import Probe, linear_probe
from pi_lib.training.seeds import random_state_restored, seed_of, set_seed
from pi_lib.values import log_odds

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
LONGER = 5  # times as many epochs as scratch


def transfer_study(
    pretrained: Callable[[], nn.Module],
    fresh: Callable[[], nn.Module],
    train,
    test,
    players,
    *,
    runs: int = 3,
    long_runs: int = 0,
    samples: int = 16,
    epochs: int = 10,
    learning_rate: float | Sequence[float] = RATES,
    batch_size: int = 32,
    validation: float = 0.2,
    tokenizer=None,
    value: Callable[[Any, Tensor], Tensor] = log_odds,
    output: str | int | Callable | None = None,
    features: str | Callable[..., Tensor] | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    folder: str | Path | None = None,
    verbose: bool | None = None,
) -> "TransferStudy":
    """Probe, fine-tune and train from scratch, play every network's games, and compare them.

    Parameters
    ----------
    pretrained : callable
        Gives a network with pre-trained weights and a head for the task. Each run calls it under a
        random state of its own, so that a new head differs; the same head each time is fine too.
    fresh : callable
        Gives the same network with random weights: other ones in each call.
    train, test : torch Dataset, `pi_lib.training.Split`, or pair (inputs, labels)
        Inputs are a tensor (N, ...), as images of dtype uint8, which reach the networks in [0, 1],
        or of a floating-point type; or a list of N sentences. Labels are integers from 0. A data
        set of pairs (input, label) is read once, so random transforms are drawn once.
    players : object with `n` and ``place(inputs, ids)``
        See `pi_lib.players`; 2 to 16 players.
    runs : int, default 3
        Fine-tuned networks, and networks from scratch: at least 2 of each.
    long_runs : int, default 0
        Networks trained from scratch for 5 times as many epochs; none, or at least 2.
    samples : int, default 16
        The first test samples that the players fit, at least 5: the games are about these.
        Accuracy is of all test samples.
    epochs, batch_size, device, verbose
        Of `pi_lib.training.fit`; by default 10 epochs, batches of 32.
    learning_rate : float or sequence of float, default 1e-4, 3e-4, 1e-3 and 3e-3
        Of several the one is taken, for fine-tuning and scratch apart, that is best on a held-out
        share of `train`, `validation` (default 0.2). Every run is then trained on all of `train`.
    tokenizer : fast tokenizer of `transformers`, optional
        Needed for sentences; default that of `players`.
    value, output
        Of `pi_lib.coalition_values`; the output is also what training compares with labels.
    features : str or callable, optional
        Where the probe reads: of `pi_lib.linear_probe`. Default the input of the last linear layer.
    seed : int, default 0
        Of weights, heads, batches and dropout: every arm and run draws from streams of its own.
    folder : path, optional
        Where finished runs and games are kept, and from where they are taken when the same is
        asked again; an interrupted run goes on. More runs or samples cost only what is new.

    Raises
    ------
    ValueError, TypeError
        Before any training: too few runs, samples or players; players that do not fit; labels that
        are no integers from 0; networks that do not have as many outputs as there are classes;
        pre-trained weights that change, scratch weights that do not.
    TrainingDiverged
        If a run diverged, or every learning rate. What was finished is in `folder`.

    Examples
    --------
    >>> from pi_lib import LabelMapPlayers
    >>> x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    >>> data = x, (x[:, 0] > 0).long()
    >>> def fresh():
    ...     return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> start = fresh().state_dict()
    >>> def pretrained():
    ...     network = fresh()
    ...     network.load_state_dict(start)
    ...     return network
    >>> players = LabelMapPlayers(torch.arange(3), baseline=0.0)
    >>> study = transfer_study(pretrained, fresh, data, data, players, epochs=2, learning_rate=0.01)
    >>> {arm: len(runs) for arm, runs in study.arms.items()}
    {'probe': 1, 'finetuned': 3, 'scratch': 3}
    """
    _check(runs, long_runs, samples, players.n, epochs, batch_size, learning_rate, validation)
    train, test = _split(train, "train"), _split(test, "test")
    asked = _asked(test, players, samples)
    work = _Work(
        {"probe": pretrained, "finetuned": pretrained, "scratch": fresh, "long": fresh},
        train, test, epochs, np.atleast_1d(learning_rate).tolist(), batch_size, validation,
        tokenizer or getattr(players, "tokenizer", None), output, features, choose_device(device),
        seed, folder and Path(folder), verbose,
    )  # fmt: skip
    work.look()
    counts = {"probe": 1, "finetuned": runs, "scratch": runs, "long": long_runs}
    arms, correct = ({arm: [] for arm in ARMS if counts[arm]} for _ in range(2))
    for arm in arms:
        for number in range(counts[arm]):
            run = work.run(arm, number)
            game = extract(
                run.model, asked.inputs, asked.labels, players, ids=asked.ids, value=value,
                output=output if arm != "probe" else None, device=work.device,
                share="repeatable", keep=work.folder and work.folder / "games",
            )  # fmt: skip
            game.meta.pop("output")  # of a probe it is all that there is
            arms[arm].append(game)
            correct[arm].append(run.correct[-1])
    settings = {
        "network": type(work.network).__name__, "features": work.reads, "runs": counts,
        "value": value_name(value), "classes": work.classes, "n_train": len(train),
        "epochs": epochs, "longer": LONGER, "batch_size": batch_size, "seed": seed,
        "rates": work.chosen,
    }  # fmt: skip
    return TransferStudy(arms, {arm: torch.stack(x) for arm, x in correct.items()}, settings)


@dataclass(frozen=True, eq=False)
class TransferStudy:
    """Several runs of every arm on the same samples and players, and what they say.

    Attributes
    ----------
    arms : dict of str to list of Interactions
        "probe" (an optimum: one run stands for all), "finetuned", "scratch", and "long" where
        there is long training from scratch.
    correct : dict of str to bool Tensor (runs, N)
        Which of the N test samples each run got right.
    settings : dict
        What was done, as JSON values.
    """

    arms: dict[str, list[Interactions]]
    correct: dict[str, Tensor] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)

    def accuracies(self) -> dict[str, Estimate]:
        """Mean accuracy of every arm's runs."""
        return {arm: mean_accuracy(right.numpy()) for arm, right in self.correct.items()}

    def gain(self, over: str = "scratch") -> Difference:
        """Accuracy of fine-tuning minus that of another arm, paired by test sample."""
        return paired_gain(self.correct["finetuned"].numpy(), self.correct[over].numpy())

    @cached_property
    def _arms(self) -> Arms:
        runs = self.arms | {"probe": self.arms["probe"][0]}  # an arm without chance in it
        return Arms(runs, "walsh", several=list(runs), resample_runs=None)

    def moments(self, orders: Sequence[int] | None = None, *, centred: bool = False) -> Moments:
        """The inner products that the next three rest on; arguments as of `pi_lib.origins`."""
        return self._arms.moments(orders, centred)

    def origins(self, **options) -> Origins:
        """Where what fine-tuned runs reproducibly know comes from; options as of `moments`."""
        return self.moments(**options).origins()

    def reliability(self, **options) -> dict[str, Estimate]:
        """How much of a run would come back in another, of every arm with chance in it."""
        moments = self.moments(**options)
        return {arm: moments.reliability(arm) for arm in self.arms if arm != "probe"}

    def similarity(self, **options) -> dict[str, Estimate]:
        """How much alike the other arms and the fine-tuned runs are in what is reproducible."""
        moments = self.moments(**options)
        others = [arm for arm in self.arms if arm != "finetuned"]
        return {arm: moments.similarity(arm, "finetuned") for arm in others}

    def shares(self, tau: float = 0.05) -> dict[str, Share]:
        """The paper's shares of the first runs, beside chance and a second run."""
        (probe,), (first, *others) = self.arms["probe"], self.arms["finetuned"]
        knowledge = compare(probe, first, tau, second_runs=others)
        learned = {
            f"preserved, learned by {ARMS[arm]}": learned_by_scratch(knowledge, runs[0]).ratio()
            for arm, runs in self.arms.items()
            if arm in ("scratch", "long")
        }
        return {"preserved": knowledge.preserved_share(), "new": knowledge.new_share()} | learned

    def table(self) -> pd.DataFrame:
        """Accuracy, reliability and similarity of every arm, in words."""
        columns = {
            "runs": {arm: len(runs) for arm, runs in self.arms.items()},
            "learning rate": {a: f"{x['chosen']:g}" for a, x in self.settings["rates"].items()},
            "accuracy": self.accuracies(),
            "comes back in a second run": {"probe": "all: it is an optimum"} | self.reliability(),
            "similarity with fine-tuned": self.similarity(),
        }
        frame = pd.DataFrame({name: pd.Series(x) for name, x in columns.items()}, list(self.arms))
        return frame.fillna("").map(_unbroken).rename(ARMS)

    def shares_table(self, tau: float = 0.05) -> pd.DataFrame:
        """`shares` in words."""
        rows = {name: share.row() for name, share in self.shares(tau).items()}
        frame = pd.DataFrame.from_dict(rows, orient="index").map(_unbroken)
        return frame.rename(columns={"second_run": "second run"})

    def sentences(self) -> list[str]:
        """What came out, a sentence each; which words are used depends on the intervals."""
        others = [arm for arm in ("scratch", "long") if arm in self.arms]
        said = [_gain_in_words(ARMS[arm], self.gain(arm)) for arm in others]
        said += [_reliability_in_words(self.reliability()["finetuned"])]
        said += [_origins_in_words(self.origins())]
        for arm, rates in self.settings["rates"].items():
            tried = sorted(map(float, rates["tried"]))
            for edge, word in ((tried[:1], "smaller"), (tried[-1:], "larger")):
                if rates["chosen"] in edge and arm != "long":
                    said.append(
                        f"For {ARMS[arm]} the best learning rate, {rates['chosen']:g}, is the last "
                        f"that was tried: a {word} one may be better still."
                    )
        return said

    def plot(self):
        """The main picture, a matplotlib Figure: `origins` beside the gain in accuracy."""
        from pi_lib.book import figures, study_figures  # noqa: F401, the first says what it needs

        name = self.settings["network"]
        frame = self.origins().to_frame().assign(cell=name)
        return study_figures.origins(frame, {name: self.gain()})

    def report(self) -> None:
        """Show the sentences, both tables and, in a notebook, the main picture; else print them."""
        said, tables = self.sentences(), (self.table(), self.shares_table())
        if "IPython" not in sys.modules or sys.modules["IPython"].get_ipython() is None:
            print("\n".join([*said, *(table.to_string() for table in tables)]))
            return
        from IPython.display import Markdown, display

        display(Markdown("\n".join(f"- {sentence}" for sentence in said)), *tables)
        self.plot()

    def save(self, path: str | Path) -> Path:
        """Write to one .npz file, games as float32, which `pi_lib.study.record` reads too."""
        name, first = self.settings["network"], self.arms["probe"][0]
        runs, right = (
            {f"{arm}{k}": x for arm, of_arm in arms.items() for k, x in enumerate(of_arm, 1)}
            for arms in (self.arms, self.correct)
        )
        meta = first.meta.items()
        same = {k: x for k, x in meta if all(run.meta.get(k) == x for run in runs.values())}
        header = {
            "version": FLOAT32, "cell": name, "title": name, "slug": Path(path).stem, "logs": {},
            "settings": self.settings, "rates": self.settings["rates"], "meta": {"drawn": same},
            "labels": first.labels, "ids": first.ids, "players": {"drawn": first.players},
            "accuracy": {key: x.double().mean().item() for key, x in right.items()},
            "tested": self.correct["probe"].shape[1],
        }  # fmt: skip
        games = {f"drawn/{key}": x.v.float().numpy() for key, x in runs.items()}
        return write(Path(path), header, games, {key: x.numpy() for key, x in right.items()})

    @classmethod
    def load(cls, path: str | Path) -> "TransferStudy":
        """Read what `save` wrote; a FileNotFoundError, or a ValueError for another file."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} is no file; expected one that `save` wrote")
        try:
            return cls.of_record(Record.load(path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no transfer study, or is damaged ({error})") from error

    @classmethod
    def of_record(cls, record: Record) -> "TransferStudy":
        """The runs of a record, which have here the words for them."""
        arms = {arm: record.runs(arm) for arm in ARMS if record.count(arm)}
        correct = {
            arm: np.stack([record.correct[f"{arm}{k}"] for k in range(1, len(runs) + 1)])
            for arm, runs in arms.items()
        }
        rates = {arm: x for arm, x in record.header["rates"].items() if arm != "probe"}
        settings = {"network": record.title, "rates": rates} | record.header["settings"]
        return cls(arms, {arm: torch.from_numpy(x) for arm, x in correct.items()}, settings)


def _unbroken(number: Estimate | str | int) -> str:
    """What a table shows, with no break within an interval."""
    return str(number).replace(", ", ",\N{NO-BREAK SPACE}")


def _gain_in_words(arm: str, gain: Difference) -> str:
    verb = {
        "above": "is more accurate than", "below": "is less accurate than",
        "undecided": "cannot be told in accuracy from",
    }[gain.compared_with(0)]  # fmt: skip
    return f"Fine-tuning {verb} {arm}: a difference of {gain}, paired by test sample."


def _reliability_in_words(again: Estimate) -> str:
    if not again.measurable:
        return f"How much of a fine-tuned run would come back is not measurable ({again.note})."
    if again.compared_with(0) != "above":
        return f"It is not certain that anything of a fine-tuned run would come back ({again})."
    return f"Of what a fine-tuned run knows, a share of {again} would come back in another."


def _origins_in_words(origins: Origins) -> str:
    if not origins.measurable:
        return f"Where fine-tuned knowledge comes from is not measurable ({origins.note})."
    return (
        "Of what fine-tuned runs reproducibly know, pre-training alone explains "
        f"{origins.pretraining}, scratch alone {origins.scratch}, both alike {origins.both}, "
        f"and neither {origins.neither}."
    )


@dataclass
class _Work:
    """How the networks of a study are made and trained, or taken from where they are kept."""

    makers: dict[str, Callable[[], nn.Module]]
    train: Split
    test: Split
    epochs: int
    rates: list[float]
    batch_size: int
    validation: float
    tokenizer: Any
    output: str | int | Callable | None
    features: str | Callable[..., Tensor] | None
    device: torch.device
    seed: int
    folder: Path | None
    verbose: bool | None
    chosen: dict[str, dict] = field(default_factory=dict)  # learning rates

    def look(self) -> None:
        """Refuse networks that do not fit the task, and find where the probe reads."""
        self.classes = 1 + int(max(self.train.labels.max(), self.test.labels.max()))
        splits = [Batches(x, torch.device("cpu"), self.tokenizer) for x in (self.train, self.test)]
        batch, _ = next(splits[1].in_order(2))
        x = batch.pop("x")
        start, again = (self.made("finetuned", f"look {k}") for k in "12")
        scratch, other = (self.made("scratch", f"look {k}") for k in "12")
        _check_weights(start, again, scratch, other)
        with torch.no_grad():
            for name, network in (("pretrained", start), ("fresh", scratch)):
                logits = _output(network.eval(), x, pick=self.output, **batch)
                if getattr(logits, "shape", None) != (len(x), self.classes):
                    raise ValueError(
                        f"{name}() gives {describe(logits)} for {len(x)} samples, and labels are 0 "
                        f"to {self.classes - 1}: expected ({len(x)}, {self.classes}). Give it a "
                        f"head of {self.classes} outputs, or say by output= what counts"
                    )
            self.network, where, self.reads = start, self.features, str(self.features)
            if where is None:
                where = partial(_output, pick=self.output)
                self.network, self.reads = _headless(start, x, batch, self.output)
            self.probe = Probe(self.network, where, nn.Identity()).eval()
            width = self.probe.features(x, **batch).shape[1]
        dtype = next(start.parameters()).dtype
        self.head = nn.utils.skip_init(nn.Linear, width, self.classes, dtype=dtype)
        if self.folder:
            self.data = fingerprint([[split.inputs, split.labels] for split in splits])

    def made(self, arm: str, label: str) -> nn.Module:
        """A new network, from a stream of random numbers of its own."""
        with random_state_restored(self.device):
            set_seed(seed_of(f"weights, {ARMS[arm]} {label}", self.seed), self.device)
            return self.makers[arm]().cpu()

    def run(self, arm: str, number: int) -> Run:
        """One trained network of an arm."""
        if arm != "probe":
            return self._trained(arm, str(number + 1), self._rate(arm), self.train, self.test)
        empty = Probe(self.network, self.probe.where, self.head)
        return self._kept(
            "linear probe", self.probe, [], empty,
            lambda _: linear_probe(
                self.network, self.train, self.test, features=self.probe.where,
                n_classes=self.classes, device=self.device, tokenizer=self.tokenizer,
                verbose=self.verbose,
            ),
        )  # fmt: skip

    def _trained(self, arm: str, label: str, rate: float, train: Split, test: Split) -> Run:
        model, epochs = self.made(arm, label), self.epochs * (LONGER if arm == "long" else 1)
        label = f"{ARMS[arm]} {label}"
        decides = [rate, epochs, self.batch_size, self.seed, fingerprint(train.ids)]
        return self._kept(
            label, model, decides, model,
            lambda interrupted: fit(
                model, train, test, epochs=epochs, learning_rate=rate, label=label,
                batch_size=self.batch_size, checkpoints=[], seed=self.seed, device=self.device,
                tokenizer=self.tokenizer, loss=self.cross_entropy, resume=interrupted,
                verbose=self.verbose,
            ),
        )  # fmt: skip

    def _kept(self, label: str, start, decides: list, empty, make: Callable[..., Run]) -> Run:
        """A run from the folder, where it is named by all that decides it; else made and kept."""
        if not self.folder:
            return make(None)
        try:
            code = digest(start, self.output)
        except Unidentified as error:
            raise ValueError(
                "folder= tells by code and data whether a network is what it was, and there is "
                f"{error}: use a network without it, or leave folder out"
            ) from None
        key = fingerprint([metadata.version("pi_lib"), code, self.data, label, *decides])
        place = self.folder / f"{label.replace(' ', '-')}-{key}"
        with FileLock(self.folder / f".{place.name}.lock"):  # the second to come waits
            if not (place / "run.json").exists():
                make(place / "interrupted").save(place)
                shutil.rmtree(place / "interrupted", ignore_errors=True)
        return Run.load(place, empty)

    def _rate(self, arm: str) -> float:
        """The arm's learning rate, best on the held-out part; long scratch has that of scratch."""
        if arm == "long":
            self.chosen[arm] = self.chosen["scratch"]
        if arm not in self.chosen:
            generator = torch.Generator().manual_seed(seed_of("validation", self.seed))
            order, tried = torch.randperm(len(self.train), generator=generator), {}
            first = max(1, round(self.validation * len(order)))
            parts = self.train.take(order[first:]), self.train.take(order[:first])
            for rate in self.rates if len(self.rates) > 1 else ():
                try:
                    end = self._trained(arm, "learning rate", rate, *parts).log[-1]
                    tried[rate] = {"accuracy": end["accuracy"], "loss": end["loss"]}
                except TrainingDiverged:
                    if rate == self.rates[-1] and not tried:
                        raise
            best = best_rate(tried) if tried else self.rates[0]
            self.chosen[arm] = {"chosen": best, "tried": {f"{r:g}": x for r, x in tried.items()}}
        return self.chosen[arm]["chosen"]

    def cross_entropy(self, model, x: Tensor, labels: Tensor, **others) -> tuple[Tensor, Tensor]:
        return supervised(partial(_output, model, pick=self.output), x, labels, **others)


def _check(runs, long_runs, samples, n, epochs, batch_size, learning_rate, validation) -> None:
    """Refuse numbers with which the question has no answer."""
    if runs < 2 or long_runs == 1 or long_runs < 0:
        raise ValueError(
            f"runs={runs}, long_runs={long_runs}: what would come back in another run cannot be "
            "known from fewer than two. Give runs of 2 or more, long_runs of 0, or 2 or more"
        )
    if samples < FEWEST_SAMPLES:
        raise ValueError(f"samples={samples}: an interval needs at least {FEWEST_SAMPLES}")
    if not 2 <= n <= MOST_PLAYERS:
        raise ValueError(
            f"{n} players; expected 2 to {MOST_PLAYERS}: one has no interaction, and beyond, all "
            "coalitions are too many. Use more or fewer, as by a coarser grid"
        )
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs={epochs}, batch_size={batch_size}; expected at least 1 of each")
    rates = np.atleast_1d(learning_rate)
    if not rates.size or not (np.isfinite(rates) & (rates > 0)).all():
        raise ValueError(f"learning_rate={learning_rate!r}; expected numbers above 0")
    if not 0 < validation < 1:
        raise ValueError(f"validation={validation}; expected a share above 0 and below 1")


def _split(data, name: str) -> Split:
    """Data of any of the forms that are taken, with ids by position."""
    if isinstance(data, Split):
        inputs, labels, ids = data.inputs, data.labels, data.ids
    else:
        try:
            if not (isinstance(data, tuple | list) and len(data) == 2) or _is_pair(data[0]):
                rows = [data[i] for i in range(len(data))]
                if isinstance(rows[0], Mapping):
                    raise TypeError
                data = tuple(zip(*rows, strict=True))
            inputs, labels = data
        except (TypeError, ValueError, KeyError):
            raise TypeError(
                f"{name} is {type(data).__name__}; expected a torch Dataset of pairs (input, "
                "label), a pair (inputs, labels), or a pi_lib.training.Split"
            ) from None
        if isinstance(inputs, np.ndarray):
            inputs = torch.from_numpy(inputs)
            floats = inputs.is_floating_point()
            inputs = inputs.to(torch.get_default_dtype()) if floats else inputs
        if not isinstance(inputs, Tensor):
            inputs = list(inputs)
            if not all(isinstance(x, str) for x in inputs):
                try:
                    inputs = torch.stack(inputs)
                except (TypeError, RuntimeError) as error:
                    raise TypeError(
                        f"{name}: expected inputs that are tensors of one shape (as of a data set "
                        f"with transform=ToTensor()), or sentences (str): {error}"
                    ) from None
        ids = list(range(len(inputs)))
    try:
        labels = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.tensor([])
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1:
        raise ValueError(f"{name}: expected labels that are class numbers, (N,) integers from 0")
    if len(labels) != len(inputs) or not len(labels) or labels.min() < 0:
        least = int(labels.min()) if len(labels) else "none"
        raise ValueError(
            f"{name}: {len(inputs)} inputs and {len(labels)} labels, the smallest {least}; "
            "expected a label from 0 up for each input"
        )
    return Split(inputs, labels.long(), ids)


def _is_pair(x) -> bool:
    return isinstance(x, tuple | list) and len(x) == 2 and not isinstance(x[0], str)


def _asked(test: Split, players, samples: int) -> Split:
    """The first test samples that players fit, refused where there are too few, or one class."""
    fits = getattr(players, "fits", lambda x: True)
    asked = test.take([*islice((i for i, x in enumerate(test.inputs) if fits(x)), samples)])
    if len(asked) < samples:
        raise ValueError(
            f"samples={samples}, and players fit {len(asked)} of {len(test)} test samples: ask for "
            "fewer samples or players"
        )
    if asked.labels.unique().numel() == 1 < test.labels.unique().numel():
        raise ValueError(
            f"the first {samples} test samples are all of class {asked.labels[0]}: shuffle test"
        )
    if isinstance(asked.inputs, Tensor) and asked.inputs.dtype == torch.uint8:
        asked = replace(asked, inputs=images(asked.inputs))
    players.place(asked.inputs, asked.ids)  # says what does not fit
    return asked


def _check_weights(start, again, scratch, other) -> None:
    """Refuse a start that is not pre-trained, and weights from scratch that are not new."""
    if not _in_common(start, again):
        raise ValueError(
            "pretrained() gives other weights in each call: load the same pre-trained ones in each"
        )
    for network, what in ((other, "its own"), (start, "pre-trained")):
        if same := [name for name, x in _in_common(scratch, network) if x.requires_grad]:
            raise ValueError(
                f"fresh() gives {what} {same[0]} again: networks from scratch must differ in all "
                "weights. Build a new network in each call, without a seed of its own"
            )


def _in_common(first: nn.Module, second: nn.Module) -> list[tuple[str, Tensor]]:
    """Weights, not constant ones, that are the same in both."""
    others = dict(second.named_parameters())
    return [
        (name, x)
        for name, x in first.named_parameters()
        if x.ndim > 1 and x.min() < x.max() and name in others and torch.equal(x, others[name])
    ]


def _headless(network: nn.Module, x: Tensor, others: dict, output) -> tuple[nn.Module, str]:
    """A copy whose last linear layer gives its own input, and what that is called."""
    network, seen = copy.deepcopy(network), {}
    hooks = [
        layer.register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
        for name, layer in network.named_modules()
        if name and isinstance(layer, nn.Linear)
    ]
    with torch.no_grad():
        logits = model_output(network(x, **others), output)
    for hook in hooks:
        hook.remove()
    last = [name for name, said in seen.items() if torch.equal(said, logits)]
    if not last:
        raise ValueError(
            f"the outputs of {type(network).__name__} are not those of a linear layer in it: say "
            'where the probe reads, features="avgpool" or another of model.named_modules()'
        )
    network.set_submodule(last[-1], nn.Identity())
    return network, f"the input of {last[-1]}"


def _output(model: nn.Module, x: Tensor, *, pick=None, **others) -> Tensor:
    return model_output(model(x, **others), pick)
