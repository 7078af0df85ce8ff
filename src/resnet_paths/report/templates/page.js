
// The page around the explorer: the menu, tables that can be sorted and filtered, figures with values, printing.

const WIDE = globalThis.matchMedia?.("(min-width: 1000px)");
const LEAST_ROWS = 8; // fewer need no filter

/** On a phone the menu opens and closes; on a screen it is always open. */
function startMenu(menu) {
  const follow = () => (menu.open = WIDE.matches);
  WIDE.addEventListener("change", follow);
  follow();
  menu.addEventListener("click", (event) => {
    if (event.target.closest("a") && !WIDE.matches) menu.open = false;
  });
  markCurrent(menu);
}

/** The link of the section that is being read: of two side by side, the one that was selected. */
function markCurrent(menu) {
  const links = new Map([...menu.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const inView = new Set();
  const mark = () => {
    const asked = location.hash.slice(1);
    const current = inView.has(asked) ? asked : [...links.keys()].find((id) => inView.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("hashchange", mark);
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) isIntersecting ? inView.add(target.id) : inView.delete(target.id);
      mark();
    },
    { rootMargin: "-15% 0px -70% 0px" },
  );
  for (const id of links.keys()) watch.observe(document.getElementById(id));
}

/** What a cell sorts by: its number where the column holds numbers. */
function sortKey(row, column, numeric) {
  const text = row.cells[column].textContent;
  if (!numeric) return text;
  return text === "" ? -Infinity : Number(text.replaceAll(",", ""));
}

function sortBy(table, head) {
  const column = head.cellIndex;
  const numeric = head.classList.contains("right");
  const down = head.getAttribute("aria-sort") === (numeric ? null : "ascending");
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(sortKey(a, column, numeric), sortKey(b, column, numeric)));
  table.tBodies[0].append(...rows);
}

function startTable(table) {
  for (const head of table.tHead.rows[0].cells) {
    const button = html("button", { type: "button", click: () => sortBy(table, head) }, head.textContent);
    head.replaceChildren(button);
  }
  const rows = [...table.tBodies[0].rows];
  if (rows.length < LEAST_ROWS) return;
  const filter = (event) => {
    const wanted = event.target.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  };
  const box = html("input", { type: "search", input: filter });
  table.parentElement.before(html("label", { class: "filter" }, "Rows with ", box));
}

// Values of figures: the mark nearest to the pointer, or the next one by an arrow key.

const STEPS = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
const ACROSS = 4; // a figure is read along its horizontal axis: a distance down counts less

const tip = { box: null, mark: null };

function show(mark) {
  tip.mark?.classList.remove("now");
  tip.mark = mark;
  if (!tip.box) document.body.append((tip.box = html("div", { class: "tip", role: "status" })));
  tip.box.textContent = mark ? mark.dataset.tip : "";
  if (!mark) return;
  mark.classList.add("now");
  const at = mark.getBoundingClientRect();
  const size = tip.box.getBoundingClientRect();
  const left = Math.min(Math.max(4, at.left + at.width / 2 - size.width / 2), document.documentElement.clientWidth - size.width - 4);
  const top = at.top - size.height - 8 < 0 ? at.bottom + 8 : at.top - size.height - 8;
  tip.box.style.left = `${left + scrollX}px`;
  tip.box.style.top = `${top + scrollY}px`;
}

function nearest(marks, x, y, across) {
  let [best, least] = [null, Infinity];
  for (const mark of marks) {
    const box = mark.getBoundingClientRect();
    const [dx, dy] = [box.left + box.width / 2 - x, box.top + box.height / 2 - y];
    const far = across * dx * dx + dy * dy;
    if (far < least) [best, least] = [mark, far];
  }
  return best;
}

function startFigure(figure) {
  const marks = () => [...figure.querySelectorAll(".mark")];
  const relief = figure.classList.contains("relief");
  const point = (event) => show(nearest(marks(), event.clientX, event.clientY, relief ? 1 : ACROSS));
  figure.addEventListener("pointerdown", point); // a finger does not hover
  figure.addEventListener("pointermove", (event) => event.buttons && relief ? null : point(event)); // else it is turned
  figure.addEventListener("pointerleave", () => show(null));
  figure.addEventListener("blur", () => show(null));
  figure.addEventListener("keydown", (event) => {
    const all = marks();
    if (event.key === "Escape") return show(null);
    const ends = { Home: 0, End: all.length - 1 };
    if (!all.length || (relief && !event.shiftKey) || !(event.key in STEPS || event.key in ends)) return;
    event.preventDefault();
    const at = all.indexOf(tip.mark);
    const next = at < 0 ? 0 : at + (STEPS[event.key] ?? 0);
    show(all[ends[event.key] ?? Math.min(Math.max(next, 0), all.length - 1)]);
  });
}

// A surface that can be rotated.

const SCALE = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const [WIDTH, HEIGHT, SIZE] = [420, 320, 140]; // its own units, which are scaled to the page

/** The colour of a height between 0 and 1, as in the figure beside it. */
function shade(height) {
  const at = Math.min(Math.max(height, 0), 1) * (SCALE.length - 1);
  const low = Math.min(Math.floor(at), SCALE.length - 2);
  return `rgb(${SCALE[low].map((value, k) => Math.round(value + (at - low) * (SCALE[low + 1][k] - value)))})`;
}

class Relief {
  constructor(figure, data) {
    [this.figure, this.data, this.turn, this.tilt] = [figure, data, 0.6, 0.95];
    const known = data.z.filter((z) => z !== null);
    [this.low, this.high] = [Math.min(...known), Math.max(...known)];
    figure.replaceChildren(svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": this.words() }));
    this.draw();
    this.listen();
  }

  words() {
    const power = (value) => Number((10 ** value).toPrecision(3));
    return `Loss over the plane as a surface: from ${power(this.low)} to ${power(this.high)}; higher is worse.`;
  }

  height(cell) {
    return (this.data.z[cell] - this.low) / (this.high - this.low || 1);
  }

  /** From the plane (each side from -1 to 1) and the height (from 0 to 1) to the drawing, and how far away it is. */
  project(x, y, height) {
    const [across, depth] = [x * Math.cos(this.turn) - y * Math.sin(this.turn), x * Math.sin(this.turn) + y * Math.cos(this.turn)];
    const up = 1.2 * (height - 0.5) * Math.cos(this.tilt) + depth * Math.sin(this.tilt) * 0.9;
    return [WIDTH / 2 + SIZE * across * 0.95, HEIGHT / 2 - SIZE * up * 0.8, depth];
  }

  draw() {
    const { x, y, z, texts, exact, rows, table, column } = this.data;
    const side = (values, k) => (2 * (values[k] - values[0])) / (values.at(-1) - values[0] || 1) - 1;
    const points = z.map((value, cell) =>
      value === null ? null : this.project(side(x, cell % x.length), side(y, Math.floor(cell / x.length)), this.height(cell)),
    );
    const cells = [];
    for (let row = 0; row + 1 < y.length; row++) {
      for (let k = 0; k + 1 < x.length; k++) {
        const corners = [row * x.length + k, row * x.length + k + 1, (row + 1) * x.length + k + 1, (row + 1) * x.length + k];
        if (corners.some((cell) => points[cell] === null)) continue;
        const mean = (of) => corners.reduce((sum, cell) => sum + of(cell), 0) / 4;
        const colour = shade(mean((cell) => this.height(cell)));
        const outline = corners.map((cell) => points[cell].slice(0, 2).map((v) => v.toFixed(1)).join()).join(" ");
        cells.push([mean((cell) => points[cell][2]), svg("polygon", { class: "cell", points: outline, fill: colour, stroke: "rgba(0,0,0,.45)" })]);
      }
    }
    cells.sort((a, b) => b[0] - a[0]); // the far ones first
    const marks = points.flatMap((point, cell) =>
      point === null ? [] : svg("circle", {
        class: "mark", cx: point[0].toFixed(1), cy: point[1].toFixed(1), r: 4,
        "data-tip": texts[cell], "data-cell": `${table} ${rows[cell]} ${column}`, "data-value": exact[cell],
      }),
    );
    const corner = (a, b) => this.project(a, b, 0).slice(0, 2).map((v) => v.toFixed(1)).join();
    const floor = svg("polygon", { class: "floor", points: [corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)].join(" ") });
    this.figure.firstElementChild.replaceChildren(floor, ...cells.map(([, cell]) => cell), ...this.axes(), ...marks);
  }

  axes() {
    const end = (values) => `${values[0]} to ${values.at(-1)}`;
    const [first, second] = [this.project(0, -1.25, 0), this.project(-1.25, 0, 0)];
    const name = (point, text) => svg("text", { x: Math.min(Math.max(point[0], 65), WIDTH - 65).toFixed(1), y: point[1].toFixed(1), "text-anchor": "middle" }, text);
    return [name(first, `direction 1: ${end(this.data.x)}`), name(second, `direction 2: ${end(this.data.y)}`)];
  }

  listen() {
    const move = (turn, tilt) => {
      this.turn += turn;
      this.tilt = Math.min(Math.max(this.tilt + tilt, 0.05), 1.5);
      show(null);
      this.draw();
    };
    this.figure.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch" || event.isPrimary) this.figure.setPointerCapture(event.pointerId);
    });
    this.figure.addEventListener("pointermove", (event) => event.buttons && move(-event.movementX / 90, event.movementY / 120));
    this.figure.addEventListener("keydown", (event) => {
      const keys = { ArrowLeft: [0.15, 0], ArrowRight: [-0.15, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      if (event.shiftKey || !(event.key in keys)) return;
      event.preventDefault();
      move(...keys[event.key]);
    });
  }
}

/** Collapsed parts are printed, except unopened tables: their files have the numbers. */
function startPrinting() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details.fold:not([open]), header details:not([open])")];
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of closed) fold.open = false;
  });
}

if (globalThis.document?.querySelector("nav > details")) {
  startMenu(document.querySelector("nav > details"));
  document.querySelectorAll("main table:not(.facts)").forEach((table) => table.tHead && startTable(table));
  for (const figure of document.querySelectorAll("[data-surface]")) {
    new Relief(figure, JSON.parse(document.getElementById(figure.dataset.surface).textContent));
    figure.after(html("p", { class: "hint" }, "Drag, or use the arrow keys, to rotate it; hover, or use Shift and the arrow keys, for values."));
  }
  document.querySelectorAll(".drawn").forEach(startFigure);
  startPrinting();
}
