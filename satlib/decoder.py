# Written by `python -m satlib.tangle` from chapters/decoder.md: edit that.
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
from satlib.shared import SharedLinear, SharedScores


def textbook_step(decoder, regions, words, hidden, cell_state):
    """One step of equation (decoder-step), literally (Xu et al. 2015, section 3.1.2).

    Takes the regions (b, P, D), the last words' ids (b,), the state (b, H) and (b, H).
    Gives the new hidden state, the new cell state and alpha (b, P).
    """
    context, alpha = decoder.attention(regions, hidden)  # (b, D), (b, P)
    gate = torch.sigmoid(decoder.f_beta(hidden))  # (b, D)
    inputs = torch.cat([decoder.embedding(words), gate * context], dim=1)
    hidden, cell_state = decoder.decode_step(inputs, (hidden, cell_state))
    return hidden, cell_state, alpha


class Packed(NamedTuple):
    """The words of a batch of captions, step by step, the longest caption first."""

    order: torch.Tensor  # (k·B,), the captions' numbers, longest first
    inputs: torch.Tensor  # (W,), the words given: all but the last of each caption
    targets: torch.Tensor  # (W,), the words to predict: all but the first
    batch_sizes: list  # (T,), how many captions have words left at each step


def pack(captions, lengths):
    """Pack captions (k·B, L) of which lengths (k·B,) ids each are no padding."""
    order = lengths.argsort(descending=True, stable=True)
    rows, steps = captions[order], (lengths[order] - 1).cpu()
    inputs = pack_padded_sequence(rows[:, :-1], steps, batch_first=True)
    targets = pack_padded_sequence(rows[:, 1:], steps, batch_first=True)
    return Packed(order, inputs.data, targets.data, inputs.batch_sizes.tolist())


class Decoded(NamedTuple):
    """What the decoder gives for a batch of captions with W words to predict in all."""

    scores: torch.Tensor  # (W, V), packed: step by step, longest caption first
    targets: torch.Tensor  # (W,), the words to predict, in the same layout
    alphas: torch.Tensor  # (k·B, T, P), rows in `order`, zero past a caption's end
    order: torch.Tensor  # (k·B,), the captions' numbers, longest first


def textbook_forward(decoder, regions, captions, lengths):
    """Compute `Decoder.forward` by the textbook's literal loop; regions (B, P, D).

    Nothing is shared between steps or captions. For tests and benchmarks only.
    """
    order, _, targets, batch_sizes = pack(captions, lengths)
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


@dataclass
class Memory:
    """What all steps share, for the captions of a batch."""

    cells: torch.Tensor  # (b, C, D)
    scores: SharedScores  # query (b, k, A) -> scores (b, k, P)
    from_hidden: SharedLinear  # h -> query, gate, recurrent half, (b, k, A + D + 4H)
    from_context: SharedLinear  # gated context -> pre-activations (b, k, 4H)


class DecoderCell(nn.Module):
    """The decoder's layers and one step of it, for k states of each of b images."""

    def __init__(self, attention_dim, embed_dim, decoder_dim, encoder_dim, pool):
        super().__init__()
        self.sizes = [attention_dim, encoder_dim, 4 * decoder_dim]
        self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
        self.decode_step = LSTMCell(embed_dim + encoder_dim, decoder_dim)
        self.init_h = nn.Linear(encoder_dim, decoder_dim)
        self.init_c = nn.Linear(encoder_dim, decoder_dim)
        self.f_beta = nn.Linear(decoder_dim, encoder_dim)
        self.register_buffer("pool", pool, persistent=False)

    def remember(self, cells, image=None):
        """Put together what all steps share, for images with cells (B, C, D).

        `image` (b,) says for each row which image it looks at; by default each its own.
        """
        keys = self.attention.keys(cells)
        keys = keys if self.pool is None else self.pool @ keys  # (B, P, A)
        if image is not None:
            cells, keys = cells.index_select(0, image), keys.index_select(0, image)
        query, gate, cell = self.attention.decoder_att, self.f_beta, self.decode_step
        weight = torch.cat([query.weight, gate.weight, cell.weight_hh])
        bias = torch.cat([query.bias, gate.bias, cell.bias_hh])
        return Memory(
            cells,
            SharedScores(keys, self.attention.full_att.weight[0]),
            SharedLinear(weight, bias),
            SharedLinear(cell.weight_ih[:, -self.sizes[1] :]),
        )

    def step(self, word_input, hidden, cell_state, memory):
        """Take one step from the state (b, k, H), (b, k, H) with words (b, k, 4H).

        Gives hidden and cell state, alpha (b, k, P) and the gate (b, k, D).
        """
        products = memory.from_hidden(hidden).split(self.sizes, dim=-1)
        query, gate, recurrent = products
        scores = memory.scores(query) + self.attention.full_att.bias
        alpha = torch.softmax(scores, dim=-1)  # (b, k, P)
        weights = alpha if self.pool is None else alpha @ self.pool  # (b, k, C)
        gate = torch.sigmoid(gate)
        context = gate * (weights @ memory.cells[: len(hidden)])  # (b, k, D)
        pre = word_input + recurrent + memory.from_context(context)
        hidden, cell_state = self.decode_step.update(pre, cell_state)
        return hidden, cell_state, alpha, gate


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

    def word_inputs(self, words):
        """Give the words' half (…, 4H) of the LSTM's input product for ids (…)."""
        weight = self.decode_step.weight_ih[:, : self.embedding.embedding_dim]
        return F.linear(self.embedding(words), weight, self.decode_step.bias_ih)

    def start(self, cells):
        """Give the first state (B, H), (B, H): equation (decoder-start)."""
        mean = cells.mean(1) if self.pool is None else self.pool.mean(0) @ cells
        return self.init_h(mean), self.init_c(mean)

    def forward(self, encoder_out, captions, lengths):
        """Score the words of captions (k·B, L) of images with cells (B, C, D).

        Caption j belongs to image j // k; lengths[j] counts its ids, `<start>` and
        `<end>` included. Gives a `Decoded`.
        """
        words = pack(captions, lengths)
        image = words.order // (len(captions) // len(encoder_out))
        memory = self.remember(encoder_out, image)
        hidden, cell_state = (s[image].unsqueeze(1) for s in self.start(encoder_out))
        inputs = self.word_inputs(words.inputs).unsqueeze(1)  # (W, 1, 4H)
        hiddens, alphas = [], []
        for word_input in inputs.split(words.batch_sizes):
            b = len(word_input)  # the captions that still have words left
            hidden, cell_state, alpha, _ = self.step(
                word_input, hidden[:b], cell_state[:b], memory
            )
            hiddens.append(hidden.squeeze(1))
            alphas.append(F.pad(alpha.squeeze(1), (0, 0, 0, len(image) - b)))
        scores = self.fc(self.dropout(torch.cat(hiddens)))
        return Decoded(scores, words.targets, torch.stack(alphas, dim=1), words.order)
