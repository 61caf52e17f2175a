# Written by `python -m satlib.tangle` from chapters/decoder.md: edit that.
# chapters/decoder.md: Decoder: from regions to words
"""The decoder: attention, gate and LSTM, one word at a time, for a whole batch."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence

from satlib.attention import Attention
from satlib.initialization import init_weights
from satlib.lstm import LSTMCell
from satlib.recurrence import SharedContext, SharedLinear, SharedScores


# chapters/decoder.md: One step, as the textbook writes it
def textbook_step(decoder, regions, words, hidden, cell_state):
    """One step of equation (decoder-step), literally (Xu et al. 2015, section 3.1.2).

    Takes the regions (b, P, D), the last words' ids (b,), the state (b, H) and (b, H).
    Returns the new hidden state, the new cell state and alpha (b, P).
    """
    attention = decoder.attention
    alpha = attention.alpha(attention.keys(regions), attention.query(hidden))  # (b, P)
    context = (regions * alpha.unsqueeze(2)).sum(dim=1)  # (b, D)
    gate = torch.sigmoid(decoder.f_beta(hidden))  # (b, D)
    inputs = torch.cat([decoder.embedding(words), gate * context], dim=1)
    hidden, cell_state = decoder.decode_step(inputs, (hidden, cell_state))
    return hidden, cell_state, alpha


# chapters/decoder.md: Captions of different lengths in one batch
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


# chapters/decoder.md: Captions of different lengths in one batch
class Decoded(NamedTuple):
    """What the decoder gives for a batch of captions with W words to predict in all."""

    scores: torch.Tensor  # (W, V), packed: step by step, longest caption first
    targets: torch.Tensor  # (W,), the words to predict, in the same layout
    alphas: torch.Tensor  # (k·B, T, P), rows in `order`, zero past a caption's end
    order: torch.Tensor  # (k·B,), the captions' numbers, longest first


# chapters/decoder.md: Captions of different lengths in one batch
def textbook_forward(decoder, regions, captions, lengths):
    """Compute `Decoder.forward` by the textbook's literal loop; regions (B, P, D).

    Nothing is shared between steps or captions. For tests and benchmarks only.
    """
    order, targets, batch_sizes = pack(captions, lengths)
    captions = captions[order]
    regions = regions[order // (len(captions) // len(regions))]  # (k·B, P, D)
    hidden = decoder.init_h(regions.mean(dim=1))
    cell_state = decoder.init_c(regions.mean(dim=1))
    scores = []
    alphas = regions.new_zeros(len(captions), len(batch_sizes), regions.shape[1])
    for t, b in enumerate(batch_sizes):
        hidden, cell_state, alphas[:b, t] = textbook_step(
            decoder, regions[:b], captions[:b, t], hidden[:b], cell_state[:b]
        )
        scores.append(decoder.fc(decoder.dropout(hidden)))
    return Decoded(torch.cat(scores), targets, alphas, order)


# chapters/decoder.md: What need not be repeated
@dataclass
class Memory:
    """What all steps share, for a batch of images."""

    scores: SharedScores  # query (R, A) -> scores (R, P)
    context: SharedContext  # weights (R, C) -> context (R, D)
    from_hidden: SharedLinear  # h -> query, gate, recurrent half, (R, A + D + 4H)
    from_context: SharedLinear  # gated context -> pre-activations (R, 4H)
    word_weight: torch.Tensor  # (4H, E), the word's half of the LSTM's input weights


# chapters/decoder.md: What need not be repeated
class DecoderCell(nn.Module):
    """The decoder's layers and one step of it, for several states of each image."""

    def __init__(self, attention_dim, embed_dim, decoder_dim, encoder_dim, pool):
        super().__init__()
        self.sizes = [attention_dim, encoder_dim, 4 * decoder_dim]
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.decode_step = LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.register_buffer("pool", pool, persistent=False)

    def remember(self, cells):
        """Put together what all steps share, for images with cells (B, C, D)."""
        keys = self.attention.keys(cells)
        keys = keys if self.pool is None else self.pool @ keys  # (B, P, A)
        query, gate, cell = self.attention.decoder_att, self.f_beta, self.decode_step
        weight = torch.cat([query.weight, gate.weight, cell.weight_hh])
        bias = torch.cat([query.bias, gate.bias, cell.bias_hh])
        of_context = cells.shape[2]
        halves = cell.weight_ih.split([cell.input_size - of_context, of_context], dim=1)
        return Memory(
            SharedScores(keys, self.attention.full_att.weight[0]),
            SharedContext(cells),
            SharedLinear(weight, bias),
            SharedLinear(halves[1]),
            halves[0],
        )

    def step(self, word_input, hidden, cell_state, memory, counts):
        """Take one step from the state (R, H), (R, H) with words (R, 4H).

        The rows stand image by image, `counts` (B,) of them for each. Returns hidden
        and cell state, alpha (R, P) and the gate (R, D).
        """
        products = memory.from_hidden(hidden).split(self.sizes, dim=-1)
        query, gate, recurrent = products
        scores = memory.scores(query, counts) + self.attention.full_att.bias
        alpha = torch.softmax(scores, dim=-1)  # (R, P)
        weights = alpha if self.pool is None else alpha @ self.pool  # (R, C)
        gate = torch.sigmoid(gate)
        context = gate * memory.context(weights, counts)  # (R, D)
        pre = word_input + recurrent + memory.from_context(context)
        hidden, cell_state = self.decode_step.update(pre, cell_state)
        return hidden, cell_state, alpha, gate


# chapters/decoder.md: What need not be repeated
def visits(lengths):
    """Number the W words as the loop meets them, (T, k·B); W where a caption has ended.

    The loop takes step after step, at each the captions in their own order.
    """
    steps = torch.arange(int(lengths.max()) - 1, device=lengths.device)
    left = steps.unsqueeze(1) < lengths - 1  # (T, k·B)
    met = left.flatten().cumsum(0).view_as(left) - 1
    return met.masked_fill(~left, left.sum())


# chapters/decoder.md: What need not be repeated
class Decoder(DecoderCell):
    """Attention, gate and LSTM over whole captions (Xu et al. 2015).

    `pool` is the (P, C) matrix from cells to regions; without it, cells are regions.
    The embedding, the LSTM and `fc` start uniform in ±0.1 with zero biases.
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
    ):
        super().__init__(attention_dim, embed_dim, decoder_dim, encoder_dim, pool)
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(decoder_dim, vocab_size)
        for part in (self.embedding, self.decode_step, self.fc):
            init_weights(part)

    def word_inputs(self, words, memory):
        """Return the words' half (…, 4H) of the LSTM's input product for ids (…)."""
        bias = self.decode_step.bias_ih
        return F.linear(self.embedding(words), memory.word_weight, bias)

    def start(self, cells):
        """Return the first state (B, H), (B, H): equation (decoder-start)."""
        mean = cells.mean(1) if self.pool is None else self.pool.mean(0) @ cells
        return self.init_h(mean), self.init_c(mean)

    def forward(self, encoder_out, captions, lengths):
        """Score the words of captions (k·B, L) of images with cells (B, C, D).

        Caption j belongs to image j // k; lengths[j] counts its ids, `<start>` and
        `<end>` included. Returns a `Decoded`.
        """
        words, number = pack(captions, lengths), visits(lengths)
        left = number < len(words.targets)  # (T, k·B)
        counts = left.unflatten(1, (len(encoder_out), -1)).sum(2).tolist()  # (T, B)
        memory = self.remember(encoder_out)
        inputs = self.word_inputs(captions.T[: len(left)][left], memory)  # (W, 4H)
        per_image = len(captions) // len(encoder_out)
        state = [s.repeat_interleave(per_image, 0) for s in self.start(encoder_out)]
        hiddens, alphas = [], []
        for t, word_input in enumerate(inputs.split(words.batch_sizes)):
            if len(word_input) < len(state[0]):
                stay = left[t, left[t - 1]].nonzero().squeeze(1)
                state = [s.index_select(0, stay) for s in state]
            *state, alpha, _ = self.step(word_input, *state, memory, counts[t])
            hiddens.append(state[0])
            alphas.append(alpha)
        alphas.append(torch.zeros_like(alpha[:1]))  # the map of no word, number W
        packed = number[:, words.order][left[:, words.order]]
        scores = self.fc(self.dropout(torch.cat(hiddens).index_select(0, packed)))
        maps = torch.cat(alphas).index_select(0, number.T[words.order].flatten())
        maps = maps.view(len(captions), len(left), -1)
        return Decoded(scores, words.targets, maps, words.order)
