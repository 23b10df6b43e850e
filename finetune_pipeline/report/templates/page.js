
"use strict";
const create = (tag, text, parent) => { const e = document.createElement(tag); e.textContent = text; parent?.append(e); return e; };
const folds = [...document.querySelectorAll("details.section")];

const reveal = () => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = place?.closest("details");
  if (fold) { fold.open = true; place.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
reveal();

if (folds.length > 1) {
  const button = create("button", "Unfold all");
  button.className = "unfold";
  button.onclick = () => {
    const open = folds.some(fold => !fold.open);
    for (const fold of folds) fold.open = open;
    button.textContent = open ? "Fold all" : "Unfold all";
  };
  folds[0].before(button);
}

for (const table of document.querySelectorAll("table[data-filters]")) {
  const rows = [...table.tBodies[0].rows].map(row => ({ row, text: row.textContent.toLowerCase() }));
  const controls = create("div", "");
  controls.className = "controls";
  table.parentElement.before(controls);
  const search = create("input", "", create("label", "Search ", controls));
  search.type = "search";
  const selects = table.dataset.filters.split(",").map(Number).map(column => {
    const select = create("select", "", create("label", `${table.tHead.rows[0].cells[column].textContent} `, controls));
    const value = row => row.cells[column].textContent;
    create("option", "all", select).value = "";
    for (const each of new Set(rows.map(({ row }) => value(row)))) create("option", each || "(nothing)", select).value = `=${each}`;
    return { select, value };
  });
  const count = create("output", "", controls);
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      const fits = words.every(word => text.includes(word))
        && selects.every(({ select, value }) => !select.value || select.value === `=${value(row)}`);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  controls.addEventListener("input", filter);
  filter();
}
