
// The page around the explorer: the menu, tables that sort and filter, printing.

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

/** The link of the section that is being read. */
function markCurrent(menu) {
  const links = new Map([...menu.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const inView = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) isIntersecting ? inView.add(target.id) : inView.delete(target.id);
      const current = [...links.keys()].find((id) => inView.has(id));
      for (const [id, link] of links) {
        if (id === current) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
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

if (globalThis.document?.querySelector("nav > details")) {
  startMenu(document.querySelector("nav > details"));
  document.querySelectorAll("main table:not(.facts)").forEach((table) => table.tHead && startTable(table));
}
