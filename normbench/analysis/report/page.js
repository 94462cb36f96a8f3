// Sorting and filtering. Without this script the page shows all rows, in the order of the runs.
"use strict";

const form = document.getElementById("filters");
const count = document.getElementById("count");
const runs = [...document.querySelectorAll(".runs tbody tr")];

// A cell with a number has it unrounded in data-sort; words sort after the numbers, empty cells last.
function keyOf(cell) {
  const text = cell.querySelector("summary")?.textContent ?? cell.textContent.trim();
  if ("sort" in cell.dataset) return [0, Number(cell.dataset.sort), text];
  return [text === "" ? 2 : 1, 0, text];
}

function compare(a, b) {
  return a[0] - b[0] || a[1] - b[1] || a[2].localeCompare(b[2]);
}

function sortBy(header, column) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentElement.children) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = header.closest("table").tBodies[0];
  const keyed = [...body.rows].map((row) => [keyOf(row.cells[column]), row]);
  const direction = (a, b) => (a[0][0] || b[0][0] ? 1 : descending ? -1 : 1); // what has no number stays last
  keyed.sort((a, b) => direction(a, b) * compare(a[0], b[0]));
  body.append(...keyed.map(([, row]) => row));
}

function filter() {
  const wanted = [...new FormData(form)].filter(([, value]) => value !== "");
  for (const row of document.querySelectorAll("tbody tr")) {
    row.hidden = wanted.some(([key, value]) => key in row.dataset && !row.dataset[key].split(" - ").includes(value));
  }
  count.value = `${runs.filter((row) => !row.hidden).length} of ${runs.length} runs`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (header.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(header, column));
  });
}

// A point of a figure shows the runs behind it.
for (const link of document.querySelectorAll("figure svg a[data-norm]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    form.reset();
    for (const [key, value] of Object.entries(link.dataset)) if (form.elements[key]) form.elements[key].value = value;
    filter();
    for (const details of document.querySelectorAll("#runs > details")) details.open = true;
    document.getElementById("runs").scrollIntoView();
  });
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("section > details, figure > details")) details.open = true;
});

form.addEventListener("change", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.hidden = false;
filter();
