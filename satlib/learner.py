# Written by `python -m satlib.tangle` from chapters/learner.md: edit that.
# chapters/learner.md: Learner: a model in training
"""A model in training: weights, optimisers, history and random state."""

from dataclasses import asdict

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from satlib.concepts import Concepts
from satlib.encoder import build_encoder
from satlib.recurrence import FastDecoder


# chapters/learner.md: The model
def encoder_of(config, pretrained=True):
    """Build the encoder that a configuration describes.

    Without `pretrained` its weights are random, to be loaded from a checkpoint.
    """
    return build_encoder(
        config.encoder,
        pretrained,
        config.image_size,
        config.stage,
        config.output_stride,
    )


# chapters/learner.md: The model
def build_decoder(config, word_map, encoder):
    """Build the decoder that a configuration describes, with fresh weights."""
    return FastDecoder(
        config.attention_dim,
        config.embed_dim,
        config.decoder_dim,
        len(word_map),
        encoder.encoder_dim,
        config.dropout,
        encoder.pool,
    )


def choose_device():
    """Choose the fastest device: CUDA, then Apple's, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


# chapters/learner.md: The average of where the weights have been
def moving_average(average, weights, count):
    """Move an average of weights towards the weights: equation (moving-average)."""
    return average + max(0.002, 9 / (count + 10)) * (weights - average)


# chapters/learner.md: The session
def _adam(models, rate):
    parameters = (p for model in models for p in model.parameters())
    opened = [p for p in parameters if p.requires_grad]
    return torch.optim.Adam(opened, rate, fused=True) if opened else None


def _on(device, function, *arguments):
    module = {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    return getattr(module, function)(*arguments) if module else None


# chapters/learner.md: The session
def learner_of(config, word_map, encoder):
    """Return all that learns at some time in a run, by name."""
    parts = {"decoder": build_decoder(config, word_map, encoder)}
    if config.concept_epochs:
        parts["concepts"] = Concepts(encoder.encoder_dim, len(word_map))
    if config.concept_epochs or config.fine_tune:
        parts["encoder"] = encoder
    return nn.ModuleDict(parts)


# chapters/learner.md: The session
class Session:
    """A model in training: its weights, optimisers and history on a device."""

    def __init__(self, config, encoder, word_map, device, lesson="words"):
        torch.manual_seed(config.seed)
        self.config, self.word_map, self.history = config, word_map, []
        self.device, self.encoder = device, encoder.to(device)
        self.learner = learner_of(config, word_map, encoder).to(device)
        self.decoder = self.learner["decoder"]
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self.start(lesson)

    def start(self, lesson):
        """Begin a lesson with the weights as they are: new average and optimisers."""
        self.lesson, config = lesson, self.config
        self.encoder.fine_tune(config.fine_tune or lesson == "concepts")
        self.average = AveragedModel(self.learner, avg_fn=moving_average)
        rates = config.encoder_lr, config.decoder_lr
        if lesson == "reward":
            rates = config.self_critical_lr, config.self_critical_lr
        others = [part for name, part in self.learner.items() if name != "encoder"]
        self.encoder_optimizer = _adam([self.encoder], rates[0])
        self.decoder_optimizer = _adam(others, rates[1])
        self.optimizers = [self.encoder_optimizer, self.decoder_optimizer]

    def follow(self):
        """Let the average follow the weights, after each step."""
        self.average.update_parameters(self.learner)

    def averaged(self):
        """Return the averaged encoder (None if frozen) and the averaged decoder."""
        models = dict(self.average.module.items())
        return models.get("encoder"), models["decoder"]

    def parts(self):
        """Name everything that has a state_dict and changes while training."""
        names = ["learner", "average", "decoder_optimizer", "scaler"]
        names += ["encoder_optimizer"] if self.encoder_optimizer else []
        return {name: getattr(self, name) for name in names}

    def checkpoint(self):
        """Return it all as plain data; `decoder` and `encoder` are the averages."""
        parts = self.parts() | dict(self.average.module.items())
        return {name: part.state_dict() for name, part in parts.items()} | {
            "config": asdict(self.config),
            "lesson": self.lesson,
            "word_map": self.word_map,
            "history": self.history,
            "epoch": len(self.history),
            "best_bleu4": max((r.get("bleu4", 0) for r in self.history), default=0),
            "random_state": torch.get_rng_state(),
            "device_random_state": _on(self.device, "get_rng_state"),
        }

    def take(self, checkpoint):
        """Go on from a checkpoint's averaged weights."""
        for name, model in self.learner.items():
            model.load_state_dict(checkpoint[name])

    def restore(self, checkpoint):
        """Take the session up where the checkpoint left it."""
        for name, part in self.parts().items():
            part.load_state_dict(checkpoint[name])
        self.history = checkpoint["history"]
        torch.set_rng_state(checkpoint["random_state"])
        _on(self.device, "set_rng_state", checkpoint["device_random_state"])
