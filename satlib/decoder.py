# Written by `python -m satlib.tangle` from chapters/decoder.md: edit that.
# chapters/decoder.md: Decoder: from regions to words
"""The decoder: attention, gate and LSTM, one word at a time, for a whole batch."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from satlib.attention import Attention
from satlib.initialization import init_weights
from satlib.lstm import LSTMCell


# chapters/decoder.md: What all steps share
class Memory(NamedTuple):
    """What all steps share, for a batch of B images."""

    keys: torch.Tensor  # (B, P, A), U a_i
    regions: torch.Tensor  # (B, P, D), a_i


# chapters/decoder.md: What comes out
class Decoded(NamedTuple):
    """What the decoder gives for a batch of k·B captions with W words to predict."""

    scores: torch.Tensor  # (W, V), step by step, at each the captions in their order
    targets: torch.Tensor  # (W,), the words to predict
    alphas: torch.Tensor  # (k·B, T, P), the maps, zero past a caption's end
    caption: torch.Tensor  # (W,), the caption that the word belongs to
    step: torch.Tensor  # (W,), its place there: 0 for the word after `<start>`

    @property
    def order(self):
        """The caption to which each row of `alphas` belongs, (k·B,): its own."""
        return torch.arange(len(self.alphas), device=self.alphas.device)


# chapters/decoder.md: The decoder
class Decoder(nn.Module):
    """Attention, gate and LSTM over whole captions (Xu et al. 2015, section 3.1.2).

    `pool` is the (P, C) matrix from cells to regions, or cells are regions. `look_dim`
    is the attention's. Embedding, LSTM and `fc` start uniform in ±0.1, biases at zero.
    """

    def __init__(
        self,
        attention_dim,
        embed_dim,
        decoder_dim,
        vocab_size,
        encoder_dim=1280,
        dropout=0.5,
        pool=None,
        look_dim=None,
    ):
        super().__init__()
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim, look_dim)
        self.decode_step = LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.register_buffer("pool", pool, persistent=False)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(decoder_dim, vocab_size)
        for part in (self.embedding, self.decode_step, self.fc):
            init_weights(part)

    def remember(self, cells):
        """Return the `Memory` of images with cells (B, C, D)."""
        regions = cells if self.pool is None else self.pool @ cells  # (B, P, D)
        return Memory(self.attention.keys(regions), regions)

    def start(self, cells):
        """Return the first state (B, H), (B, H): equation (decoder-start)."""
        mean = cells.mean(1) if self.pool is None else self.pool.mean(0) @ cells
        return self.init_h(mean), self.init_c(mean)

    def vectors(self, words):
        """Return E y, what a step takes of words (R,): (R, E)."""
        return self.embedding(words)

    def step(self, words, hidden, cell_state, memory, image, alpha=None):
        """Take one step: equation (decoder-step), all but the scores.

        Takes R rows, image by image: word vectors (R, E), the state (R, H), (R, H) and
        the number of the `image` (R,) that each looks at. With `alpha` (R, P) it looks
        where it is told. Returns the new hidden and cell state, alpha and the gate
        (R, D).
        """
        keys, query = memory.keys[image], self.attention.query(hidden)
        alpha = self.attention.alpha(keys, query) if alpha is None else alpha
        context = self.attention.context(alpha, memory.regions[image])  # (R, D)
        gate = torch.sigmoid(self.f_beta(hidden))  # (R, D)
        inputs = torch.cat([words, gate * context], dim=1)  # (R, E + D)
        return *self.decode_step(inputs, (hidden, cell_state)), alpha, gate

    def forward(self, encoder_out, captions, lengths):
        """Score the words of captions (k·B, L) of images with cells (B, C, D).

        Caption j belongs to image j // k; lengths[j] counts its ids, `<start>` and
        `<end>` included. Returns a `Decoded`.
        """
        steps = torch.arange(int(lengths.max()) - 1, device=captions.device)
        left = steps.unsqueeze(1) < lengths - 1  # (T, k·B), has it a word here?
        step, caption = left.nonzero(as_tuple=True)  # (W,), (W,)
        per_image = len(captions) // len(encoder_out)
        memory, rows = self.remember(encoder_out), left.sum(1).tolist()  # of each step
        state = [s.repeat_interleave(per_image, 0) for s in self.start(encoder_out)]
        words, images = self.vectors(captions[caption, step]), caption // per_image
        hiddens, alphas = [], []
        parts = zip(words.split(rows), images.split(rows), strict=True)
        for t, (of_step, image) in enumerate(parts):
            if len(image) < len(state[0]):
                stay = left[t, left[t - 1]].nonzero().squeeze(1)
                state = [s.index_select(0, stay) for s in state]
            *state, alpha, _ = self.step(of_step, *state, memory, image)
            hiddens.append(state[0])
            alphas.append(alpha)
        scores = self.fc(self.dropout(torch.cat(hiddens)))  # (W, V)
        maps = alpha.new_zeros(len(captions), len(left), alpha.shape[1])
        maps = maps.index_put((caption, step), torch.cat(alphas))
        return Decoded(scores, captions[caption, step + 1], maps, caption, step)


# chapters/decoder.md: The textbook's loop
def textbook_step(decoder, regions, words, hidden, cell_state):
    """Take one step literally, all but the scores (Xu et al. 2015, section 3.1.2).

    Takes the regions (b, P, D), the previous words (b,), the state (b, H) and (b, H).
    Returns the new hidden state, the new cell state and alpha (b, P).
    """
    attention = decoder.attention
    alpha = attention.alpha(attention.keys(regions), attention.query(hidden))  # (b, P)
    context = (regions * alpha.unsqueeze(2)).sum(dim=1)  # (b, D)
    gate = torch.sigmoid(decoder.f_beta(hidden))  # (b, D)
    inputs = torch.cat([decoder.embedding(words), gate * context], dim=1)
    hidden, cell_state = decoder.decode_step(inputs, (hidden, cell_state))
    return hidden, cell_state, alpha


# chapters/decoder.md: The textbook's loop
class Packed(NamedTuple):
    """The words of a batch of captions, step by step, the longest caption first."""

    order: torch.Tensor  # (k·B,), the captions' numbers, longest first
    targets: torch.Tensor  # (W,), the words to predict: all but the first of each
    batch_sizes: list  # (T,), how many captions have words left at each step


def pack(captions, lengths):
    """Pack captions (k·B, L) of which lengths (k·B,) ids each are no padding."""
    order = lengths.argsort(descending=True, stable=True)
    steps = (lengths[order] - 1).cpu()
    targets = pack_padded_sequence(captions[order, 1:], steps, batch_first=True)
    return Packed(order, targets.data, targets.batch_sizes.tolist())


# chapters/decoder.md: The textbook's loop
def textbook_forward(decoder, regions, captions, lengths):
    """Compute `Decoder.forward` by the textbook's literal loop; regions (B, P, D).

    Nothing is shared between steps or captions. For tests and benchmarks only.
    """
    order, targets, batch_sizes = pack(captions, lengths)
    captions = captions[order]
    regions = regions[order // (len(captions) // len(regions))]  # (k·B, P, D)
    hidden = decoder.init_h(regions.mean(dim=1))
    cell_state = decoder.init_c(regions.mean(dim=1))
    scores, places = [], []
    alphas = regions.new_zeros(len(captions), len(batch_sizes), regions.shape[1])
    for t, b in enumerate(batch_sizes):
        hidden, cell_state, alphas[order[:b], t] = textbook_step(
            decoder, regions[:b], captions[:b, t], hidden[:b], cell_state[:b]
        )
        scores.append(decoder.fc(decoder.dropout(hidden)))
        places.append(torch.stack([order[:b], torch.full_like(order[:b], t)]))
    return Decoded(torch.cat(scores), targets, alphas, *torch.cat(places, dim=1))
