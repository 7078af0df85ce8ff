/**
 * The explorer: a network drawn as unrolled blocks, each a switch, and its predictions with any of them off.
 *
 * One module (with evaluator.js before it) for two places. In a page it finds every `<div data-explorer="ID">` and mounts the explorer there, with the
 * data in `<script type="application/json" id="ID">`. In a notebook anywidget calls the default export's `render`.
 * Nothing is loaded from anywhere. The data are written by resnet_paths/report/explorer.py, which describes them.
 */

const LEFT = 62; // pixels left of the blocks: the stem and the names of the stages
const ROW = 92;
const CELL = { least: 46, most: 92 };
const MOST_CLASSES = 12;
const MOST_THUMBNAILS = 24;
const FLIPS = new Set([" ", "Enter"]);
const NEAREST = 20; // checked estimates that tell the error of another
const NORMAL_95 = 1.959963984540054;
const HOW = { measured: "measured", computed: "computed in this page", estimated: "estimated" };

// Bytes: the helpers of evaluator.js, which precedes this file in the same module, and these

const floats = (bytes) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
const bitAt = (bytes, start, index) => (bytes[start + (index >> 3)] >> (index & 7)) & 1;

// The network's answers

/**
 * Answers for sets of blocks kept: measured if available, otherwise estimated, until one arrives that was measured or
 * computed since. `how` says which. A set is an array of n booleans.
 */
export class Answers {
  static async from(data) {
    const one = new Answers();
    one.n = data.switches.length;
    one.images = data.labels.length;
    one.labels = data.labels;
    one.sets = data.sets;
    one.bits = await inflated(data.wrong);
    one.losses = floats(await inflated(data.losses));
    one.wide = Math.ceil(one.images / 8);
    one.exhaustive = data.kept === null;
    one.further = new Map(); // measured or computed since the data were written
    one.guesses = new Map(); // each switch asks for those of all its neighbours
    if (!one.exhaustive) {
      one.kept = await inflated(data.kept);
      one.rows = new Map(Array.from({ length: one.sets }, (_, row) => [one.keyOf(one.keptOf(row)), row]));
    }
    if (data.estimate) {
      one.estimate = { ...data.estimate, coefficients: halves(await inflated(data.estimate.coefficients)) };
    }
    return one;
  }

  keyOf(kept) {
    return kept.map(Number).join("");
  }

  /** The set of a measured row. */
  keptOf(row) {
    const wide = Math.ceil(this.n / 8);
    const bit = this.exhaustive ? (i) => (row >> i) & 1 : (i) => bitAt(this.kept, row * wide, i);
    return Array.from({ length: this.n }, (_, i) => bit(i) === 1);
  }

  rowOf(kept) {
    if (this.exhaustive) return kept.reduce((row, on, i) => row | (on << i), 0);
    return this.rows.get(this.keyOf(kept));
  }

  /** What is known about a set: {how, wrong: booleans, errors, loss}; how is "measured", "computed" or "estimated". */
  at(kept) {
    const row = this.rowOf(kept);
    if (row !== undefined) {
      const wrong = Array.from({ length: this.images }, (_, image) => bitAt(this.bits, row * this.wide, image) === 1);
      return { how: "measured", wrong, errors: count(wrong), loss: this.losses[row] };
    }
    const key = this.keyOf(kept);
    if (this.further.has(key)) return this.further.get(key);
    if (!this.guesses.has(key)) this.guesses.set(key, this.estimated(kept));
    return this.guesses.get(key);
  }

  /** Store what was measured or computed later. */
  add(kept, how, { wrong, loss }) {
    this.further.set(this.keyOf(kept), { how, wrong, errors: count(wrong), loss });
  }

  /** Margins of all images from those of the measured sets: see resnet_paths/lesion/set_estimate.py. */
  estimated(kept) {
    const { rates, coefficients, centre } = this.estimate;
    const columns = this.images + 1;
    const wide = Math.ceil(this.n / 8);
    const sums = Float64Array.from(centre);
    for (let row = 0; row < this.sets; row++) {
      let apart = 0;
      for (let i = 0; i < this.n; i++) {
        if (bitAt(this.kept, row * wide, i) !== Number(kept[i])) apart += rates[i];
      }
      const alike = Math.exp(-apart);
      if (alike < 1e-9) continue;
      const start = row * columns;
      for (let column = 0; column < columns; column++) sums[column] += alike * coefficients[start + column];
    }
    const wrong = Array.from({ length: this.images }, (_, image) => sums[image] < 0);
    return { how: "estimated", wrong, errors: count(wrong), loss: Math.exp(sums[this.images]) };
  }

  /** For each number of blocks off, the measured row with the fewest errors (then the lowest loss), or undefined. */
  bestRows() {
    const best = [];
    for (let row = 0; row < this.sets; row++) {
      const off = this.n - count(this.keptOf(row));
      let errors = 0;
      for (let byte = row * this.wide; byte < (row + 1) * this.wide; byte++) errors += BITS[this.bits[byte]];
      const held = best[off];
      const loss = this.losses[row];
      if (!held || errors < held.errors || (errors === held.errors && loss < held.loss)) best[off] = { row, errors, loss };
    }
    return best.map((each) => each?.row);
  }
}

const BITS = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);
const count = (flags) => flags.reduce((sum, flag) => sum + flag, 0);

/** Wilson's score interval, as in resnet_paths.statistics.share_interval. */
export function shareInterval(share, n, z = NORMAL_95) {
  const centre = (share + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((share * (1 - share)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, Math.min(share, centre - half)), Math.min(1, Math.max(share, centre + half))];
}

// The cost of the blocks, and the paths through them

/** Shares of time, parameters and multiply-adds that are left. A block inside the branch of one that is off is off. */
export function costs(data, isOff) {
  const left = { ...data.total };
  for (const block of data.blocks) {
    let outer = block;
    let gone = false;
    while (outer) {
      gone ||= isOff(outer.index);
      outer = data.blocks[outer.inside];
    }
    if (!gone) continue;
    for (const name of Object.keys(left)) left[name] -= block[name] ?? 0;
  }
  return left;
}

/** The number of paths of each length, exact: the recursion of resnet_paths.paths.PathGraph, branches that are off at 0. */
export function pathCounts(graph, isOff) {
  const at = [];
  for (const [block, terms] of graph) {
    const total = terms.length ? [] : [1n];
    for (const [isBranch, sources] of terms) {
      if (isBranch && isOff(block)) continue;
      for (const source of sources) {
        at[source].forEach((number, length) => {
          const place = length + isBranch;
          while (total.length <= place) total.push(0n);
          total[place] += number;
        });
      }
    }
    at.push(total);
  }
  const counts = at.at(-1);
  while (counts.length > 1 && counts.at(-1) === 0n) counts.pop();
  return counts;
}

// Words

const percent = (share, places = 1) => `${(100 * share).toFixed(places)}\u00a0%`;
const points = (share) => `${share > 0 ? "+" : share < 0 ? "\u2212" : ""}${Math.abs(100 * share).toFixed(1)} points`;
const grouped = (number) => number.toLocaleString("en-US");
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A whole number: in full if it is short, powers of two as such, otherwise its first digits. */
export function large(number) {
  const text = grouped(number);
  if (number < 1_000_000n) return text;
  const bits = number.toString(2);
  if (/^10*$/.test(bits)) return `2${[...String(bits.length - 1)].map((digit) => SUPERSCRIPT[digit]).join("")}`;
  return `${(Number(number / 10n ** BigInt(String(number).length - 4)) / 1000).toFixed(2)}e${String(number).length - 1}`;
}

/** 12,345 as 12.3k. */
function short(number) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= size) return `${(number / size).toPrecision(3)}${letter}`;
  }
  return String(number);
}

// Elements

const SVG = "http://www.w3.org/2000/svg";

function html(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// The explorer

export class Explorer {
  /**
   * @param place the element to fill
   * @param data as resnet_paths/report/explorer.py writes it
   * @param answers of this network
   * @param source where the network can be run: {how, ahead, ask}, see `refine`; or null
   * @param switched is called with the indices of the blocks that are off
   */
  constructor(place, data, answers, { source = null, switched = () => {} } = {}) {
    Object.assign(this, { place, data, answers, source, switched });
    this.asked = null; // the set that the source is working on
    this.kept = data.switches.map(() => true);
    this.switchOf = new Map(data.switches.map((index, at) => [index, at]));
    this.full = answers.at(this.kept);
    this.best = answers.bestRows();
    this.focused = 0;
    this.build();
    this.update();
  }

  isOff = (index) => this.switchOf.has(index) && !this.kept[this.switchOf.get(index)];

  // building, once

  build() {
    const part = (name, ...children) => html("div", { class: `explorer-${name}` }, ...children);
    this.said = html("p", { class: "explorer-said", role: "status" });
    this.numbers = html("dl", { class: "explorer-numbers" });
    this.drawing = svg("svg", { role: "group", "aria-label": "Blocks of the network; arrow keys move, space switches" });
    this.drawing.addEventListener("keydown", (event) => this.onKey(event));
    this.next = html("p", { class: "explorer-next" });
    this.howRead = html("span", {});
    this.progress = html("progress", { max: 1, "aria-label": "Share of the images that are computed" });
    this.classes = html("table", {}, html("caption", {}, "Accuracy by class"));
    this.lengths = svg("svg", { role: "img" });
    this.lengthsRead = html("p", { class: "explorer-read" });
    this.turned = part("images");
    this.code = html("code", {});
    this.copied = html("span", { class: "explorer-copied", role: "status" });
    const copy = html("button", { type: "button", click: () => this.copy() }, "Copy");
    this.place.replaceChildren(
      this.numbers,
      html("p", { class: "explorer-how" }, this.howRead, " ", this.progress),
      part("net", this.drawing),
      this.next,
      this.tools(),
      part("code", html("pre", { tabindex: 0, role: "region", "aria-label": "Code that drops these blocks" }, this.code), copy, this.copied),
      part(
        "panels",
        part("panel", html("h3", {}, "Images that become misclassified"), this.turned),
        part("panel", html("h3", {}, "Path lengths"), this.lengths, this.lengthsRead),
        part("panel", html("h3", {}, "Classes"), this.classes),
      ),
      this.said,
    );
    new ResizeObserver(() => this.resized()).observe(this.place);
  }

  tools() {
    const button = (text, click) => html("button", { type: "button", click }, text);
    this.dropNext = button("Drop the next best", () => this.choice && this.set(this.without(this.choice.at)));
    this.allOn = button("All blocks on", () => this.set(this.kept.map(() => true)));
    const recommended = (this.place.dataset.recommended ?? "").split(" ").filter(Boolean).map(Number);
    const known = recommended.length > 0 && recommended.every((index) => this.switchOf.has(index));
    const drop = () => this.set(this.data.switches.map((index) => !recommended.includes(index)));
    const most = this.best.length - 1;
    this.slider = html("input", { type: "range", min: 0, max: most, value: 0, input: () => this.toBest() });
    this.slid = html("span", {}, "0"); // an output would take the label from the slider
    const label = html("label", {}, "Best measured set of ", this.slid, " blocks ", this.slider);
    const buttons = known ? [this.dropNext, button("Drop the recommended", drop), this.allOn] : [this.dropNext, this.allOn];
    return html("div", { class: "explorer-tools" }, ...buttons, label);
  }

  resized() {
    const width = Math.floor(this.place.clientWidth);
    if (width && width !== this.width) {
      this.width = width;
      this.draw();
      this.update();
    }
  }

  // drawing the network, whenever the width changes

  /** Rows of blocks: a stage starts a row, and continues in the next if it is too wide. */
  rows() {
    const stages = stagesOf(this.data.blocks);
    const inner = this.width - LEFT - 40;
    const longest = Math.max(...stages.map((stage) => stage.length));
    const cell = Math.min(CELL.most, Math.max(CELL.least, Math.floor(inner / longest)));
    const columns = Math.max(1, Math.floor(inner / cell));
    const rows = stages.flatMap((stage) => {
      const lines = Math.ceil(stage.length / columns);
      const wide = Math.ceil(stage.length / lines); // lines of one length, rather than one block left over
      return Array.from({ length: lines }, (_, i) => ({
        label: i ? "" : stage[0].stage,
        blocks: stage.slice(i * wide, (i + 1) * wide),
      }));
    });
    return { rows, cell };
  }

  draw() {
    const { rows, cell } = this.rows();
    const height = rows.length * ROW + 8;
    this.drawing.setAttribute("viewBox", `0 0 ${this.width} ${height}`);
    this.drawing.setAttribute("width", this.width);
    this.drawing.setAttribute("height", height);
    this.drawing.replaceChildren();
    this.marks = new Map();
    rows.forEach((row, at) => {
      const y = at * ROW + 72;
      const end = LEFT + row.blocks.length * cell;
      const last = at === rows.length - 1;
      this.drawing.append(svg("line", { class: "trunk", x1: at ? 30 : 46, y1: y, x2: end + (last ? 4 : 14), y2: y }));
      if (!at) this.drawing.append(...this.box("stem", 4, y));
      if (last) this.drawing.append(...this.box("head", end + 2, y));
      else this.drawing.append(svg("path", { class: "onward", d: `M${end + 10},${y - 4} l6,4 l-6,4` }));
      if (row.label) this.drawing.append(svg("text", { class: "stage", x: 4, y: y - 28 }, row.label));
      row.blocks.forEach((block, column) => this.drawBlock(block, LEFT + column * cell, y, cell));
    });
    this.rove();
  }

  box(text, x, y) {
    return [
      svg("rect", { class: "end", x, y: y - 11, width: 38, height: 22, rx: 4 }),
      svg("text", { class: "end-name", x: x + 19, y: y + 4 }, text),
    ];
  }

  drawBlock(block, x, y, cell) {
    const wide = cell - 18;
    const left = x + 6;
    const up = y - 28;
    const at = this.switchOf.get(block.index);
    const bar = svg("rect", { class: "cost", x: left + 4, y: up - 15, width: wide - 8, height: 0, rx: 1.5 });
    const words = svg("title", {}, block.name);
    const marks = [
      svg("rect", { class: "touch", x, y: y - 70, width: cell, height: ROW - 12 }),
      svg("path", { class: "branch", d: `M${x + 2},${y} V${up} H${left} M${left + wide},${up} H${x + cell - 8} V${y - 5}` }),
      bar,
      svg("rect", { class: "body", x: left, y: up - 12, width: wide, height: 24, rx: 5 }),
      svg("text", { class: "name", x: left + wide / 2, y: up + 4 }, String(block.index)),
      svg("circle", { class: "sum", cx: x + cell - 8, cy: y, r: 4.5 }),
    ];
    if (block.shortcut !== "identity") {
      marks.push(svg("rect", { class: "projection", x: left + wide / 2 - 6, y: y - 6, width: 12, height: 12, rx: 2 }));
    }
    if (block.inside >= 0) marks.push(svg("text", { class: "inside", x: left + wide / 2, y: y + 17 }, `in ${block.inside}`));
    const group = svg("g", { class: "block" }, words, ...marks);
    if (at === undefined) {
      filled(group, { role: "img", "aria-label": `${block.name}, cannot be dropped: ${block.reason}` }, []);
      group.classList.add("locked");
      words.textContent = `${block.name} cannot be dropped: ${block.reason}`;
    } else {
      const label = block.inside >= 0 ? `${block.name}, inside ${this.data.blocks[block.inside].name}` : block.name;
      filled(group, { role: "switch", "aria-label": label, tabindex: -1, click: () => this.flip(at) }, []);
      this.marks.set(at, { group, bar, words, block, top: up - 14 });
    }
    this.drawing.append(group);
  }

  // switching

  onKey(event) {
    const last = this.kept.length - 1;
    const to = {
      ArrowRight: Math.min(this.focused + 1, last), ArrowDown: Math.min(this.focused + 1, last),
      ArrowLeft: Math.max(this.focused - 1, 0), ArrowUp: Math.max(this.focused - 1, 0), Home: 0, End: last,
    }[event.key];
    if (FLIPS.has(event.key)) this.flip(this.focused);
    else if (to === undefined) return;
    else {
      this.focused = to;
      this.rove();
      this.marks.get(to).group.focus();
    }
    event.preventDefault();
  }

  /** A single tab stop: the block that had the focus last. */
  rove() {
    for (const [at, mark] of this.marks) mark.group.setAttribute("tabindex", at === this.focused ? 0 : -1);
  }

  without(at) {
    return this.kept.map((on, i) => on && i !== at);
  }

  flip(at) {
    this.focused = at;
    this.rove();
    this.set(this.kept.map((on, i) => (i === at ? !on : on)));
  }

  set(kept) {
    this.kept = kept;
    this.update();
  }

  toBest() {
    this.slid.textContent = this.slider.value;
    this.slider.setAttribute("aria-valuetext", `${this.slider.value} blocks off`);
    const row = this.best[Number(this.slider.value)];
    if (row !== undefined) this.set(this.answers.keptOf(row));
  }

  async copy() {
    const text = this.code.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(this.code); // where the page may not write, the reader can
      this.copied.textContent = "Selected: press Ctrl+C";
      return;
    }
    this.copied.textContent = "Copied";
  }

  // what is shown, after every switch

  update() {
    const answer = this.answers.at(this.kept);
    const off = this.data.switches.filter(this.isOff);
    this.showNumbers(answer, off);
    this.showFurther(answer);
    this.showClasses(answer);
    this.showLengths();
    this.showImages(answer);
    this.allOn.disabled = !off.length;
    this.code.textContent = `smaller = drop_blocks(${this.data.model_code}, [${off.join(", ")}])`;
    this.copied.textContent = "";
    this.place.dataset.how = answer.how;
    this.switched(off);
    this.refine();
  }

  /** What switching off one more block would cost, which becomes more precise while the source computes. */
  showFurther(answer) {
    this.choice = this.cheapest();
    this.showBlocks(answer);
    this.showNext(answer);
    this.showHow(answer);
  }

  /**
   * Ask the source for what was only estimated: the set shown, and then, if it works `ahead`, the set without each further block. One request at a time; one that is no longer needed is cancelled.
   */
  async refine() {
    const kept = this.source && this.unanswered();
    if (this.asked) {
      if (!kept || this.answers.keyOf(kept) !== this.answers.keyOf(this.asked.kept)) this.asked.stop.abort();
      return;
    }
    if (!kept) return;
    const stop = new AbortController();
    this.asked = { kept, stop };
    const told = (done) => this.showProgress(done);
    const found = await this.source.ask(kept, { signal: stop.signal, told, remember: kept === this.kept });
    this.asked = null;
    if (found) this.answers.add(kept, this.source.how, found);
    else if (!stop.signal.aborted) this.source = null; // it cannot: estimates stay estimates
    if (kept === this.kept) this.update();
    else {
      this.showFurther(this.answers.at(this.kept));
      this.refine();
    }
  }

  /** The set to request next, or null: the one shown, then those with one block less, the best estimate first. */
  unanswered() {
    const isGuess = (kept) => this.answers.at(kept).how === "estimated";
    if (isGuess(this.kept)) return this.kept;
    if (!this.source.ahead) return null;
    const further = this.kept.flatMap((on, at) => (on ? [this.without(at)] : [])).filter(isGuess);
    const order = (one, other) => this.answers.at(one).errors - this.answers.at(other).errors;
    return further.sort(order)[0] ?? null;
  }

  showProgress(done) {
    this.progress.value = done;
  }

  /** The set left by each switch that is on, if it were off too. */
  after() {
    return this.kept.map((on, at) => (on ? this.answers.at(this.without(at)) : null));
  }

  /** The block whose deletion leaves the fewest wrong answers, then the lowest loss. */
  cheapest() {
    this.following = this.after();
    let best = null;
    this.following.forEach((next, at) => {
      if (next && (!best || next.errors < best.next.errors || (next.errors === best.next.errors && next.loss < best.next.loss))) {
        best = { at, next };
      }
    });
    return best;
  }

  /** Within which 95 % of the twenty checked estimates lie that delete about as many blocks: SetEstimate.error_of. */
  estimateError() {
    const { deleted, errors } = this.answers.estimate;
    const asked = Math.max(1, this.kept.length - count(this.kept));
    const ratio = (number) => Math.max(number / asked, asked / number);
    const near = [...deleted.keys()].sort((a, b) => ratio(deleted[a]) - ratio(deleted[b])).slice(0, NEAREST);
    const sorted = near.map((at) => errors[at]).sort((a, b) => a - b);
    return sorted[Math.ceil(0.95 * (sorted.length - 1))];
  }

  /** What the page has measured of the network without exactly these blocks, as its other parts show it. */
  timed() {
    const off = this.data.switches.filter((_, at) => !this.kept[at]).sort((a, b) => a - b).join(" ");
    const found = JSON.parse(this.place.dataset.latencies ?? "[]").find(([dropped]) => [...dropped].sort((a, b) => a - b).join(" ") === off);
    return found && ["Latency", found[2], found[1], found[3].replaceAll(" %", "\u00a0%")];
  }

  interval(answer) {
    const share = 1 - answer.errors / this.answers.images;
    if (answer.how !== "estimated") return shareInterval(share, this.answers.images);
    const off = this.estimateError();
    return [Math.max(0, share - off), Math.min(1, share + off)];
  }

  /** How the answer came about, and what is still being computed. */
  showHow(answer) {
    const further = this.following.filter(Boolean);
    const known = further.filter((next) => next.how !== "estimated").length;
    const on = this.source?.ahead && known < further.length && answer.how !== "estimated";
    const ahead = on ? ` Computing what each further block would cost: ${known} of ${further.length}.` : "";
    this.howRead.textContent = this.howSaid(answer.how) + ahead;
    this.progress.hidden = !(answer.how === "estimated" && this.willAnswer());
  }

  howSaid(how) {
    if (how === "measured") return "Measured with PyTorch.";
    if (how === "estimated" && this.willAnswer()) return "An estimate; the answer is being computed.";
    if (how === "estimated") return `An estimate.${this.whyEstimated()}`;
    const { sets, answers, alike } = this.data.network.agreement;
    return (
      `Computed in this page with weights rounded to float16: ${grouped(alike)} of ${grouped(answers)} answers of ` +
      `${sets} measured sets are right or wrong as PyTorch has them.`
    );
  }

  /** Whether there is a source, or will be as soon as the page has checked its arithmetic. */
  willAnswer() {
    return Boolean(this.source || (this.data.network && !this.failed));
  }

  whyEstimated() {
    const why = this.data.not_computed ?? this.failed;
    return why ? ` This page cannot compute the answer itself: ${why}.` : "";
  }

  showNumbers(answer, off) {
    const images = this.answers.images;
    const share = 1 - answer.errors / images;
    const [low, high] = this.interval(answer);
    const left = costs(this.data, this.isOff);
    const total = this.data.total;
    const counts = pathCounts(this.data.graph, this.isOff);
    const paths = counts.reduce((sum, number) => sum + number, 0n);
    const change = share - (1 - this.full.errors / images);
    const moved = html("span", { class: change < 0 ? "worse" : "better" }, `${points(change)}; `);
    const isGuess = answer.how === "estimated";
    const kind = isGuess ? "estimate" : `${HOW[answer.how]}: ${images - answer.errors} of ${images} right`;
    const range = isGuess ? "95\u00a0% of checked estimates of this size within" : "95\u00a0% interval";
    const time = total.seconds ? percent(left.seconds / total.seconds, 0) : "unknown";
    const alone = ["Latency", time, left.seconds / total.seconds, "of the sum of all blocks' times, each measured alone"];
    const of = (name) => `${percent(left[name] / (total[name] || 1), 0)} of ${short(total[name])}`;
    // title, headline value, exact value, note below
    const facts = {
      accuracy: ["Accuracy", percent(share), share, `${range} ${percent(low)} to ${percent(high)}; ${kind}`],
      loss: ["Loss", answer.loss.toPrecision(3), answer.loss, `nats; ${this.full.loss.toPrecision(3)} with all blocks`],
      seconds: this.timed() ?? alone,
      parameters: ["Parameters", short(left.parameters), left.parameters, of("parameters")],
      macs: ["Multiply-adds", short(left.macs), left.macs, `${of("macs")} per image`],
      paths: ["Paths", large(paths), paths, `${off.length} of ${this.kept.length} blocks off`],
    };
    const before = { accuracy: off.length && change ? moved : "" };
    this.numbers.replaceChildren(
      ...Object.entries(facts).map(([name, [title, value, exact, small]]) =>
        html(
          "div", { class: isGuess ? "estimated" : null },
          html("dt", {}, title),
          html("dd", { "data-number": name, "data-value": String(exact) }, value),
          html("dd", { class: "small" }, before[name] ?? "", small),
        ),
      ),
    );
    const first = off.length ? `${off.length} of ${this.kept.length} blocks off` : "All blocks on";
    this.said.textContent = `${first}: accuracy ${percent(share)}, ${HOW[answer.how]}.`;
  }

  showBlocks(answer) {
    if (!this.marks) return;
    const images = this.answers.images;
    const falls = this.following.map((next) => (next ? (next.errors - answer.errors) / images : 0));
    const scale = 20 / Math.max(0.05, ...falls);
    for (const [at, { group, bar, words, block, top }] of this.marks) {
      const on = this.kept[at];
      const next = this.following[at];
      group.setAttribute("aria-checked", String(on));
      group.classList.toggle("off", !on);
      group.classList.toggle("choice", this.choice?.at === at);
      const tall = on ? Math.max(0, falls[at] * scale) : 0;
      bar.setAttribute("height", tall);
      bar.setAttribute("y", top - tall);
      bar.classList.toggle("guess", next?.how === "estimated");
      words.textContent = on
        ? `${block.name}: without it, accuracy ${percent(1 - next.errors / images)} (${points(-falls[at])}, ${HOW[next.how]})`
        : `${block.name}: off`;
    }
  }

  showNext(answer) {
    this.dropNext.disabled = !this.choice;
    if (!this.choice) {
      this.next.textContent = "No blocks left to drop.";
      return;
    }
    const { at, next } = this.choice;
    const name = this.data.blocks[this.data.switches[at]].name;
    const images = this.answers.images;
    const how = next.how === "estimated" ? "estimated; measure it before you rely on it" : HOW[next.how];
    this.next.replaceChildren(
      "Next best to drop: ",
      html("strong", {}, name),
      `, ${percent(1 - next.errors / images)} accuracy without it (${points((answer.errors - next.errors) / images)}; ${how}).`,
    );
  }

  showClasses(answer) {
    const total = this.data.classes.map(() => 0);
    const right = this.data.classes.map(() => 0);
    const before = this.data.classes.map(() => 0);
    this.answers.labels.forEach((label, image) => {
      total[label] += 1;
      right[label] += !answer.wrong[image];
      before[label] += !this.full.wrong[image];
    });
    const shown = [...total.keys()].filter((label) => total[label]);
    const most = [...shown].sort((a, b) => right[a] / total[a] - right[b] / total[b]).slice(0, MOST_CLASSES);
    const listed = shown.length > MOST_CLASSES ? most : shown;
    const rows = listed.map((label) => {
      const bar = html("span", { class: "explorer-bar" });
      bar.style.setProperty("--share", String(right[label] / total[label]));
      bar.style.setProperty("--before", String(before[label] / total[label]));
      return html(
        "tr", { "data-class": label },
        html("th", { scope: "row" }, this.data.classes[label]), html("td", { "aria-hidden": "true" }, bar),
        html("td", {}, `${right[label]} of ${total[label]}`),
      );
    });
    const note = shown.length > listed.length ? ` (the ${listed.length} lowest of ${shown.length})` : "";
    this.classes.caption.textContent = `Accuracy by class${note}; the tick marks the full network`;
    this.classes.replaceChildren(this.classes.caption, html("tbody", {}, ...rows));
  }

  showLengths() {
    const counts = pathCounts(this.data.graph, this.isOff);
    const whole = pathCounts(this.data.graph, () => false);
    const width = 320;
    const height = 120;
    const step = width / whole.length;
    const most = counts.reduce((high, number) => (number > high ? number : high), 1n);
    const sum = counts.reduce((total, number) => total + number, 0n);
    const share = (number, of) => Number((number * 1_000_000n) / of) / 1_000_000;
    const bars = counts.map((number, length) => {
      const tall = share(number, most) * (height - 20);
      const bar = { class: "length", x: length * step + 0.5, y: height - tall, width: Math.max(1, step - 1), height: tall };
      return svg("rect", bar, svg("title", {}, `length ${length}: ${large(number)} paths, ${percent(share(number, sum))}`));
    });
    const mean = counts.reduce((total, number, length) => total + length * share(number, sum), 0);
    const words = `${large(sum)} paths; they pass ${mean.toFixed(1)} branches on average, out of ${counts.length - 1}.`;
    this.lengths.setAttribute("viewBox", `0 0 ${width} ${height + 18}`);
    this.lengths.setAttribute("aria-label", `Histogram of path lengths: ${words}`);
    this.lengths.replaceChildren(
      ...bars,
      svg("line", { class: "axis", x1: 0, y1: height, x2: width, y2: height }),
      svg("text", { x: 0, y: height + 14 }, "0 branches"),
      svg("text", { x: width, y: height + 14, "text-anchor": "end" }, String(whole.length - 1)),
    );
    this.lengthsRead.textContent = words;
  }

  showImages(answer) {
    const worse = [...answer.wrong.keys()].filter((image) => answer.wrong[image] && !this.full.wrong[image]);
    const better = count(answer.wrong.map((wrong, image) => !wrong && this.full.wrong[image]));
    const shown = worse.filter((image) => this.data.pictures.places[image] !== undefined).slice(0, MOST_THUMBNAILS);
    const rest = worse.length > shown.length ? ` (${shown.length} shown)` : "";
    const told = `${worse.length} of ${this.answers.images} become wrong${rest}, ${better} become right.`;
    this.turned.replaceChildren(
      html("p", {}, answer.how === "estimated" ? `${told} An estimate.` : told),
      html("ul", {}, ...shown.map((image) => this.thumbnail(image))),
    );
  }

  thumbnail(image) {
    const { uri, width, height, columns, places } = this.data.pictures;
    const place = places[image];
    const label = this.data.classes[this.answers.labels[image]];
    const view = [(place % columns) * width, Math.floor(place / columns) * height, width, height].join(" ");
    const sprite = svg("image", { href: uri, width: columns * width, height: Math.ceil(Object.keys(places).length / columns) * height });
    const drawn = svg("svg", { viewBox: view, role: "img", "aria-label": `image ${image}, class ${label}` }, sprite);
    return html("li", { title: `image ${image}` }, drawn, html("span", {}, label));
  }
}

/** The blocks of each stage, which follow each other. */
function stagesOf(blocks) {
  const stages = [];
  for (const block of blocks) {
    if (stages.at(-1)?.[0].stage === block.stage) stages.at(-1).push(block);
    else stages.push([block]);
  }
  return stages;
}

/** Fill an element with the explorer of these data. */
export async function mount(place, data, options = {}) {
  place.classList.add("explorer");
  const explorer = new Explorer(place, data, await Answers.from(data), options);
  if (data.network && !explorer.source) await computeIn(explorer);
  return explorer;
}

/** Give an explorer the network of its data as a source, after the page has checked its own arithmetic. */
async function computeIn(explorer) {
  try {
    const evaluator = await Evaluator.from(explorer.data);
    const ask = (kept, options) => evaluator.ask(kept, options);
    explorer.source = { how: "computed", ahead: true, ask };
  } catch (error) {
    explorer.failed = error.message;
  }
  explorer.update();
}

/** The entry point for notebooks: the model's `data`, sets to be measured as messages, and the blocks that are off. */
export default {
  async render({ model, el }) {
    const waiting = new Map();
    model.on("msg:custom", (found) => {
      waiting.get(found.id)?.(found.error ? null : found);
      waiting.delete(found.id);
    });
    let asked = 0;
    const ask = (kept) =>
      new Promise((resolve) => {
        asked += 1;
        waiting.set(asked, resolve);
        model.send({ id: asked, kept });
      });
    const switched = (off) => {
      model.set("dropped", off);
      model.save_changes();
    };
    const place = document.createElement("div");
    el.append(place);
    const source = model.get("live") ? { how: "measured", ahead: false, ask } : null;
    await mount(place, JSON.parse(model.get("data")), { source, switched });
  },
};

for (const place of globalThis.document?.querySelectorAll("[data-explorer]") ?? []) {
  if (!place.classList.contains("explorer")) mount(place, JSON.parse(document.getElementById(place.dataset.explorer).textContent));
}
