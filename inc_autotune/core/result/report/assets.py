"""Style and script of a report."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f5f6f7; --ink: #1f2328; --muted: #59636e; --line: #d8dde2;
  --blue: #2f6db3; --orange: #b75d0c; --green: #23803c; --purple: #7a52b3; --red: #c0323b; --gold: #7d6608;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --panel: #1e2226; --ink: #e3e6e8; --muted: #9aa4ae; --line: #353b41;
    --blue: #6ea8e8; --orange: #e59a4f; --green: #5fbf7a; --purple: #b391e6; --red: #f0777f; --gold: #d8bc4a;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1rem; font-weight: 600; color: var(--muted); }
h2 { margin: 3rem 0 .5rem; font-size: 1.25rem; }
h3 { margin: .75rem 0 .25rem; font-size: 1rem; }
.verdict { margin: .25rem 0 0; font-size: 1.75rem; font-weight: 650; line-height: 1.25; }
.verdict.met { color: var(--green); }
.verdict.unmet { color: var(--red); }
.verdict.undecided { color: var(--orange); }
.lead, figcaption, .none, .quiet { color: var(--muted); }
.lead { margin: .25rem 0 0; }
.warning { border-left: 3px solid var(--orange); padding-left: .75rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0 0; }
.figures div { background: var(--panel); border-radius: .5rem; padding: .75rem 1rem; }
.figures dt { font-size: .875rem; color: var(--muted); }
.figures dd { margin: 0; font-size: 1.375rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures dd small { display: block; font-size: .8125rem; font-weight: 400; color: var(--muted); line-height: 1.35; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 0 2.5rem; }
.pair > section { min-width: 0; }
figure { margin: 0; }
figcaption { margin-bottom: .75rem; max-width: 62rem; font-size: .9375rem; }
details { margin-top: .5rem; }
summary { cursor: pointer; color: var(--muted); font-size: .9375rem; }
.scroll { overflow: auto; max-height: 36rem; margin-top: .75rem; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .375rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; background: var(--panel); white-space: nowrap; }
tbody th { font-weight: 400; }
.name { min-width: min(18rem, 45vw); overflow-wrap: anywhere; }
.wide { min-width: 14rem; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.word { white-space: nowrap; }
.search { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .75rem; margin-top: .75rem; }
.search[hidden] { display: none; }
.search input { flex: 0 1 22rem; min-width: 0; padding: .375rem .625rem; font: inherit; color: inherit;
  background: var(--page); border: 1px solid var(--muted); border-radius: .375rem; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
"""

SCRIPT = """
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
    const words = search.value.toLowerCase().split(/\\s+/);
    for (const row of rows) {
      const text = [...row.children].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    found.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
  });
}
"""
