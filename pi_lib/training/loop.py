"""A run in progress: the plain loop over batches, step by step, that the recipe sets up."""

import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pi_lib.files import whole, write_json
from pi_lib.progress import bar
from pi_lib.training.cuda_graph import Graphed
from pi_lib.training.lora import adaptable, add_adapters, merged
from pi_lib.training.run import TrainingDiverged, save_weights
from pi_lib.training.seeds import seed_of, set_seed
from pi_lib.training.split import Batches

SAVE_EVERY = 60.0  # seconds between the states that a run may go on from; saving takes 1 or 2
LOOK_EVERY = 16  # steps between two looks at the loss: each makes a GPU wait for Python
_NORMS = nn.modules.batchnorm._NormBase  # normalisation by statistics of what was seen


class Loop:
    """A run in progress: the network, what a step changes, and what was recorded on the way."""

    def __init__(self, model, loss, correct, settings: dict, steps: list[int], test, device, graph):
        self.settings, self.steps, self.device = settings, steps, device
        self.total = steps[-1]
        check_way(model, *(settings[name] for name in ("frozen", "lora", "pull")))
        self.still = first_layers(model, settings["frozen"])
        for layer in self.still:
            for x in layer.parameters(recurse=False):
                x.requires_grad_(False)
        self.adapted = self.merged = None  # under LoRA: the network, and it with plain weights
        if settings["lora"]:
            self.merged = copy.deepcopy(model).to(device).eval()
            set_seed(seed_of(f"lora, {settings['phase']}", settings["seed"]), device)
            self.adapted = add_adapters(model, settings["lora"])
            self.still = [x for x in model.encoder.modules() if isinstance(x, _NORMS)]
        self.model, self.loss, self.correct = model.to(device).eval(), loss, correct
        self.test = test
        self.trained = [x for x in model.parameters() if x.requires_grad]
        pulled = model.encoder.parameters() if settings["pull"] else ()
        self.pulled = [x for x in pulled if x.requires_grad]
        self.start = [x.detach().clone() for x in self.pulled]
        decay = [x for x in self.trained if x.ndim > 1]
        others = [x for x in self.trained if x.ndim <= 1]
        groups = [
            {"params": decay, "weight_decay": settings["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ]
        graphed = graph and device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            groups, fused=device.type in ("cpu", "cuda"), capturable=graphed
        )
        # a graph reads the rate where it lies
        self.rate = torch.zeros((), device=device) if graphed else None
        self.graphed = Graphed(self._learn) if graphed else None
        self.step, self.folder, self.unseen = 0, None, []
        self.states: dict[int, dict[str, Tensor]] = {}
        self.log: list[dict[str, float]] = []
        self.right: list[Tensor] = []
        self.per_epoch = math.ceil(settings["train"] / settings["batch_size"])

    def run(self, data: Batches, callbacks: "Callbacks", verbose: bool | None) -> None:
        """From the step where it stands to the last."""
        phase, seed, size = (self.settings[x] for x in ("phase", "seed", "batch_size"))
        saved = time.monotonic()
        callbacks("train_begin")
        if not self.log and 0 in self.steps:
            self.record(callbacks)
        with bar(phase, self.total, verbose, initial=self.step) as shown:
            for epoch in range(self.step // self.per_epoch, self.settings["epochs"]):
                generator = torch.Generator().manual_seed(seed_of(f"batches, {phase}", seed, epoch))
                order = torch.randperm(len(data), generator=generator)
                done = self.step - epoch * self.per_epoch
                callbacks("epoch_begin")
                for batch, labels in data(order[done * size :], size):
                    callbacks("step_begin")
                    self._take_step(batch, labels)
                    shown.update()
                    stop = callbacks("step_end")
                    if self.step in self.steps or stop:
                        self.record(callbacks)
                    elif len(self.unseen) >= LOOK_EVERY:
                        self._look()
                    if self.folder and time.monotonic() - saved >= SAVE_EVERY:
                        self.save()
                        saved = time.monotonic()
                    if stop:
                        break
                callbacks("epoch_end")
                if stop:
                    break
        callbacks("train_end")
        self.graphed = None  # which holds memory of the device

    def _take_step(self, batch: dict[str, Tensor], labels: Tensor) -> None:
        s = self.settings
        set_seed(seed_of(f"dropout, {s['phase']}", s["seed"], self.step), self.device)
        warmup = math.ceil(s["warmup"] * self.total)
        rate = s["learning_rate"] * schedule(self.step, self.total, warmup)
        if self.rate is not None:
            rate = self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._mode(True)
        self.unseen.append((self.graphed or self._learn)(batch, labels))
        self.step += 1

    def _learn(self, batch: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Change the weights by a batch; returns its loss."""
        others = {name: x for name, x in batch.items() if name != "x"}
        loss, _ = self.loss(self.model, batch["x"], labels, **others)
        self.optimizer.zero_grad()
        loss.backward()
        self._pull()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _pull(self) -> None:
        """Add the gradient of the pull: all parameters at once, whose kernels are small."""
        at = [i for i, x in enumerate(self.pulled) if x.grad is not None]
        if at:
            away = torch._foreach_sub([self.pulled[i] for i in at], [self.start[i] for i in at])
            slopes = [self.pulled[i].grad for i in at]
            torch._foreach_add_(slopes, away, alpha=self.settings["pull"])

    def _mode(self, training: bool) -> None:
        if self.model.training != training:
            self.model.train(training)
            for layer in self.still:
                layer.training = False  # of this layer alone: those within may be trained

    def _look(self) -> None:
        """Raise if a loss since the last look is not finite."""
        losses, self.unseen = self.unseen, []
        values = torch.stack(losses).cpu() if losses else torch.zeros(0)
        if len(wrong := (~values.isfinite()).nonzero()):
            first = int(wrong[0])
            self._diverged(values[first].item(), self.step - len(values) + first)

    def _diverged(self, value: float, step: int) -> None:
        raise TrainingDiverged(
            f"{self.settings['phase']}: the loss became {value} at step {step} of {self.total}; "
            f"try a learning rate below {self.settings['learning_rate']:g}"
        )

    def plain(self) -> nn.Module:
        """The network as it stands, with plain weights."""
        if self.adapted is None:
            return self.model
        self.merged.load_state_dict(merged(self.adapted))
        return self.merged

    def evaluate(self, data: Batches) -> tuple[float, Tensor]:
        """Mean loss, and which samples are right: bool, one each."""
        self._mode(False)
        model, losses, right = self.plain(), [], []
        with torch.no_grad():
            for batch, labels in data.in_order(4 * self.settings["batch_size"]):
                loss, outputs = self.loss(model, batch.pop("x"), labels, **batch)
                losses.append(loss.double() * len(labels))
                right.append(self.correct(outputs, labels).bool())
        return torch.stack(losses).sum().item() / len(data), torch.cat(right).cpu()

    def record(self, callbacks: "Callbacks") -> None:
        """Evaluate, and keep the weights of this step."""
        self._look()
        loss, right = self.evaluate(self.test)
        if not math.isfinite(loss):
            self._diverged(loss, self.step)
        weights = self.plain().state_dict()
        self.states[self.step] = {name: x.detach().cpu().clone() for name, x in weights.items()}
        row = {
            "step": self.step, "epoch": self.step / self.per_epoch,
            "loss": loss, "accuracy": right.double().mean().item(),
        }  # fmt: skip
        self.log.append(row)
        self.right.append(right)
        callbacks.evaluated(row)

    def resume(self, folder: Path, start: str, data: str) -> None:
        """Save into a folder from now on, and take up what an earlier attempt saved there."""
        _check_asked(folder, self.settings | {"steps": self.steps, "start": start, "data": data})
        self.folder = folder
        try:
            state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
            states = {row["step"]: load_file(self._file(row["step"])) for row in state["log"]}
        except FileNotFoundError:
            return  # nothing yet
        self.states, self.log, self.right = states, state["log"], list(state["right"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        """All that the run goes on from, whole or not at all."""
        self._look()
        for step, weights in self.states.items():
            if not self._file(step).exists():
                save_weights(weights, self._file(step))
        state = {
            "step": self.step, "log": self.log, "right": self.right,
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        with whole(self.folder / "state.pt") as aside, aside.open("wb") as file:
            torch.save(state, file)  # given a path, it would not say that the disk is full

    def _file(self, step: int) -> Path:
        return self.folder / f"{step}.safetensors"


def schedule(step: int, total: int, warmup: int) -> float:
    """The learning rate at a step, as a share of its peak: a linear rise, then a cosine to 0.

    Examples
    --------
    >>> [round(schedule(step, 10, 2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup:
        return (step + 1) / warmup  # the first step is not lost
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def first_layers(model: nn.Module, share: float) -> list[nn.Module]:
    """The first layers of a model's encoder, from the input: a share of those with parameters.

    Raises ValueError if the share is not at least 0 and below 1, or the model has no encoder.

    Examples
    --------
    >>> model = nn.Module()
    >>> model.encoder = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    >>> first_layers(model, 0.5)
    [Linear(in_features=2, out_features=3, bias=True)]
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"frozen={share!r}; expected a share of the encoder's layers, at least 0 and below 1 "
            "(all of them: pi_lib.linear_probe)"
        )
    if not share:
        return []
    _check_encoder(model, f"frozen={share!r}")
    layers = [
        layer
        for layer in model.encoder.modules()
        if next(layer.parameters(recurse=False), None) is not None
    ]
    return layers[: round(share * len(layers))]


def check_way(model: nn.Module, frozen: float = 0.0, lora: int = 0, pull: float = 0.0) -> None:
    """Refuse what is no rank, no strength, no combination, or not possible with this model."""
    if isinstance(lora, bool) or not isinstance(lora, int) or lora < 0:
        raise ValueError(f"lora={lora!r}; expected a rank, an integer, at least 0 (0: no LoRA)")
    if not 0 <= pull < math.inf:
        raise ValueError(f"pull={pull!r}; expected a number, at least 0 (0: no pull)")
    for name, given in (("frozen", frozen), ("pull", pull)):
        if lora and given:
            raise ValueError(
                f"{name}={given!r} with lora={lora!r}: LoRA leaves the encoder's own weights where "
                "they are; choose one of the two"
            )
    for name, given in (("lora", lora), ("pull", pull)):
        if given:
            _check_encoder(model, f"{name}={given!r}")
    if lora:
        adaptable(model, lora)
    first_layers(model, frozen)


def _check_encoder(model: nn.Module, what: str) -> None:
    if not isinstance(getattr(model, "encoder", None), nn.Module):
        raise ValueError(f"{what} is of the layers of model.encoder, and there is none")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """A GPU's sums in an order that is the same every time; its kernels on a stream of their own.

    What is recorded as a graph may not have been prepared on the default stream.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before, cudnn.deterministic = cudnn.deterministic, True
    try:
        with torch.cuda.device(device):
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                yield
            current.wait_stream(stream)
    finally:
        cudnn.deterministic = before


class Callbacks:
    """transformers' callbacks in this loop: they see what a `Trainer` would show them."""

    def __init__(self, callbacks: Sequence, loop: Loop):
        self.handler, self.loop = None, loop
        if not callbacks:
            return  # nor is transformers needed
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

        callbacks = [DefaultFlowCallback(), *callbacks]
        self.handler = CallbackHandler(callbacks, loop.model, None, loop.optimizer, None)
        settings = loop.settings
        self.args = TrainingArguments(
            num_train_epochs=settings["epochs"], learning_rate=settings["learning_rate"],
            per_device_train_batch_size=settings["batch_size"], seed=settings["seed"],
            use_cpu=loop.device.type == "cpu", report_to=[],
        )  # fmt: skip
        self.control = TrainerControl()
        self.state = TrainerState(max_steps=loop.total, num_train_epochs=settings["epochs"])

    def __call__(self, event: str, **given) -> bool:
        """Tell them; returns whether the run is to stop here."""
        if self.handler is None:
            return False
        self.state.global_step = self.loop.step
        self.state.epoch = self.loop.step / self.loop.per_epoch
        tell = getattr(self.handler, f"on_{event}")
        self.control = tell(self.args, self.state, self.control, **given)
        return self.control.should_training_stop

    def evaluated(self, row: dict[str, float]) -> None:
        """Tell them of a checkpoint."""
        if self.handler is None:
            return
        logs = {f"eval_{name}": row[name] for name in ("loss", "accuracy")}
        logs["epoch"] = row["epoch"]
        self.state.log_history.append(logs | {"step": row["step"]})
        self("log", logs=dict(logs))
        self("evaluate", metrics=logs)


def _check_asked(folder: Path, asked: dict[str, Any]) -> None:
    """Make the folder this run's; a ValueError if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "asked.json"
    if not path.exists():
        return write_json(path, asked)
    there = json.loads(path.read_text())
    if differ := [name for name in asked if there.get(name) != asked[name]]:
        raise ValueError(
            f"{folder} holds the state of another run: "
            + ", ".join(f"{name} {there.get(name)!r}, not {asked[name]!r}" for name in differ)
            + "; name another folder, or remove it"
        )
