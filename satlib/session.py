# Written by `python -m satlib.tangle` from chapters/session.md: edit that.
"""A model in training: weights, optimisers, history and random state."""

from dataclasses import asdict

import torch

from satlib.decoder import Decoder


def build_decoder(config, word_map, encoder):
    """Build the decoder that a configuration describes, with fresh weights."""
    return Decoder(
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


def _adam(model, rate):
    opened = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.Adam(opened, rate, fused=True)


class Session:
    """A model in training: its weights, optimisers and history on a device."""

    def __init__(self, config, encoder, word_map, device):
        torch.manual_seed(config.seed)
        self.config, self.word_map, self.history = config, word_map, []
        self.device, self.encoder = device, encoder.to(device)
        self.decoder = build_decoder(config, word_map, encoder).to(device)
        self.decoder_optimizer = _adam(self.decoder, config.decoder_lr)
        self.encoder_optimizer = None
        if config.fine_tune:
            self.encoder.fine_tune()
            self.encoder_optimizer = _adam(encoder, config.encoder_lr)
        self.optimizers = [self.encoder_optimizer, self.decoder_optimizer]
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def parts(self):
        """Name everything that has a state_dict and changes while training."""
        names = ["decoder", "decoder_optimizer", "scaler"]
        if self.config.fine_tune:
            names += ["encoder", "encoder_optimizer"]
        return {name: getattr(self, name) for name in names}

    @property
    def learning_rate(self):
        """The decoder's learning rate as it is now."""
        return self.decoder_optimizer.param_groups[0]["lr"]

    def checkpoint(self):
        """Give the session as plain data."""
        return {name: part.state_dict() for name, part in self.parts().items()} | {
            "config": asdict(self.config),
            "word_map": self.word_map,
            "history": self.history,
            "epoch": len(self.history),
            "best_bleu4": max((row["bleu4"] for row in self.history), default=0.0),
            "random_state": torch.get_rng_state(),
            "device_random_state": self._device("get_rng_state"),
        }

    def restore(self, checkpoint):
        """Take the session up where the checkpoint left it."""
        for name, part in self.parts().items():
            part.load_state_dict(checkpoint[name])
        self.history = checkpoint["history"]
        torch.set_rng_state(checkpoint["random_state"])
        self._device("set_rng_state", checkpoint["device_random_state"])

    def _device(self, function, *arguments):
        module = {"cuda": torch.cuda, "mps": torch.mps}.get(self.device.type)
        return getattr(module, function)(*arguments) if module else None
