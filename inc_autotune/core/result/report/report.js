"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function themed(value, key) {
  if (Array.isArray(value)) return value.map((each) => themed(each, ""));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, themed(each, name)]));
  if (typeof value === "string" && value.startsWith("--") && key.endsWith("color"))
    return getComputedStyle(document.documentElement).getPropertyValue(value).trim();
  return value;
}

function draw() {
  for (const [key, chart] of Object.entries(charts))
    Plotly.react(key, themed(chart.data, ""), themed(chart.layout, ""),
      { responsive: true, displayModeBar: false });
}
draw();
dark.addEventListener("change", draw);

const search = document.getElementById("search");
const rows = [...document.querySelectorAll("#operators tbody tr")];
const found = document.getElementById("found");
if (search) {
  search.parentElement.hidden = false;
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = [...row.children].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    found.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
  });
}
