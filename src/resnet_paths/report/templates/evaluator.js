/**
 * The evaluator: the predictions of a small network with any of its blocks deleted, computed in the reader's browser.
 *
 * It implements the operations that resnet_paths/network/arithmetic.py lists, one image at a time, on plain arrays in double
 * precision. Only the weights are rounded (to float16), so that its numbers are PyTorch's for the rounded network to many
 * digits; the page verifies this before it uses them. It works in slices of a few milliseconds on the page's own thread: a worker would need an exception in the page's security policy, and one image takes a few milliseconds at most.
 */

const WORK_SLICE = 12; // milliseconds between two moments in which the page can answer a click
const MOST_KEPT = 64e6; // bytes of sums kept from one set to the next
const CHECK_TOLERANCE = 1e-6; // relative, of a loss; the order of sums alone makes differences of about 1e-12
const TILE = 4; // rows and columns multiplied at once: sixteen products for eight numbers read

// Bytes

/** The bytes behind base64 of a deflated text. */
export async function inflated(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Half-precision numbers; Float16Array is too recent to rely on. */
export function halves(bytes) {
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return Float32Array.from(words, (word) => {
    const sign = word & 0x8000 ? -1 : 1;
    const exponent = (word >> 10) & 31;
    const fraction = word & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

const sizeOf = (shape) => shape.reduce((product, side) => product * side, 1);
const upToTile = (number) => TILE * Math.ceil(number / TILE);

// Activations: from the operation's settings to a function of one number. NaN stays NaN, as in PyTorch.

const ACTIVATIONS = {
  relu: () => (x) => (x < 0 ? 0 : x),
  clip: ({ low, high }) => (x) => (x < low ? low : x > high ? high : x),
  leaky_relu: ({ slope }) => (x) => (x < 0 ? slope * x : x),
  elu: ({ slope }) => (x) => (x < 0 ? slope * Math.expm1(x) : x),
  sigmoid: () => sigmoid,
  tanh: () => Math.tanh,
  silu: () => (x) => x * sigmoid(x),
  gelu: () => (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: () => (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  hardsigmoid: () => (x) => Math.min(Math.max(x + 3, 0), 6) / 6,
  hardswish: () => (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6,
  scale: ({ factor, shift }) => (x) => factor * x + shift,
};

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** The error function by its series of positive terms, 2/sqrt(pi) exp(-x^2) sum of 2^n x^(2n+1) / (1 3 5 ... (2n+1)). */
export function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x); // 1 to the last digit
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

// Operations: from the operation, the arrays that it reads and the operations that produced them, to a new array

const OPERATIONS = {
  convolution: (step, [x], [from]) => convolved(step, x, from.shape),
  linear: (step, [x]) => linear(step, x),
  affine: (step, [x]) => byChannel(step, x, (value, channel) => value * step.scale[channel] + step.shift[channel]),
  sum: (step, values) => added(values),
  add: (step, values) => added(values),
  multiply: (step, [x, by]) => {
    if (x.length === by.length) return x.map((value, i) => value * by[i]);
    return byChannel(step, x, (value, channel) => value * by[channel]);
  },
  mean: (step, [x], [from]) => channelMeans(x, from.shape),
  adaptive_pool: (step, [x], [from]) => pooled(step, x, from.shape, gridPart, average),
  average_pool: (step, [x], [from]) => pooled(step, x, from.shape, movingWindow, average),
  max_pool: (step, [x], [from]) => pooled(step, x, from.shape, movingWindow, largest),
  slice: (step, [x], [from]) => sliced(step, x, from.shape),
  pad: (step, [x], [from]) => padded(step, x, from.shape),
  reshape: (step, [x]) => x,
  ...Object.fromEntries(Object.keys(ACTIVATIONS).map((name) => [name, (step, [x]) => x.map(step.activation)])),
};

/** Operations that this page does not implement: it was written by another version of the library. */
export const unknownOperations = (operations) =>
  operations.map((step) => step.does).filter((does) => does !== "input" && !(does in OPERATIONS));

function added(values) {
  const sum = values[0].slice();
  for (const other of values.slice(1)) for (let i = 0; i < sum.length; i++) sum[i] += other[i];
  return sum;
}

function byChannel({ shape }, x, change) {
  const pixels = x.length / shape[0];
  return x.map((value, i) => change(value, Math.floor(i / pixels)));
}

function channelMeans(x, [channels, height, width]) {
  const pixels = height * width;
  return Float64Array.from({ length: channels }, (_, channel) => {
    let sum = 0;
    for (let i = channel * pixels; i < (channel + 1) * pixels; i++) sum += x[i];
    return sum / pixels;
  });
}

function linear({ weight, bias, shape }, x) {
  return Float64Array.from({ length: shape[0] }, (_, row) => {
    let sum = bias ? bias[row] : 0;
    for (let i = 0; i < x.length; i++) sum += weight[row * x.length + i] * x[i];
    return sum;
  });
}

/** A convolution as products of its weights with the patches of the image, one group of channels after another. */
function convolved(step, x, from) {
  const { groups, shape, packed, patches } = step;
  const out = new Float64Array(sizeOf(shape));
  for (let group = 0; group < groups; group++) {
    copyPatches(step, x, from, group, patches);
    multiply(packed[group], patches, step, group, out);
  }
  return out;
}

/** The patch of each output pixel as one row of numbers, in the order of the weights; zeros beyond the image. */
function copyPatches({ groups, stride, padding, dilation, kernel, shape }, x, [channels, height, width], group, patches) {
  const first = (group * channels) / groups;
  const end = first + channels / groups;
  let at = 0;
  for (let row = 0; row < shape[1]; row++) {
    for (let column = 0; column < shape[2]; column++) {
      const top = row * stride[0] - padding[0];
      const left = column * stride[1] - padding[1];
      for (let channel = first; channel < end; channel++) {
        for (let i = 0; i < kernel[0]; i++) {
          const y = top + i * dilation[0];
          const inside = y >= 0 && y < height;
          const start = (channel * height + y) * width;
          for (let j = 0; j < kernel[1]; j++) {
            const column = left + j * dilation[1];
            patches[at++] = inside && column >= 0 && column < width ? x[start + column] : 0;
          }
        }
      }
    }
  }
}

/**
 * Each row of weights times each patch, in tiles of four by four whose sums stay in the processor's registers.
 * Weights and patches are padded to full tiles; the padding's results are not written.
 */
function multiply(weights, patches, { depth, shape, groups, bias }, group, out) {
  const rows = shape[0] / groups;
  const pixels = shape[1] * shape[2];
  for (let row = 0; row < rows; row += TILE) {
    for (let pixel = 0; pixel < pixels; pixel += TILE) {
      let a = row * depth;
      let b = pixel * depth;
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      for (const end = a + depth; a < end; a++, b++) {
        const w0 = weights[a], w1 = weights[a + depth], w2 = weights[a + 2 * depth], w3 = weights[a + 3 * depth];
        const p0 = patches[b], p1 = patches[b + depth], p2 = patches[b + 2 * depth], p3 = patches[b + 3 * depth];
        s00 += w0 * p0; s01 += w0 * p1; s02 += w0 * p2; s03 += w0 * p3;
        s10 += w1 * p0; s11 += w1 * p1; s12 += w1 * p2; s13 += w1 * p3;
        s20 += w2 * p0; s21 += w2 * p1; s22 += w2 * p2; s23 += w2 * p3;
        s30 += w3 * p0; s31 += w3 * p1; s32 += w3 * p2; s33 += w3 * p3;
      }
      const sums = [s00, s01, s02, s03, s10, s11, s12, s13, s20, s21, s22, s23, s30, s31, s32, s33];
      for (let i = 0; i < TILE && row + i < rows; i++) {
        const channel = group * rows + row + i;
        const shift = bias ? bias[channel] : 0;
        for (let j = 0; j < TILE && pixel + j < pixels; j++) out[channel * pixels + pixel + j] = sums[i * TILE + j] + shift;
      }
    }
  }
}

/** The part of a grid of `parts` that PyTorch's adaptive pooling gives to each output: [start, end, numbers averaged]. */
function gridPart(step, axis, at, size) {
  const start = Math.floor((at * size) / step.shape[axis + 1]);
  const end = Math.ceil(((at + 1) * size) / step.shape[axis + 1]);
  return { start, end, every: 1, counted: end - start };
}

/** The window of each output; where zeros around the image count, those up to the padding do and no others. */
function movingWindow({ kernel, stride, padding, dilation = [1, 1], count_padding }, axis, at, size) {
  const start = at * stride[axis] - padding[axis];
  const every = dilation[axis];
  const end = Math.min(start + every * (kernel[axis] - 1) + 1, size + padding[axis]);
  const first = start < 0 ? start + every * Math.ceil(-start / every) : start;
  const last = Math.min(end, size);
  return { start: first, end: last, every, counted: count_padding ? end - start : last - first };
}

const average = (sum, value) => sum + value;
const largest = (most, value) => (value > most || Number.isNaN(value) ? value : most);

function pooled(step, x, [channels, height, width], windowOf, gather) {
  const [, rows, columns] = step.shape;
  const windows = (axis, count, size) => Array.from({ length: count }, (_, at) => windowOf(step, axis, at, size));
  const vertical = windows(0, rows, height);
  const horizontal = windows(1, columns, width);
  const out = new Float64Array(channels * rows * columns);
  let at = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (const v of vertical) {
      for (const h of horizontal) {
        let value = gather === average ? 0 : -Infinity;
        for (let y = v.start; y < v.end; y += v.every) {
          for (let i = h.start; i < h.end; i += h.every) value = gather(value, x[(channel * height + y) * width + i]);
        }
        out[at++] = gather === average ? value / (v.counted * h.counted) : value;
      }
    }
  }
  return out;
}

/** Shapes as three sides: features are channels of one pixel. */
const threeSides = (shape) => [...shape, 1, 1].slice(0, 3);

function sliced({ shape, starts, steps }, x, from) {
  const [channels, rows, columns] = threeSides(shape);
  const [, height, width] = threeSides(from);
  const [channel, row, column] = [...starts, 0, 0];
  const [everyChannel, everyRow, everyColumn] = [...steps, 1, 1];
  const out = new Float64Array(sizeOf(shape));
  let at = 0;
  for (let i = 0; i < channels; i++) {
    for (let j = 0; j < rows; j++) {
      const start = ((channel + i * everyChannel) * height + row + j * everyRow) * width + column;
      for (let k = 0; k < columns; k++) out[at++] = x[start + k * everyColumn];
    }
  }
  return out;
}

function padded({ shape, before }, x, from) {
  const [channels, height, width] = threeSides(from);
  const [, rows, columns] = threeSides(shape);
  const [channel, row, column] = [...before, 0, 0];
  const out = new Float64Array(sizeOf(shape));
  for (let i = 0; i < channels; i++) {
    for (let j = 0; j < height; j++) {
      const start = ((channel + i) * rows + row + j) * columns + column;
      for (let k = 0; k < width; k++) out[start + k] = x[(i * height + j) * width + k];
    }
  }
  return out;
}

// The network

export class Evaluator {
  /** An evaluator of the network in the explorer's data, or an error where it does not agree with PyTorch. */
  static async from(data) {
    const one = new Evaluator(data, await inflated(data.network.weights), await inflated(data.network.images));
    await one.check(data.network.checks);
    return one;
  }

  constructor({ network, switches, labels }, weights, images) {
    const unknown = unknownOperations(network.operations);
    if (unknown.length) throw new Error(`it has no ${unknown.join(", ")}`);
    this.labels = labels;
    this.steps = prepared(network.operations, halves(weights));
    this.images = pixels(network, images, labels.length);
    this.switchOf = new Map(switches.map((block, at) => [block, at]));
    this.behind = this.switchesBehind();
    this.sums = this.sumsToKeep();
    this.kept = labels.map(() => new Map()); // for each image: the sums of the last set, with what they depend on
  }

  /** For each value, the switches of the blocks that it depends on, as bits. */
  switchesBehind() {
    const behind = [];
    this.steps.forEach((step, id) => {
      const at = step.does === "sum" ? this.switchOf.get(step.block) : undefined;
      behind[id] = step.of.reduce((bits, other) => bits | behind[other], at === undefined ? 0n : 1n << BigInt(at));
    });
    return behind;
  }

  /** The sums that are kept from set to set: all of them, or every second, third, ... where they would be too many. */
  sumsToKeep() {
    const ids = [...this.steps.keys()].filter((id) => this.steps[id].does === "sum");
    const bytes = 8 * this.images.length * ids.reduce((total, id) => total + sizeOf(this.steps[id].shape), 0);
    const every = Math.max(1, Math.ceil(bytes / MOST_KEPT));
    return new Set(ids.filter((_, at) => at % every === 0));
  }

  isOff(step, kept) {
    const at = step.does === "sum" ? this.switchOf.get(step.block) : undefined;
    return at !== undefined && !kept[at];
  }

  /** The logits of one image. Sums that do not depend on a changed switch are not recomputed. */
  logits(image, kept, on, remember) {
    const known = this.kept[image];
    const values = [];
    const needed = new Uint8Array(this.steps.length);
    needed[this.steps.length - 1] = 1;
    for (let id = this.steps.length - 1; id >= 0; id--) {
      if (!needed[id]) continue;
      const held = known.get(id);
      if (held && held.on === (on & this.behind[id])) values[id] = held.value;
      else for (const other of this.reads(this.steps[id], kept)) needed[other] = 1;
    }
    for (let id = 0; id < this.steps.length; id++) {
      if (!needed[id] || values[id]) continue;
      values[id] = this.compute(id, image, kept, values);
      if (remember && this.sums.has(id)) known.set(id, { on: on & this.behind[id], value: values[id] });
    }
    return values.at(-1);
  }

  /** The inputs of an operation at these switches: the sum of a block that is off is its shortcut. */
  reads(step, kept) {
    return this.isOff(step, kept) ? step.of.slice(0, 1) : step.of;
  }

  compute(id, image, kept, values) {
    const step = this.steps[id];
    if (step.does === "input") return this.images[image];
    const of = this.reads(step, kept);
    if (step.does === "sum" && of.length === 1) return values[of[0]];
    return OPERATIONS[step.does](step, of.map((other) => values[other]), of.map((other) => this.steps[other]));
  }

  /**
   * The network's answers with a set of blocks kept: {wrong, loss}, or null if it was stopped.
   *
   * @param kept a boolean for each switch
   * @param signal an AbortSignal that stops it
   * @param told is called regularly with the share that is done
   * @param remember whether the next set will resemble this one, rather than the one before
   */
  async ask(kept, { signal = null, told = () => {}, remember = true } = {}) {
    const on = kept.reduce((bits, flag, at) => (flag ? bits | (1n << BigInt(at)) : bits), 0n);
    const wrong = [];
    let loss = 0;
    let began = performance.now();
    for (let image = 0; image < this.images.length; image++) {
      if (performance.now() - began > WORK_SLICE) {
        told(image / this.images.length);
        await pause();
        if (signal?.aborted) return null;
        began = performance.now();
      }
      const logits = this.logits(image, kept, on, remember);
      wrong.push(!isRight(logits, this.labels[image]));
      loss += crossEntropy(logits, this.labels[image]);
    }
    return { wrong, loss: loss / this.images.length };
  }

  /** Compare with PyTorch's numbers for the same weights; an error says where they differ. */
  async check(checks) {
    for (const { kept, loss, errors } of checks) {
      const answer = await this.ask(kept);
      const found = answer.wrong.filter(Boolean).length;
      if (!(Math.abs(answer.loss - loss) <= CHECK_TOLERANCE * Math.max(1, Math.abs(loss))) || found !== errors) {
        throw new Error(`its arithmetic is not PyTorch's: ${found} errors and loss ${answer.loss}, not ${errors} and ${loss}`);
      }
    }
  }
}

/** The operations with their weights as arrays, and the buffers of convolutions. */
function prepared(operations, numbers) {
  let at = 0;
  return operations.map((given) => {
    const step = { ...given };
    for (const [name, shape] of Object.entries(given.tensors)) {
      step[name] = Float64Array.from(numbers.subarray(at, at + sizeOf(shape)));
      at += sizeOf(shape);
    }
    if (step.does in ACTIVATIONS) step.activation = ACTIVATIONS[step.does](step);
    if (step.does === "convolution") packConvolution(step);
    return step;
  });
}

/** Weights by group, padded to full tiles, and a buffer for the patches of one group. */
function packConvolution(step) {
  const [outputs, channels, height, width] = step.tensors.weight;
  const rows = outputs / step.groups;
  step.kernel = [height, width];
  step.depth = channels * height * width;
  step.packed = Array.from({ length: step.groups }, (_, group) => {
    const packed = new Float64Array(upToTile(rows) * step.depth);
    packed.set(step.weight.subarray(group * rows * step.depth, (group + 1) * rows * step.depth));
    return packed;
  });
  step.patches = new Float64Array(upToTile(step.shape[1] * step.shape[2]) * step.depth);
}

/** The images as the network reads them: normalised as resnet_paths.data.ImageData does it. */
function pixels({ operations, pixels: kind, mean, std }, bytes, count) {
  const size = sizeOf(operations[0].shape);
  const values = kind === "bytes" ? bytes : halves(bytes);
  const unit = kind === "bytes" ? 255 : 1;
  const channel = size / mean.length;
  return Array.from({ length: count }, (_, image) =>
    Float64Array.from({ length: size }, (_, i) => {
      const at = Math.floor(i / channel);
      return (values[image * size + i] / unit - mean[at]) / std[at];
    }),
  );
}

/** Whether the label has the largest logit (the first of several); NaN predicts nothing. */
function isRight(logits, label) {
  let best = 0;
  for (let i = 0; i < logits.length; i++) {
    if (Number.isNaN(logits[i])) return false;
    if (logits[i] > logits[best]) best = i;
  }
  return best === label;
}

function crossEntropy(logits, label) {
  const most = logits.reduce((high, value) => Math.max(high, value), -Infinity);
  return most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0)) - logits[label];
}

/** Let the page draw and answer; unlike a timer, a message is not delayed by 4 ms. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
