"use strict";
// Sorting, filtering and moving by arrow keys in tables. What is chosen stands in the address, after the "#", so that a
// view can be passed on: #sort=p50_ms:descending&filter=openvino&status=measured
const table = document.querySelector("table.rows");
if (table) {
  const body = table.tBodies[0], rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const filter = document.getElementById("filter"), status = document.getElementById("status");
  const order = document.getElementById("order"), count = document.getElementById("count");
  let sorted = "", falling = false;

  const valueOf = (row, place) => row.cells[place].dataset.value ?? row.cells[place].textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");  // what is not known comes last, either way
    const [x, y] = [Number(a), Number(b)];
    const found = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return falling ? -found : found;
  };
  const show = () => {
    const place = heads.findIndex((head) => head.dataset.key === sorted);
    const arranged = place < 0 ? rows : [...rows].sort((a, b) => compare(valueOf(a, place), valueOf(b, place)));
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const row of arranged) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word)) || (status.value && row.dataset.status !== status.value);
      seen += !row.hidden;
      body.append(row);
    }
    heads.forEach((head, at) => head.setAttribute("aria-sort", at !== place ? "none" : falling ? "descending" : "ascending"));
    order.value = sorted ? `${sorted}:${falling ? "descending" : "ascending"}` : "";
    count.textContent = `${seen} of ${rows.length} rows`;
    body.querySelectorAll("tr").forEach((row) => { row.tabIndex = -1; });
    const first = Array.from(body.rows).find((row) => !row.hidden);
    if (first) first.tabIndex = 0;
  };
  const remember = () => {
    const chosen = new URLSearchParams();
    if (sorted) chosen.set("sort", order.value);
    if (filter.value) chosen.set("filter", filter.value);
    if (status.value) chosen.set("status", status.value);
    history.replaceState(null, "", "#" + chosen);
    show();
  };
  const recall = () => {
    const chosen = new URLSearchParams(location.hash.slice(1));
    const [key, way] = (chosen.get("sort") || "").split(":");
    sorted = heads.some((head) => head.dataset.key === key) ? key : "";
    falling = way === "descending";
    filter.value = chosen.get("filter") || "";
    status.value = chosen.get("status") || "";
    if (status.selectedIndex < 0) status.value = "";
    show();
  };
  heads.forEach((head) => head.querySelector("button")?.addEventListener("click", () => {
    falling = sorted === head.dataset.key && !falling;
    sorted = head.dataset.key;
    show();
    remember();
  }));
  order.addEventListener("change", () => {
    const [key, way] = order.value.split(":");
    [sorted, falling] = [key || "", way === "descending"];
    show();
    remember();
  });
  filter.addEventListener("input", remember);
  status.addEventListener("change", remember);
  body.addEventListener("keydown", (event) => {
    const seen = Array.from(body.rows).filter((row) => !row.hidden), at = seen.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: seen.length - 1 }[event.key];
    if (at < 0 || next === undefined || !seen[next]) return;
    event.preventDefault();
    seen[at].tabIndex = -1;
    seen[next].tabIndex = 0;
    seen[next].focus();
  });
  addEventListener("hashchange", recall);
  recall();
}
