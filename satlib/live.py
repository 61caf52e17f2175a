# Written by `python -m satlib.tangle` from chapters/live.md: edit that.
# chapters/live.md: Live: the captioner in the page
"""The captioner in a web page: `export` writes all that a browser needs."""

import argparse
import base64
import copy
import gzip
import html
import io
import json
import os
import warnings
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnxruntime import InferenceSession
from PIL import Image
from torch import nn

from satlib.beam_search import FUNCTION, RIVALS, beam_search
from satlib.captioner import caption_from, load_captioner
from satlib.configuration import Config
from satlib.decoder import Decoder
from satlib.figures import jpeg
from satlib.files import data_folder, make_folder, write_text
from satlib.fit import fit
from satlib.maps import as_shown
from satlib.photographs import load_photograph
from satlib.scenes import draw, make_scene
from satlib.site import RUNTIME, addresses


# chapters/live.md: What a graph is
class Look(nn.Module):
    """What is done once for a picture, as a function of tensors."""

    outputs = ("cells", "keys", "hidden", "state")

    def __init__(self, captioner):
        super().__init__()
        self.encoder = copy.deepcopy(captioner.encoder).cpu()
        self.decoder = copy.deepcopy(captioner.decoder).cpu()
        self.eval()

    def forward(self, images):
        """Return cells (C, D), keys (P, A) and state of images (1, 3, S, S)."""
        cells = self.encoder(images)
        memory = Decoder.remember(self.decoder, cells)
        return cells[0], memory.keys[0], *self.decoder.start(cells)

    def example(self):
        """Return images to try it with."""
        size, random = self.encoder.image_size, torch.Generator().manual_seed(0)
        shape = (1, 3, size, size)
        return (torch.randint(0, 256, shape, dtype=torch.uint8, generator=random),)


# chapters/live.md: What a graph is
class Speak(nn.Module):
    """A step of the decoder for R beams of one picture, as a function of tensors."""

    inputs = ("words", "hidden", "state", "cells", "keys", "mask")
    outputs = ("scores", "next_hidden", "next_state", "alpha", "gate")
    outputs += ("energies", "context", "gates")

    def __init__(self, captioner):
        super().__init__()
        self.decoder = copy.deepcopy(captioner.decoder).cpu()
        self.eval()

    def forward(self, words, hidden, state, cells, keys, mask):
        """Take a step with words (R,), state (R, H), (R, H) and a mask (P,).

        Returns the words' scores (R, V), the new state, alpha (R, P), the gate (R, D),
        the attention's scores (R, P), the context (R, D) and the LSTM's gates (R, 4H).
        """
        decoder, attention, cell = (
            self.decoder,
            self.decoder.attention,
            self.decoder.decode_step,
        )
        energies = attention.scores(keys, attention.query(hidden)) + mask
        alpha = torch.softmax(energies, dim=1)
        weights = alpha if decoder.pool is None else alpha @ decoder.pool
        context = weights @ cells
        gate = torch.sigmoid(decoder.f_beta(hidden))
        inputs = torch.cat([decoder.embedding(words.long()), gate * context], dim=1)
        sums = cell.project(inputs, hidden)
        gates = torch.cat(cell.gates(sums), dim=1)
        hidden, state = cell.update(sums, state)
        scores = decoder.fc(hidden)
        return scores, hidden, state, alpha, gate, energies, context, gates

    def example(self, look):
        """Return what to try it with: two beams of the picture that was `look`ed at."""
        cells, keys, hidden, state = look
        words = torch.tensor([1, 2], dtype=torch.int32)
        mask = torch.zeros(len(keys))
        mask[0] = -torch.inf
        return words, hidden.repeat(2, 1), state.repeat(2, 1), cells, keys, mask


# chapters/live.md: What a graph is
def graph_of(function, example):
    """Note what a function of tensors does with an example; return an ONNX model."""
    names = getattr(function, "inputs", ("images",))
    shapes = None
    if "words" in names:
        rows = torch.export.Dim("rows", min=1, max=1000)
        shapes = [{0: rows} if name in names[:3] else None for name in names]
    how = {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}
    how |= {"input_names": names, "output_names": function.outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all rows are the same
        return torch.onnx.export(function, example, **how).model_proto


# chapters/live.md: What a graph is
def check_graph(model, function, example, tolerance=1e-3):
    """Raise a RuntimeError where a graph does not give what a function gives.

    The `tolerance` is a part of the largest number of an output.
    """
    names = [given.name for given in model.graph.input]
    feeds = {n: x.numpy() for n, x in zip(names, example, strict=True)}
    found = InferenceSession(model.SerializeToString()).run(None, feeds)
    with torch.no_grad():
        expected = function(*example)
    for name, a, b in zip(function.outputs, found, expected, strict=True):
        b = b.numpy()
        seen = np.isfinite(b)
        apart, most = abs(a[seen] - b[seen]).max(), abs(b[seen]).max()
        if not apart <= tolerance * most:
            raise RuntimeError(
                f"the graph of {type(function).__name__} gives {name} that are up to "
                f"{apart:.3g} from PyTorch's, which reach {most:.3g}; "
                f"allowed is {tolerance:g} of that"
            )


# chapters/live.md: What a graph is
def graphs_of(captioner):
    """Return a captioner's two graphs, checked, and what they were checked with."""
    look, speak = Look(captioner), Speak(captioner)
    images = look.example()
    with torch.no_grad():
        step = speak.example(look(*images))
    tried = [(look, images), (speak, step)]
    models = [graph_of(*each) for each in tried]
    for model, each in zip(models, tried, strict=True):
        check_graph(model, *each)
    return models, tried


# chapters/live.md: Half the bits, a quarter of the bits
def as_half(name, values):
    """Keep a weight in 16 bits: the arrays to keep, the nodes that undo it."""
    kept = {f"{name}_half": values.astype(np.float16)}
    to = onnx.TensorProto.FLOAT
    return kept, [helper.make_node("Cast", [f"{name}_half"], [name], to=to)]


def as_byte(name, values):
    """Keep a weight in 8 bits, with a scale for each row: arrays and nodes."""
    scale = abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    kept = {f"{name}_byte": np.rint(values / scale).astype(np.int8)}
    kept |= {f"{name}_scale": scale}
    to, whole = onnx.TensorProto.FLOAT, f"{name}_whole"
    undo = [helper.make_node("Cast", [f"{name}_byte"], [whole], to=to)]
    return kept, undo + [helper.make_node("Mul", [whole, f"{name}_scale"], [name])]


# chapters/live.md: Half the bits, a quarter of the bits
SMALL = 1000  # numbers: smaller weights, such as biases, stay as they are


def smaller(model, keep):
    """Return a copy of a graph whose weights are kept by `as_half` or `as_byte`."""
    model = copy.deepcopy(model)
    graph, undo = model.graph, []
    for weight in [*graph.initializer]:
        values = numpy_helper.to_array(weight)
        if values.dtype == np.float32 and values.size >= SMALL and values.ndim > 1:
            kept, nodes = keep(weight.name, values)
            graph.initializer.remove(weight)
            graph.initializer.extend(
                numpy_helper.from_array(array, name) for name, array in kept.items()
            )
            undo += nodes
    nodes = [*undo, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


# chapters/live.md: Half the bits, a quarter of the bits
class Graphs:
    """The two graphs in the place of a decoder, for one picture at a time."""

    def __init__(self, look, speak):
        models = (model.SerializeToString() for model in (look, speak))
        self.run_look, self.run_speak = (InferenceSession(m).run for m in models)

    def look(self, square):
        """Look at a square of bytes (3, S, S); return its cells (1, C, D)."""
        cells, keys, *self.first = self.run_look(None, {"images": square[None]})
        self.picture = {"cells": cells, "keys": keys}
        self.picture["mask"] = np.zeros(len(keys), np.float32)
        return torch.from_numpy(cells).unsqueeze(0)

    def remember(self, cells):
        """Return nothing: the picture is known since it was looked at."""

    def start(self, cells):
        """Return the first state (1, H), (1, H)."""
        return [torch.from_numpy(part) for part in self.first]

    def vectors(self, words):
        """Return words (R,) as they are: the graph has the embedding."""
        return words

    def step(self, words, hidden, state, memory, image):
        """Take a step as `Decoder.step` does, and keep the scores."""
        feeds = {"words": words.int(), "hidden": hidden, "state": state}
        feeds = {name: tensor.numpy() for name, tensor in feeds.items()} | self.picture
        found = self.run_speak(Speak.outputs[:5], feeds)
        self.scores, *found = (torch.from_numpy(array) for array in found)
        return found

    def fc(self, hidden):
        """Return the scores (R, V) of the step that gave this state."""
        return self.scores


def caption_by(graphs, captioner, image, beam_size=5):
    """Caption an image as `Captioner.caption` does, by the graphs."""
    cells = graphs.look(load_photograph(image, captioner.image_size))
    most, power = captioner.max_length, captioner.length_power
    found = beam_search(graphs, cells, captioner.word_map, beam_size, most, power)
    words = {number: word for word, number in captioner.word_map.items()}
    return caption_from(found[0], words, captioner.calibration)


# chapters/live.md: From a file to a square
SQUASH = """
const cubic = (x) => {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0;
};

// For each of `to` places: the first of the `from` places it sees, and their weights.
function windows(from, to) {
  const scale = from / to, stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const middle = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - 2 * stretch + 0.5));
    const end = Math.min(from, Math.trunc(middle + 2 * stretch + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(cubic((x - middle + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((w) => Math.round((w / sum) * 2 ** 22)) };
  });
}

// Lines of `from` pixels, as bytes, to (to, lines, 3); `line` and `pixel` are the steps
// from one line to the next and from one pixel to the next.
function shrink(bytes, { lines, line, from, pixel }, to) {
  const result = new Uint8ClampedArray(to * lines * 3), all = windows(from, to);
  for (let n = 0; n < lines; n++) {
    all.forEach(({ first, weights }, place) => {
      for (let colour = 0; colour < 3; colour++) {
        let sum = 2 ** 21, at = n * line + first * pixel + colour;
        for (let k = 0; k < weights.length; k++) {
          sum += weights[k] * bytes[at];
          at += pixel;
        }
        result[(place * lines + n) * 3 + colour] = Math.floor(sum / 2 ** 22);
      }
    });
  }
  return result;
}

// A canvas's pixels to a square of bytes (3, size, size), as the encoder takes it.
function squash({ data, width, height }, size) {
  const tall = height - size > 2 * Math.max(0, width - size);
  const [from, lines] = tall ? [height, width] : [width, height];
  const [pixel, line] = tall ? [4 * width, 4] : [4, 4 * width];
  const half = shrink(data, { lines, line, from, pixel }, size);  // (size, lines, 3)
  const second = { lines: size, line: 3 * lines, from: lines, pixel: 3 };
  const small = shrink(half, second, size);  // (size, size, 3)
  const square = new Uint8Array(3 * size * size);
  small.forEach((byte, i) => {
    const a = Math.floor(i / 3 / size), b = Math.floor(i / 3) % size;
    square[(i % 3) * size * size + (tall ? b * size + a : a * size + b)] = byte;
  });
  return square;
}
"""


# chapters/live.md: From a file to a square
OPEN = """
const MOST = 100e6;  // pixels

async function pixelsOf(file) {
  const how = { colorSpaceConversion: "none", imageOrientation: "from-image" };
  const image = await createImageBitmap(file, how).catch(() => {
    throw new Error(`${file.name || "This"} is no picture that this browser can `
      + "open. What a viewer opens, it can save as JPEG: try that.");
  });
  const { width, height } = image;
  if (width * height > MOST) {
    throw new Error(`${file.name || "It"} has ${width} x ${height} pixels, more than `
      + "100 millions. Save it smaller.");
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  image.close();
  const pixels = context.getImageData(0, 0, width, height);
  if (pixels.data[3] !== 255) {  // not even white: there was no room for it
    throw new Error(`${file.name || "It"} has ${width} x ${height} pixels, more than `
      + "this browser can draw. Save it smaller.");
  }
  return pixels;
}
"""


# chapters/live.md: The search, once more
LIKELY = """
function logProbs(scores, silent) {
  const found = Float64Array.from(scores);
  for (const id of silent) found[id] = -Infinity;
  let most = -Infinity, sum = 0;
  for (const score of found) most = Math.max(most, score);
  for (const score of found) sum += Math.exp(score - most);
  return found.map((score) => score - most - Math.log(sum));
}

// The `count` largest of an array that are possible: [{ id, logProb }], largest first.
function largest(values, count) {
  const best = [];
  values.forEach((logProb, id) => {
    if (logProb === -Infinity) return;
    let place = best.length;
    while (place && best[place - 1].logProb < logProb) place--;
    if (place < count) best.splice(place, 0, { id, logProb });
    if (best.length > count) best.pop();
  });
  return best;
}
"""


# chapters/live.md: The search, once more
REPEATS = """
// Take from `values` the words that would say a thing again after `said`.
function withoutRepeats(values, said, content) {
  const last = said.length - 1;
  let run = 0, known = false;
  while (run <= last && content(said[last - run])) run++;
  said.forEach((id, place) => {
    const ends = content(id) && (place === last || !content(said[place + 1]));
    const alike = place >= run && said.slice(place - run, place)
      .every((other, n) => other === said[last + 1 - run + n]);
    known ||= run > 0 && alike;
    if (ends && (alike || place === last)) values[id] = -Infinity;
  });
  const free = values.some((value, id) => content(id) && value > -Infinity);
  if (known && free) values.forEach((_, id) => content(id) || (values[id] = -Infinity));
}
"""


# chapters/live.md: The search, once more
STEP = """
const row = (tensor, n) => {
  const width = tensor.dims[1];
  return tensor.data.subarray(n * width, (n + 1) * width);
};

function rows(parts) {
  const data = new Float32Array(parts.length * parts[0].length);
  parts.forEach((part, n) => data.set(part, n * part.length));
  return new runtime.Tensor("float32", data, [parts.length, parts[0].length]);
}

function step(picture, beams, mask) {
  const words = Int32Array.from(beams, (beam) => beam.id);
  return sessions.speak.run({
    words: new runtime.Tensor("int32", words, [words.length]),
    hidden: rows(beams.map((beam) => beam.hidden)),
    state: rows(beams.map((beam) => beam.state)),
    cells: picture.cells,
    keys: picture.keys,
    mask: new runtime.Tensor("float32", mask, [mask.length]),
  });
}
"""


# chapters/live.md: The search, once more
SEARCH = """
async function search(picture, { width, after = [], held = null, seen }) {
  const { pad, start, end, unk } = model.special;
  const free = new Float32Array(model.side ** 2), silent = [pad, start, unk];
  const content = (id) => model.functions.length > 0 && !functions.has(id)
    && ![...silent, end].includes(id);
  const [hidden, state] = [picture.hidden.data, picture.state.data];
  let beams = [{ id: start, said: [start], total: 0, live: true, hidden, state }];
  for (let t = 0; t < model.most; t++) {
    const live = beams.filter((beam) => beam.live);
    if (!live.length) break;
    const found = await step(picture, live, t < after.length || !held ? free : held);
    const children = beams.flatMap((beam) => {
      const n = live.indexOf(beam);
      if (n < 0) return [beam];
      const values = logProbs(row(found.scores, n), t ? silent : [...silent, end]);
      withoutRepeats(values, beam.said, content);
      const likely = largest(values, Math.max(width, model.rivals + 1));
      const gate = row(found.gate, n).reduce((a, b) => a + b) / found.gate.dims[1];
      const kept = { parent: beam, likely, gate, alpha: row(found.alpha, n).slice() };
      const told = after.slice(t, t + 1).map((id) => ({ id, logProb: values[id] }));
      return (told.length ? told : likely).map(({ id, logProb }) => ({
        ...kept, id, logProb, n, total: beam.total + logProb, live: id !== end,
        said: [...beam.said, id],
      }));
    });
    beams = children.sort((a, b) => b.total - a.total).slice(0, width);
    for (const beam of beams.filter((one) => one.said.length === t + 2)) {
      beam.hidden = row(found.next_hidden, beam.n);
      beam.state = row(found.next_state, beam.n);
    }
    if (await seen(beams[0]) === false) return null;
  }
  return beams;
}
"""


# chapters/live.md: The search, once more
CAPTION = """
const chance = (logProb) => {
  const [a, b] = model.calibration, known = Math.min(logProb, -1e-6);
  const odds = known - Math.log1p(-Math.exp(known));
  return 1 / (1 + Math.exp(-a * odds - b));
};

function captionOf(beam) {
  const path = [];
  for (let one = beam; one.parent; one = one.parent) path.unshift(one);
  const finished = !beam.live, words = finished ? path.slice(0, -1) : path;
  return {
    words: words.map(({ id }) => model.words[id]),
    ids: words.map(({ id }) => id),
    alphas: words.map(({ alpha }) => alpha),
    log_prob: beam.total,
    score: beam.total / path.length ** model.length_power,
    word_log_probs: words.map(({ logProb }) => logProb),
    rivals: words.map(({ id, likely }) => likely
      .filter((other) => other.id !== id).slice(0, model.rivals)
      .map((other) => [model.words[other.id], Math.exp(other.logProb)])),
    gates: words.map(({ gate }) => gate),
    finished,
    content: words.map(({ id }) => !functions.has(id)),
    chances: words.map(({ id, logProb }) =>
      !model.calibration || functions.has(id) ? null : chance(logProb)),
  };
}

const captionsOf = (beams) => beams.map(captionOf)
  .sort((a, b) => b.finished - a.finished || b.score - a.score);
"""


# chapters/live.md: In a worker
LOAD = """
let runtime, model, functions, sessions, picture = {}, latest = 0;

// A part: bytes as they come from a server, or packed and written as text in a script.
async function unpacked(part) {
  if (typeof part !== "string") return new Uint8Array(part);
  const text = atob(part), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream();
  const whole = stream.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(whole).arrayBuffer());
}

async function load(parts) {
  model = parts.model;
  functions = new Set(model.functions);
  const script = new Blob([await unpacked(parts.runtime)], { type: "text/javascript" });
  runtime = await import(URL.createObjectURL(script));
  runtime.env.wasm.numThreads = 1;  // more need headers that few hosts send
  runtime.env.wasm.wasmBinary = await unpacked(parts.wasm);
  sessions = {};
  for (const name of ["look", "speak"]) {
    sessions[name] = await runtime.InferenceSession.create(await unpacked(parts[name]));
  }
}
"""


# chapters/live.md: In a worker
REGARD = """
const breathe = () => new Promise((done) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = done;
  port2.postMessage(0);
});

// Paint the regions whose numbers are in `gone` with the mean colour.
function without(square, gone) {
  const size = model.size, left = square.slice();
  for (let colour = 0; colour < 3; colour++) {
    const plane = left.subarray(colour * size * size, (colour + 1) * size * size);
    const mean = plane.reduce((a, b) => a + b) / plane.length;
    plane.forEach((_, i) => {
      const y = Math.floor(Math.floor(i / size) * model.side / size);
      const x = Math.floor((i % size) * model.side / size);
      if (gone.has(y * model.side + x)) plane[i] = mean;
    });
  }
  return left;
}

async function lookAt({ file, photograph, gone = [] }) {
  const key = gone.join();
  if (picture.photograph !== photograph) {
    picture = { photograph, square: squash(await pixelsOf(file), model.size) };
  }
  if (picture.key === key) return;
  const square = without(picture.square, new Set(gone));
  const images = new runtime.Tensor("uint8", square, [1, 3, model.size, model.size]);
  Object.assign(picture, await sessions.look.run({ images }), { key });
}

"""


# chapters/live.md: In a worker
ANSWER = """
async function explain({ said, after, held }) {
  const free = new Float32Array(model.side ** 2);
  let beam = { id: model.special.start, hidden: picture.hidden.data,
    state: picture.state.data };
  for (let t = 0; ; t++) {
    const found = await step(picture, [beam], held && t >= after.length ? held : free);
    if (t < said.length) {
      const hidden = row(found.next_hidden, 0), state = row(found.next_state, 0);
      beam = { id: said[t], hidden, state };
      continue;
    }
    const { cells: { data, dims: [count, width] } } = picture, norms = [];
    for (let i = 0; i < count; i++) {
      norms.push(Math.hypot(...data.subarray(i * width, (i + 1) * width)));
    }
    const numbers = { norms, width, first: data.slice(0, 8) };
    for (const name in found) numbers[name] = row(found[name], 0).slice();
    return numbers;
  }
}

async function answer(question) {
  const { job, width, after, held } = question;
  await lookAt(question);
  if (question.said) return postMessage({ job, numbers: await explain(question) });
  const seen = async (beam) => {
    postMessage({ job, so_far: captionOf(beam) });
    await breathe();
    return job === latest;
  };
  const beams = await search(picture, { width, after, held, seen });
  if (beams) postMessage({ job, captions: captionsOf(beams) });
}

let before = Promise.resolve();
onmessage = ({ data }) => {
  latest = data.job ?? latest;
  before = before.then(async () => {
    try {
      if (data.parts) await load(data.parts).then(() => postMessage({ loaded: true }));
      else if (data.job === latest) await answer(data);
    } catch (error) {
      postMessage({ job: data.job, error: error.message || String(error) });
    }
  });
};
"""
WORKER = LOAD + SQUASH + OPEN + LIKELY + REPEATS + STEP + SEARCH + CAPTION
WORKER += REGARD + ANSWER


# chapters/live.md: What the reader sees
def plain(caption):
    """Return a `Caption` and its other beams as plain values: a list, best first."""
    names = ["words", "log_prob", "word_log_probs", "rivals", "gates", "finished"]
    return [
        {name: getattr(one, name) for name in [*names, "chances"]}
        | {"alphas": one.alphas.reshape(len(one.words), -1).round(4).tolist()}
        | {"content": [word not in FUNCTION for word in one.words]}
        for one in [caption, *caption.beams]
    ]


# chapters/live.md: What the reader sees
SHOW = """
const part = (name) => document.getElementById(`live-${name}`);
const said = part("caption"), veil = part("veil");
const isShortcut = (event) => event.altKey || event.ctrlKey || event.metaKey;
const percent = (p) => `${Math.round(100 * p)} %`;
const peakOf = (alpha) => alpha.indexOf(Math.max(...alpha));
let captions = [], shown = 0, chosen = 0;

function draw(alpha) {
  const side = Math.sqrt(alpha.length), most = Math.max(...alpha);
  const picture = new ImageData(side, side);
  alpha.forEach((weight, i) => {
    picture.data[4 * i + 3] = 190 * (1 - Math.sqrt(weight / most));
  });
  veil.width = veil.height = side;
  veil.getContext("2d").putImageData(picture, 0, 0);
}

function placeOf(alpha) {
  const side = Math.sqrt(alpha.length), peak = peakOf(alpha);
  const third = (n) => Math.min(2, Math.floor((3 * (n + 0.5)) / side));
  const [down, across] = [third(Math.floor(peak / side)), third(peak % side)];
  const name = [["upper", "", "lower"][down], ["left", "", "right"][across]];
  return name.join(" ").trim() || "middle";
}

function newButton() {
  const button = document.createElement("button");
  button.type = "button";
  return button;
}

function wordButton(word, n) {
  const { alphas, chances } = captions[shown], button = newButton();
  const side = Math.sqrt(alphas[n].length), peak = peakOf(alphas[n]);
  button.textContent = word;
  button.dataset.word = word;
  button.dataset.peak = `${Math.floor(peak / side)},${peak % side}`;
  button.classList.toggle("live-doubted", chances[n] !== null && chances[n] < 0.5);
  button.onclick = button.onfocus = () => choose(n);
  button.onpointermove = () => tool === "look" && chosen !== n && choose(n);
  return button;
}

function show(number = shown) {
  shown = number;
  const { words } = captions[shown], focused = said.contains(document.activeElement);
  const parts = words.flatMap((word, n) => [" ", wordButton(word, n)]);
  said.replaceChildren(...parts.slice(1));
  if (words.length) choose(Math.min(chosen, words.length - 1));
  if (focused) said.querySelector("[tabindex='0']")?.focus();
  part("others").querySelectorAll("button").forEach((button, n) =>
    button.setAttribute("aria-pressed", n === shown));
}
"""


# chapters/live.md: What the reader sees
CHOOSE = """
function choose(n) {
  const one = captions[shown], buttons = [...said.querySelectorAll("button")];
  chosen = n;
  buttons.forEach((button, k) => {
    button.setAttribute("aria-pressed", k === n);
    button.tabIndex = k === n ? 0 : -1;
  });
  draw(one.alphas[n]);
  const doubt = one.chances[n] !== null && one.chances[n] < 0.5;
  const rivals = one.rivals[n].map(([word, p]) => `${word} ${percent(p)}`).join(", ");
  const sure = percent(Math.exp(one.word_log_probs[n]));
  if (said.dataset.state === "working") return;  // it will not stay
  part("about").textContent = `${one.words[n]}: ${sure}`
    + `${doubt ? " (more likely wrong than right)" : ""}.`
    + ` It looks ${placeOf(one.alphas[n])}. Instead of it: ${rivals}.`
    + ` The gate is open ${percent(one.gates[n])}.`;
  askStep();
}

said.addEventListener("keydown", (event) => {
  const last = captions[shown].words.length - 1;
  const ways = { ArrowRight: chosen + 1, ArrowLeft: chosen - 1, Home: 0, End: last };
  const to = ways[event.key];
  if (to === undefined || isShortcut(event)) return;
  event.preventDefault();
  said.querySelectorAll("button")[Math.max(0, Math.min(last, to))].focus();
});

// All beams of a search: the best is shown, at its first content word.
function present(found) {
  captions = found;
  chosen = wish.held ? wish.after.length : Math.max(0, found[0].content.indexOf(true));
  part("others").replaceChildren(...captions.map(({ words }, n) => {
    const item = document.createElement("li"), button = newButton();
    button.textContent = words.join(" ");
    button.onclick = () => captions[n] && show(n);
    item.append(button);
    return item;
  }));
  show(0);
}
"""


# chapters/live.md: From the button to the caption
FETCH = """
const here = document.currentScript.src;
const EXAMPLE = JSON.parse(part("example").textContent);
const message = (text) => { part("status").textContent = text; };
const report = (text) => { part("error").textContent = text; };
const NEEDED = ["Worker", "OffscreenCanvas", "DecompressionStream", "WebAssembly"];
let worker = null;

function script(name) {
  return new Promise((done, failed) => {
    const one = document.createElement("script");
    one.src = new URL(`${name}.js`, here);
    one.onload = done;
    one.onerror = () => failed(new Error(`${name}.js did not come`));
    document.head.append(one);
  });
}

async function fetchPart(name) {
  const { address, hash } = PARTS[name];
  if (!address) {
    await script(name);
    return globalThis.liveParts[name];
  }
  const answer = await fetch(address, { integrity: hash });
  return answer.arrayBuffer();
}

async function wake() {
  if (part("load").ariaDisabled === "true") return;
  part("load").ariaDisabled = true;
  said.dataset.state = "loading";
  report("");
  try {
    for (const needed of NEEDED) {
      if (!(needed in window)) throw new Error(`this browser has no ${needed}`);
    }
    const parts = {};
    for (const name of Object.keys(PARTS)) {
      message(`Loading ${name}, part ${Object.keys(parts).length + 1} of 5 …`);
      parts[name] = await fetchPart(name);
    }
    const code = new Blob([WORKER], { type: "text/javascript" });
    worker = new Worker(URL.createObjectURL(code));
    worker.onmessage = ({ data }) => heard(data);
    worker.onerror = ({ message: why }) => failed(why);
    delete globalThis.liveParts;
    message("Getting ready …");
    worker.postMessage({ parts });
  } catch (error) {
    failed(error.message);
  }
}

function failed(why) {
  said.dataset.state = "error";
  part("load").ariaDisabled = false;
  worker = null;
  message("");
  report(`The captioner could not be loaded: ${why}. Take a newer browser, or try `
    + "again with a network.");
}
"""


# chapters/live.md: From the button to the caption
ASK = """
let job = 0, asked = 0;
const asItIs = { after: [], held: null, gone: [] };
const wish = { width: 5, photograph: 0, file: null, ...asItIs };

// The numbers of the step at the chosen word, where the reader wants to see them.
function askStep() {
  if (!part("step").open || !said.firstChild) return;
  if (captions === EXAMPLE.beams) return prepared();
  if (said.dataset.state !== "done") return;
  const words = captions[shown].ids.slice(0, chosen);
  worker.postMessage({ ...wish, said: words, job: ++job });
}

function ask(changes = {}) {
  Object.assign(wish, changes);
  if (!wish.file) return;
  report("");
  if (!worker || said.dataset.state === "loading") {
    if (said.dataset.state !== "loading") {
      message("Now press the button that loads the captioner.");
    }
    return;
  }
  said.dataset.state = "working";
  message("Looking …");
  asked = performance.now();
  worker.postMessage({ ...wish, job: ++job });
}

function heard({ loaded, job: number, so_far, captions: found, numbers, error }) {
  if (loaded) {
    said.dataset.state = "ready";
    part("load").textContent = "The captioner is here";
    part("tools").disabled = false;
    message("Choose a photograph.");
    return ask(wish.file ? {} : example());
  }
  if (number !== job && number !== undefined) return;
  if (error) {
    if (number === undefined) return failed(error);
    said.dataset.state = "error";
    empty();
    message("");
    return report(error);
  }
  if (numbers) {
    message("");
    return drawStep(numbers);
  }
  if (so_far) {
    captions = [so_far];
    chosen = wish.held ? wish.after.length : Math.max(0, so_far.words.length - 1);
    return show(0);
  }
  said.dataset.state = "done";
  present(found);
  part("told").textContent = said.textContent;
  part("contrast").textContent = contrast(found[0]);
  message(`${Math.round(performance.now() - asked)} ms`);
}
"""


# chapters/live.md: Take the gaze into your own hands
PAINT = """
const canvas = part("brush"), frame = canvas.parentElement;
const painted = new Set();
let tool = "look", cursor = 0, own = null, place = 0;
const sideOf = () => Math.sqrt(captions[shown].alphas[0].length);

function drawBrush() {
  const side = sideOf(), shape = new ImageData(side, side);
  const colour = tool === "rub" ? [128, 128, 128, 230] : [230, 159, 0, 110];
  for (const region of painted) shape.data.set(colour, 4 * region);
  if (document.activeElement === canvas) {
    shape.data.set([255, 255, 255, 200], 4 * cursor);
  }
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(shape, 0, 0);
}

function regionAt({ clientX, clientY }) {
  const { left, top, width, height } = canvas.getBoundingClientRect(), side = sideOf();
  const at = (part) => Math.max(0, Math.min(side - 1, Math.floor(part * side)));
  return at((clientY - top) / height) * side + at((clientX - left) / width);
}

function cover(row, column) {
  const side = sideOf(), end = side - 1;
  for (let i = Math.max(0, row - 1); i <= Math.min(end, row + 1); i++) {
    for (let j = Math.max(0, column - 1); j <= Math.min(end, column + 1); j++) {
      painted.add(i * side + j);
    }
  }
}

// From the region `from`, or there alone; a quick hand is seen at a few places only.
function paint(region, from = region) {
  const side = sideOf(), y = Math.floor(from / side), x = from % side;
  const down = Math.floor(region / side) - y, right = (region % side) - x;
  const steps = Math.max(Math.abs(down), Math.abs(right), 1), before = painted.size;
  if (!before) {
    if (said.dataset.state === "done") own = captions[shown];
    place = Math.min(chosen, own.ids.length - 1);
  }
  cursor = region;
  for (let k = 0; k <= steps; k++) {
    cover(y + Math.round((k * down) / steps), x + Math.round((k * right) / steps));
  }
  drawBrush();
  if (painted.size > before) askPainted();
}

function askPainted() {
  if (tool === "rub") return ask({ ...asItIs, gone: [...painted] });
  const held = new Float32Array(sideOf() ** 2).fill(-Infinity);
  for (const region of painted) held[region] = 0;
  ask({ ...asItIs, held, after: own.ids.slice(0, place) });
}
"""


# chapters/live.md: Take the gaze into your own hands
CONTRAST = """
function contrast(one) {
  if (!painted.size) own = one;
  const sure = ({ words, word_log_probs }, n) =>
    `${words[n] ?? "nothing"} (${percent(Math.exp(word_log_probs[n] ?? 0))})`;
  if (wish.held) {
    return `With its gaze held there from word ${place + 1} on it says `
      + `${sure(one, place)}; by itself it said ${sure(own, place)}.`;
  }
  if (!wish.gone.length) return "";
  const lost = own.words.filter((word) => !one.words.includes(word));
  const count = own.words.length, names = lost.join(", ") || "none";
  return `Of its ${count} words, ${count - lost.length} are said without that part. `
    + `Gone: ${names}.`;
}

function forget() {
  painted.clear();
  part("contrast").textContent = "";
  canvas.width = 0;
}

function anew() {
  forget();
  ask(asItIs);
}

"""


# chapters/live.md: Take the gaze into your own hands
TOOLS = """
// The tenth of the regions that the chosen word looked at most.
function tenth() {
  if (!own) return;
  const alpha = [...captions[shown].alphas[chosen]];
  const order = alpha.map((_, i) => i).sort((a, b) => alpha[b] - alpha[a]);
  use("rub");
  for (const region of order.slice(0, Math.round(alpha.length / 10))) {
    painted.add(region);
  }
  drawBrush();
  askPainted();
}

function use(name) {
  if (name !== tool && painted.size) anew();
  tool = name;
  document.querySelector(`[name=live-tool][value=${name}]`).checked = true;
  frame.classList.toggle("live-painting", tool !== "look");
  if (tool === "look") canvas.removeAttribute("tabindex");
  else canvas.tabIndex = 0;
}

let last = null;  // region of the stroke that is going on
function stroke(event) {
  const paints = event.buttons === 1 && tool !== "look" && own;
  const region = paints ? regionAt(event) : null;
  if (paints) paint(region, last ?? region);
  last = region;
}

frame.onpointerdown = (event) => {
  if (tool !== "look") event.preventDefault();
  last = null;
  stroke(event);
};
frame.onpointermove = stroke;
frame.onpointerleave = () => (last = null);
canvas.onfocus = canvas.onblur = () => tool !== "look" && drawBrush();
canvas.onkeydown = (event) => {
  const side = sideOf(), x = cursor % side;
  const ways = { ArrowRight: x < side - 1 && 1, ArrowLeft: x > 0 && -1,
    ArrowDown: cursor + side < side ** 2 && side, ArrowUp: cursor >= side && -side };
  const known = event.key in ways || event.key === " ";
  if (tool === "look" || !own || !known || isShortcut(event)) return;
  event.preventDefault();
  if (event.key === " ") return paint(cursor);
  cursor += Number(ways[event.key]);
  drawBrush();
  message(`row ${Math.floor(cursor / side) + 1}, column ${(cursor % side) + 1}`);
};
for (const one of document.querySelectorAll("[name=live-tool]")) {
  one.onchange = () => use(one.value);
}
part("tenth").onclick = tenth;
part("anew").onclick = anew;
"""


# chapters/live.md: Take the gaze into your own hands
SCENES = range(3_300_000, 3_300_024)


def export_scenes(captioner, folder):
    """Write the page of a captioner of scenes, with a gallery of `SCENES`."""
    scenes = [make_scene(seed) for seed in SCENES]
    names = [" and ".join(thing.phrase for thing in s.objects) for s in scenes]
    gallery = [(draw(s)[0], name) for s, name in zip(scenes, names, strict=True)]
    return export(captioner, folder, *gallery[0], gallery)


# chapters/live.md: The whole step, in numbers
STEP_PICTURE = """
const ends = (values) => {
  const finite = [...values].filter(Number.isFinite);
  return [Math.min(...finite), Math.max(...finite)];
};

function heat(values, width) {
  const picture = document.createElement("canvas"), height = values.length / width;
  picture.width = width;
  picture.height = Math.ceil(height);
  const [least, most] = ends(values), range = most - least || 1;
  const pixels = new ImageData(width, picture.height);
  values.forEach((value, i) => {
    const v = Math.max(0, (value - least) / range);
    pixels.data.set([255 * v, 190 * v * v + 30, 110 - 60 * v, 255], 4 * i);
  });
  picture.getContext("2d").putImageData(pixels, 0, 0);
  return picture;
}

const short = (values) => Array.from(values.slice(0, 8), (x) => x.toPrecision(3))
  .join(", ");
const mean = (values) => values.reduce((a, b) => a + b) / values.length;

function box(title, page, about, pictures, numbers) {
  const item = document.createElement("li"), link = document.createElement("a");
  const fold = document.createElement("details"), text = document.createElement("p");
  link.textContent = title;
  if (live.dataset.book) link.href = `${page}.html`;
  fold.append(Object.assign(document.createElement("summary"), { textContent: about }));
  text.textContent = numbers;
  fold.append(text);
  item.append(link, ...pictures, fold);
  return item;
}

function drawStep(found) {
  const { norms, first, width, energies, alpha, context, gate, gates, scores } = found;
  const side = Math.sqrt(alpha.length), hidden = gates.length / 4, grid = 32;
  const four = [0, 1, 2, 3].map((n) => gates.slice(n * hidden, (n + 1) * hidden));
  const { words, rivals, word_log_probs } = captions[shown];
  const said = [[words[chosen], Math.exp(word_log_probs[chosen])], ...rivals[chosen]];
  const told = (values) => `${values.length} numbers`, even = percent(1 / alpha.length);
  part("boxes").replaceChildren(
    box("cells", "encoder", `${norms.length} of ${width} numbers`,
      [heat(norms, Math.sqrt(norms.length))], `The first cell: ${short(first)}, …`),
    box("scores", "attention", told(energies), [heat(energies, side)],
      `From ${ends(energies).map((e) => e.toFixed(2)).join(" to ")}.`),
    box("weights", "attention", "their softmax", [heat(alpha, side)],
      `The largest: ${percent(ends(alpha)[1])}; an even share: ${even}.`),
    box("context", "attention", told(context), [heat(context, grid)],
      `${short(context)}, …`),
    box("gate", "decoder", `open ${percent(mean(gate))}`, [heat(gate, grid)],
      `${short(gate)}, …`),
    box("the LSTM's gates", "lstm", "input, forget, candidate, output",
      four.map((values) => heat(values, grid)),
      `Means: ${four.map((values) => mean(values).toFixed(2)).join(", ")}.`),
    box("word scores", "beam_search", told(scores), [heat(scores, 64)],
      said.map(([word, p]) => `${word} ${percent(p)}`).join(", ")));
}
"""


# chapters/live.md: The whole step, in numbers
PREPARED = """
function prepared() {
  if (shown === 0 && chosen === EXAMPLE.place) return drawStep(EXAMPLE.step);
  const item = document.createElement("li");
  item.textContent = "It is computed as soon as the captioner is loaded.";
  part("boxes").replaceChildren(item);
}

part("step").ontoggle = askStep;
"""


# chapters/live.md: Give it a photograph
GIVE = """
function empty() {
  veil.width = 0;
  for (const name of ["caption", "others", "about", "told", "boxes"]) {
    part(name).replaceChildren();
  }
}

function take(file) {
  const image = part("photograph");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = file.name || "Your photograph";
  empty();
  stopCamera();
  forget();
  own = null;
  ask({ file, photograph: wish.photograph + 1, ...asItIs });
}

// A picture that stands in the page as a file, from the bytes of its address.
function fileOf({ src, alt }) {
  const [kind, text] = src.split(/^data:|;base64,/).slice(1);
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new File([bytes], alt, { type: kind });
}

const example = () => ({ file: fileOf(part("photograph")), photograph: 1 });
for (const button of part("gallery").children) {
  button.onclick = () => take(fileOf(button.firstChild));
}

const first = (files) => {
  const picture = files.find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (picture) take(picture);
};
const live = part("file").closest(".live");
part("file").onchange = ({ target }) => {
  first([...target.files]);
  target.value = "";  // so that the same file can be chosen again
};
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  first([...event.dataTransfer.files]);
});
document.addEventListener("paste", (event) => first([...event.clipboardData.files]));
part("beams").oninput = ({ target }) => {
  const width = Number(target.value);
  if (target.checkValidity() && width !== wish.width) ask({ width });
};
part("beams").onchange = ({ target }) => target.reportValidity();
part("load").textContent += ` (${MEGABYTES} MB)`;
part("load").onclick = wake;
"""


# chapters/live.md: Give it a photograph
CAMERA = """
const video = part("video");

async function startCamera() {
  part("camera").disabled = true;  // till the reader has answered
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    video.hidden = false;
    part("camera").textContent = "Take it now";
  } catch (error) {
    report(`The camera cannot be used: ${error.message}. Choose a file.`);
  }
  part("camera").disabled = false;
}

function stopCamera() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  video.hidden = true;
  part("camera").textContent = "Take one with the camera";
}

function film() {
  if (!video.srcObject) return startCamera();
  if (!video.videoWidth) return;  // nothing has come yet
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => take(new File([blob], "The camera's picture", blob)));
}

part("camera").onclick = film;
part("camera").hidden = !navigator.mediaDevices;
live.classList.add("live-awake");
present(EXAMPLE.beams);
"""
PAGE = SHOW + CHOOSE + FETCH + ASK + STEP_PICTURE + PREPARED + PAINT + CONTRAST + TOOLS
PAGE += GIVE + CAMERA


# chapters/live.md: A folder that is a captioner
WIDGET = """<section class="live" data-book="{book}" aria-label="The captioner, live">
<div class="live-picture"><img id="live-photograph" alt="{alt}"
 src="data:image/jpeg;base64,{picture}"><canvas id="live-veil" width="14" height="14"
 aria-hidden="true"></canvas><canvas id="live-brush" width="14" height="14"
 role="application" aria-label="The regions: arrow keys move, the space bar paints">
</canvas></div>
<p id="live-caption" data-state="prepared" dir="auto" role="group"
 aria-label="The words of the caption">{caption}</p>
<p id="live-about" aria-live="polite"></p>
<div class="live-controls">
<button type="button" id="live-load">Load the captioner</button>
<label class="live-button">A photograph of your own
<input type="file" id="live-file" accept="image/*"></label>
<button type="button" id="live-camera" hidden>Take one with the camera</button>
<label>Beam size
<input type="number" id="live-beams" min="1" max="10" value="5" required
 autocomplete="off"></label>
<span id="live-status" role="status"></span></div>
<fieldset id="live-tools" class="live-controls" disabled>
<legend>On the photograph</legend>
<label><input type="radio" name="live-tool" value="look" checked> see the maps</label>
<label><input type="radio" name="live-tool" value="hold"> hold the gaze</label>
<label><input type="radio" name="live-tool" value="rub"> rub out</label>
<button type="button" id="live-tenth">Rub out what the word looked at</button>
<button type="button" id="live-anew">Start anew</button></fieldset>
<p id="live-contrast" role="status"></p>
<div id="live-gallery" class="live-controls">{gallery}</div>
<video id="live-video" autoplay muted playsinline hidden></video>
<p id="live-error" role="alert"></p>
<p id="live-told" class="live-hidden" aria-live="polite"></p>
<details><summary>All beams, the best first</summary>
<ol id="live-others"></ol></details>
<details id="live-step"><summary>The whole step that led to this word</summary>
<ol id="live-boxes"></ol></details>
<p class="live-note">Choose, drop or paste a photograph; then hold the captioner's
gaze, or rub a part out. All stays in your browser: nothing is sent anywhere.</p>
<script type="application/json" id="live-example">{example}</script>
<script src="{here}page.js" defer></script>
{style}</section>"""


# chapters/live.md: A folder that is a captioner
STYLE = """<style>
.live-picture { position: relative; width: fit-content; max-width: 100% }
.live .live-picture img { display: block; margin: 0; padding: 0; background: none;
 max-width: 100%; max-height: 70vh; min-width: min(80vw, 20rem); min-height: 6rem;
 border-radius: 0.4rem }
.live-picture canvas { position: absolute; inset: 0; width: 100%; height: 100%;
 pointer-events: none; border-radius: 0.4rem }
#live-caption { font-size: 1.3em; line-height: 1.6; min-height: 1.6em;
 margin: 0.4rem 0 }
#live-caption button { font: inherit; color: inherit; background: none; border: 0;
 padding: 0 0.15em; min-height: 1.6em; border-radius: 0.3em; cursor: pointer }
#live-caption button:hover { text-decoration: underline }
#live-caption button[aria-pressed=true] { background: #0b5fbf; color: white }
.live .live-doubted::after { content: "?" }
#live-about { min-height: 3em; margin: 0 0 0.6rem; font-size: 0.9em }
.live-controls { display: none; flex-wrap: wrap; gap: 0.5rem 0.8rem;
 align-items: center }
.live-awake .live-controls { display: flex }
.live-controls button, .live-button, #live-others button { font: inherit;
 box-sizing: border-box; display: inline-block; position: relative;
 color: inherit; background: none; border: 1px solid; border-radius: 0.3em;
 padding: 0.2em 0.7em; min-height: 1.8rem; cursor: pointer; margin: 0 }
#live-load:not([aria-disabled=true]) { background: #0b5fbf; border-color: #0b5fbf;
 color: white }
.live-controls :is(:disabled, [aria-disabled=true]) { opacity: 0.75; cursor: default }
#live-others [aria-pressed=true] { font-weight: bold }
#live-file { position: absolute; width: 1px; height: 1px; opacity: 0 }
.live :focus-visible, .live-button:focus-within { outline: 3px solid #e69f00;
 outline-offset: 1px }
#live-beams { width: 3.5em; font: inherit; color: inherit; background: none;
 border: 1px solid; border-radius: 0.3em; min-height: 1.8rem }
#live-brush { image-rendering: pixelated }
.live-painting { cursor: crosshair; touch-action: none }
fieldset.live-controls { border: 1px solid; border-radius: 0.4rem; margin: 0.6rem 0;
 padding: 0.4rem 0.7rem }
fieldset.live-controls legend { float: none; width: auto; font-size: 0.9em; margin: 0;
 padding: 0 0.3em }
.live fieldset:disabled { display: none }
#live-contrast { margin: 0.3rem 0 }
#live-error { color: inherit; font-weight: bold }
#live-others button { border: 0; text-align: left }
#live-boxes { list-style: none; padding: 0; display: flex; flex-wrap: wrap;
 gap: 0.6rem }
#live-boxes > li { border: 1px solid; border-radius: 0.4rem; padding: 0.4rem;
 font-size: 0.85em; max-width: 14rem }
#live-boxes > li + li > a::before { content: "→ " / "" }
#live-boxes canvas { display: inline-block; width: 5rem; image-rendering: pixelated;
 margin: 0.2rem 0.2rem 0.2rem 0 }
#live-boxes a { display: block }
#live-gallery { margin: 0.6rem 0 }
#live-gallery button { padding: 0; line-height: 0; overflow: hidden }
.live #live-gallery img { width: 4.5rem; margin: 0; padding: 0; background: none }
#live-gallery:empty { display: none }
.live video { max-width: 100%; max-height: 50vh }
.live-note { font-size: 0.9em }
@media print { .live details, .live-note { display: none } }
.live-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden;
 clip-path: inset(50%) }
</style>"""


# chapters/live.md: A folder that is a captioner
@torch.no_grad()
def step_of(captioner, image, before):
    """Return all numbers of the step after the words `before`, as plain values.

    A dict of lists: the outputs of `Speak`, the norms of the cells and the first of
    them, shortened, with its full `width`.
    """
    look, speak = Look(captioner), Speak(captioner)
    square = load_photograph(image, captioner.image_size)
    cells, keys, hidden, state = look(torch.from_numpy(square)[None])
    mask, numbers = torch.zeros(len(keys)), captioner.word_map
    for word in ["<start>", *before]:
        words = torch.tensor([numbers[word]])
        found = speak(words, hidden, state, cells, keys, mask)
        _, hidden, state, *_ = found
    named = {n: t[0] for n, t in zip(Speak.outputs, found, strict=True)}
    named |= {"norms": cells.norm(dim=1), "first": cells[0, :8]}
    plain = {name: tensor.numpy().round(3).tolist() for name, tensor in named.items()}
    return plain | {"width": cells.shape[1]}


# chapters/live.md: A folder that is a captioner
def thumbnail(pair):
    """Return a button for the gallery, of a picture and its name, as HTML."""
    picture, name = pair
    data = base64.b64encode(jpeg(as_shown(picture, 256))).decode()
    image = f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">'
    return f'<button type="button">{image}</button>'


# chapters/live.md: A folder that is a captioner
def widget(captioner, photograph, alt, here="", gallery=()):
    """Return the live captioner as HTML, with a photograph as its example.

    `alt` says what the photograph shows; `here` is where the page finds the files that
    `export` has written. The `gallery` holds more to choose from: (picture, name).
    """
    picture = jpeg(as_shown(photograph, 480))
    small = Image.open(io.BytesIO(picture))
    caption = captioner.caption([small])[0]
    content = [*plain(caption)[0]["content"], True]
    place = min(content.index(True), max(0, len(caption.words) - 1))
    example = {"beams": plain(caption), "place": place}
    example["step"] = step_of(captioner, small, caption.words[:place])
    return WIDGET.format(
        alt=html.escape(alt),
        picture=base64.b64encode(picture).decode(),
        caption=html.escape(" ".join(caption.words)),
        example=json.dumps(example).replace("<", "\\u003c"),
        here=here,
        book="yes" if here else "",
        gallery="".join(map(thumbnail, gallery)),
        style=STYLE,
    )


# chapters/live.md: A folder that is a captioner
def settings(captioner):
    """Return what the page must know of a captioner, as plain values."""
    words = sorted(captioner.word_map, key=captioner.word_map.get)
    special = {name: captioner.word_map[f"<{name}>"] for name in SPECIAL}
    encoder = captioner.encoder
    regions = len(encoder.pool) if encoder.pool is not None else 14**2
    return {
        "words": words,
        "special": special,
        "functions": [n for n, word in enumerate(words) if word in FUNCTION],
        "size": captioner.image_size,
        "side": round(regions**0.5),
        "most": captioner.max_length,
        "length_power": captioner.length_power,
        "rivals": RIVALS,
        "calibration": captioner.calibration,
    }


SPECIAL = ("pad", "start", "end", "unk")


# chapters/live.md: A folder that is a captioner
def write_part(folder, name, content):
    """Write bytes as a script that hands them over, packed; return how long it is."""
    text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    script = f'(globalThis.liveParts ??= {{}}).{name} = "{text}";\n'
    write_text(folder / f"{name}.js", script)
    return {"bytes": len(script)}


AT_SERVER = {"runtime": 73_054, "wasm": 14_239_897}


def write_runtime(folder):
    """Write the runtime's files; return where the page finds each of them."""
    scripts = data_folder() / "scripts"
    found = addresses(scripts, os.environ.get("BOOK_SCRIPTS", ""), RUNTIME)
    return {
        name: {"address": address, "hash": RUNTIME[name].hash, "bytes": AT_SERVER[name]}
        if address == RUNTIME[name].address
        else write_part(folder, name, (scripts / "static" / address).read_bytes())
        for name, address in found.items()
    }


# chapters/live.md: A folder that is a captioner
EXAMPLE = files("skimage") / "data" / "chelsea.png", "A cat's face, seen from near."


def export(captioner, folder, photograph=None, alt="The example.", gallery=()):
    """Write a web page that captions with a captioner into a folder; return its path.

    `photograph`, `alt` and `gallery` are as for `widget`. Raises RuntimeError where a
    graph does not compute what the captioner does.
    """
    folder = make_folder(folder)
    (look, speak), tried = graphs_of(captioner)
    small = {"look": smaller(look, as_half), "speak": smaller(speak, as_half)}
    for model, each in zip(small.values(), tried, strict=True):
        check_graph(model, *each, tolerance=0.02)
    parts = {"model": {"bytes": 0}} | write_runtime(folder)
    for name, model in small.items():
        parts[name] = write_part(folder, name, model.SerializeToString())
    known = json.dumps(settings(captioner))
    write_text(folder / "model.js", f"(globalThis.liveParts ??= {{}}).model = {known};")
    constants = {
        "PARTS": parts,
        "MEGABYTES": round(sum(part["bytes"] for part in parts.values()) / 1e6),
        "WORKER": WORKER,
    }
    lines = [f"const {name} = {json.dumps(c)};\n" for name, c in constants.items()]
    script = f'(() => {{\n"use strict";\n{"".join(lines)}{PAGE}}})();\n'
    write_text(folder / "page.js", script)
    if photograph is None:
        photograph, alt = EXAMPLE
    body = widget(captioner, photograph, alt, gallery=gallery)
    write_text(folder / "index.html", ALONE.format(body=body))
    return folder / "index.html"


ALONE = """<!doctype html><html lang="en"><meta charset="utf-8">
<title>Where it looks: a captioner</title>
<meta name="viewport" content="width=device-width">
<style>:root {{ color-scheme: light dark }}
body {{ font: 1.1em sans-serif; max-width: 44rem; margin: auto; padding: 1em }}</style>
<main>{body}</main></html>
"""


# chapters/live.md: A folder that is a captioner
def main(arguments=None):
    """Run `python -m satlib.live FOLDER`."""
    parser = argparse.ArgumentParser("python -m satlib.live", description=__doc__)
    text = "where the page is written; without it, the site's own are written anew"
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help=text)
    parser.add_argument("--captioner", help="a checkpoint; else the one that ships")
    parser.add_argument("--photograph", help="the example that the page shows first")
    chosen = parser.parse_args(arguments)
    if not chosen.folder and (chosen.captioner or chosen.photograph):
        parser.error("tell where, with FOLDER: the site's pages have their own")
    try:
        captioner = load_captioner(chosen.captioner)
        folder = chosen.folder or data_folder() / "live"
        print(export(captioner, folder, chosen.photograph))
        if not chosen.folder:
            of_scenes = load_captioner(fit(Config()).best)
            print(export_scenes(of_scenes, Path(folder, "scenes")))
    except (OSError, ValueError, RuntimeError) as error:
        parser.error(str(error))


# chapters/live.md: A folder that is a captioner
if __name__ == "__main__":
    main()
