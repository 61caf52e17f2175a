# Written by `python -m satlib.tangle` from chapters/attention.md: edit that.
# chapters/attention.md: Attention: where to look
"""Additive attention: weigh the regions of a picture, then mix them into one vector."""

import torch
from torch import nn


# chapters/attention.md: The class
class Attention(nn.Module):
    """Weigh the regions of a picture by a hidden state (Bahdanau et al., 2015, A.1.2).

    Scores, weights and context are equations 4 to 6 of Xu et al., 2015, with
    e_i = v · ReLU(U a_i + W h) for the score. All leading dimensions broadcast. The
    score may be of the first `look_dim` numbers of a region only.
    """

    def __init__(self, encoder_dim, decoder_dim, attention_dim, look_dim=None):
        super().__init__()
        self.encoder_dim, self.look_dim = encoder_dim, look_dim
        self.encoder_att = nn.Linear(look_dim or encoder_dim, attention_dim)  # U
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)  # W
        self.full_att = nn.Linear(attention_dim, 1)  # v

    def keys(self, regions):
        """Return U a_i: (B, P, D) -> (B, P, A). It is the same for every word."""
        _check_width("regions", regions, "encoder_dim", self.encoder_dim)
        return self.encoder_att(regions[..., : self.look_dim])

    def query(self, hidden):
        """Return W h: (B, H) -> (B, A)."""
        _check_width("hidden", hidden, "decoder_dim", self.decoder_att.in_features)
        return self.decoder_att(hidden)

    def scores(self, keys, query):
        """Return e: (B, P, A), (B, A) -> (B, P)."""
        return self.full_att(torch.relu(keys + query.unsqueeze(-2))).squeeze(-1)

    def alpha(self, keys, query):
        """Return the weights: (B, P, A), (B, A) -> (B, P); each row adds up to one."""
        return torch.softmax(self.scores(keys, query), dim=-1)

    def context(self, alpha, regions):
        """Return z, the weighted sum: (B, P), (B, P, D) -> (B, D)."""
        return (alpha.unsqueeze(-2) @ regions).squeeze(-2)

    def forward(self, encoder_out, hidden):
        """Return context and weights: (B, P, D), (B, H) -> (B, D), (B, P).

        Raises ValueError where the last dimension is not the one of the layers.
        """
        alpha = self.alpha(self.keys(encoder_out), self.query(hidden))
        return self.context(alpha, encoder_out), alpha


def _check_width(name, tensor, dimension, width):
    if tensor.shape[-1] != width:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, but this attention was built "
            f"with {dimension}={width}, which must be the last number"
        )
