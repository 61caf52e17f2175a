# Written by `python -m satlib.tangle` from chapters/learner.md: edit that.
# chapters/learner.md: Learner: a model in training
"""A model in training: weights, optimisers, history and random state."""

from dataclasses import asdict

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from satlib import __version__
from satlib.concepts import Concepts
from satlib.model import check_weights, choose_device
from satlib.scale import gathered, rank
from satlib.training import Iterations


# chapters/learner.md: The average of where the weights have been
def moving_average(average, weights, count):
    """Move an average of weights towards the weights: equation (moving-average)."""
    return average + max(0.002, 9 / (count + 10)) * (weights - average)


# chapters/learner.md: What learns
def models_of(model):
    """Return all of a `Model` that a run learns, or has from elsewhere, by name."""
    config, encoder = model.config, model.encoder
    models = {"decoder": model.decoder}
    if config.concept_epochs:
        models["concepts"] = Concepts(encoder.encoder_dim, len(model.word_map))
    if config.concept_epochs or config.fine_tune or config.captioner:
        models["encoder"] = encoder
    return nn.ModuleDict(models)


# chapters/learner.md: What learns
def _adam(models, rate):
    parameters = (p for model in models for p in model.parameters())
    opened = [p for p in parameters if p.requires_grad]
    return torch.optim.Adam(opened, rate, fused=True) if opened else None


# chapters/learner.md: The learner
class Learner:
    """A model in training: its weights, optimisers and history on a device.

    `models` are those that learn, `average` their moving average; `history` has a dict
    for each epoch; `begun` is what `Iterations` goes on from in an epoch that was
    interrupted, otherwise None. The random numbers are PyTorch's own.
    """

    keep = epochs = outlook = None  # for `Iterations`, each as it says

    def __init__(self, model, lesson):
        self.config, self.word_map, self.history = model.config, model.word_map, []
        self.device = choose_device()
        self.encoder = model.encoder.to(self.device)
        self.models = models_of(model).to(self.device)
        self.decoder = self.models["decoder"]
        self.begun = None
        self.start(lesson)
        if rank():  # each process drops out other entries, with the same weights
            torch.manual_seed(self.config.seed + rank())

    def start(self, lesson):
        """Begin a lesson with the weights as they are: new average and optimisers."""
        self.lesson = lesson
        self.encoder.fine_tune(lesson.opens_encoder(self.config))
        self.average = AveragedModel(self.models, avg_fn=moving_average)
        rates = lesson.rates(self.config)
        others = [model for name, model in self.models.items() if name != "encoder"]
        self.optimizers = [_adam([self.encoder], rates[0]), _adam(others, rates[1])]

    def follow(self):
        """Let the average follow the weights, after each step."""
        self.average.update_parameters(self.models)

    def averaged(self):
        """Return the averaged encoder (None if no checkpoint needs it) and decoder."""
        models = dict(self.average.module.items())
        return models.get("encoder"), models["decoder"]

    def settings(self):
        """Return what each step of training is given, whatever is learnt."""
        chosen = {"grad_clip": self.config.grad_clip, "after_step": self.follow}
        chosen |= {"epochs": self.epochs, "outlook": self.outlook}
        return chosen | {"keep": self.keep, "begun": self.begun}

    def iterations(self, loader, number):
        """Return the `Iterations` of epoch `number` over a loader."""
        return Iterations(loader, self.optimizers, number, **self.settings())

    def parts(self):
        """Return by name everything that has a state_dict and changes in training."""
        parts = {"learner": self.models, "average": self.average}
        names = "encoder_optimizer", "decoder_optimizer"
        parts |= dict(zip(names, self.optimizers, strict=True))
        return {name: part for name, part in parts.items() if part is not None}

    def checkpoint(self, begun=None):
        """Return it all as plain data; `decoder` and `encoder` are the averages."""
        (states,) = gathered([random_states(self.device)])
        parts = self.parts() | dict(self.average.module.items())
        return {name: part.state_dict() for name, part in parts.items()} | {
            "version": __version__,
            "config": asdict(self.config),
            "lesson": self.lesson.name,
            "word_map": self.word_map,
            "history": self.history,
            "epoch": len(self.history),
            "best_bleu4": max((r.get("bleu4", 0) for r in self.history), default=0),
            "begun": begun,
            "random_states": states,
        }

    def take(self, checkpoint):
        """Go on from a checkpoint's averaged weights."""
        for name, model in self.models.items():
            model.load_state_dict(checkpoint[name])

    def restore(self, checkpoint):
        """Take the learner up where the checkpoint left it, in the same lesson.

        Raises ValueError where the checkpoint is not of such a learner.
        """
        check_state(self.parts(), checkpoint)
        for name, part in self.parts().items():
            part.load_state_dict(checkpoint[name])
        self.history, self.begun = checkpoint["history"], checkpoint["begun"]
        for state in checkpoint["random_states"][rank() : rank() + 1]:
            restore_random_states(self.device, state)


# chapters/learner.md: The learner
KINDS = {"history": list, "epoch": int, "lesson": str, "random_states": list}
KINDS |= dict.fromkeys(("learner", "average", "decoder_optimizer"), dict)


def check_kept(checkpoint):
    """Raise a ValueError where a checkpoint holds no learner.

    It is one that `load_checkpoint` has returned.
    """
    for name, kind in KINDS.items():
        if not isinstance(checkpoint.get(name), kind):
            raise ValueError(f"it has no {name} to go on from")
    for name, prefix in {"learner": "decoder.", "average": "module.decoder."}.items():
        kept = checkpoint[name].items()
        found = {k.removeprefix(prefix): v for k, v in kept if k.startswith(prefix)}
        check_weights(name, found, checkpoint["decoder"])


# chapters/learner.md: The learner
def check_state(parts, checkpoint):
    """Raise a ValueError where a checkpoint's states do not fit a learner's parts."""
    for name, part in parts.items():
        if not isinstance(checkpoint.get(name), dict):
            raise ValueError(f"it has no {name}")
        if isinstance(part, nn.Module):
            check_weights(name, checkpoint[name], part.state_dict())
        elif isinstance(part, torch.optim.Optimizer):
            _check_optimizer(name, part, checkpoint[name])


def _check_optimizer(name, optimizer, state):
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    remembered = state["state"].items()
    shapes = all(m["exp_avg"].shape == weights[n].shape for n, m in remembered)
    finite = all(torch.isfinite(t).all() for _, m in remembered for t in m.values())
    rates = all(0 < group["lr"] < 100 for group in state["param_groups"])
    if numbers != [*range(len(weights))] or not (shapes and finite and rates):
        raise ValueError(f"its {name} is not of these weights")


# chapters/learner.md: The learner
def random_states(device):
    """Return the states of PyTorch's random numbers and of a device's own, or None."""
    own = None
    if device.type != "cpu":
        own = torch.get_device_module(device).get_rng_state()
    return {"random_state": torch.get_rng_state(), "device_random_state": own}


def restore_random_states(device, states):
    """Go on with the random numbers of `random_states`, on a device of any kind."""
    torch.set_rng_state(states["random_state"])
    own = states["device_random_state"]
    if own is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(own)
