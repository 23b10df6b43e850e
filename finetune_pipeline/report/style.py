"""The style sheet of the report: system fonts, light and dark, and a layout for paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2126; --soft: #5b6470; --line: #dcdfe3; --panel: #f3f4f6;
  --accent: #1f5fae; --good: #17703f; --good-bg: #e9f5ee; --bad: #a8281f; --bad-bg: #fbecea; --heat: 31, 95, 174;
  --warn: #8a5a00; --warn-bg: #fdf4e1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e8eb; --soft: #9aa4b0; --line: #30363d; --panel: #1d2228; --accent: #7db4f5;
    --good: #74d19d; --good-bg: #14291e; --bad: #f59a90; --bad-bg: #331a18; --heat: 90, 155, 235;
    --warn: #e5b567; --warn-bg: #2e2412; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1, h2, h3 { line-height: 1.2; text-wrap: balance; }
h1 { font-size: 1.75rem; margin: 0 0 .35rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .6rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, ul { max-width: 72ch; margin: .5rem 0 .8rem; }
.lead { color: var(--soft); }
a { color: var(--accent); }
code { font: .92em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
nav { margin: 1.2rem 0 0; font-size: .875rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.verdict { border-left: 5px solid var(--good); background: var(--good-bg); padding: .9rem 1.2rem;
  margin: 1.4rem 0 .5rem; font-size: 1.0625rem; max-width: 50rem; }
.verdict.no { border-color: var(--bad); background: var(--bad-bg); }
.verdict.simple { border-color: var(--warn); background: var(--warn-bg); }
.verdict p { margin: 0; }
.verdict p + p { margin-top: .5rem; font-size: .9375rem; }
.verdict strong { color: var(--good); } .verdict.no strong { color: var(--bad); }
.verdict.simple strong { color: var(--warn); }
.wide { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; } th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 600; font-size: .8125rem; vertical-align: bottom; }
.r { text-align: right; white-space: nowrap; }
.figures td:first-child, .nowrap { white-space: nowrap; }
tr.strong td { font-weight: 650; background: var(--panel); }
tr.strong td:first-child { box-shadow: -.6rem 0 0 var(--panel); }
.yes { color: var(--good); font-weight: 650; } .no-answer { color: var(--bad); font-weight: 650; }
.not-asked { color: var(--soft); }
.look-answer { color: var(--warn); font-weight: 650; }
.gates td:nth-child(3) { max-width: 62ch; }
.todo { display: block; margin-top: .2rem; color: var(--soft); }
.hash td:last-child { font: .85rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .875rem; }
.pair { display: flex; flex-wrap: wrap; gap: 0 2.5rem; } .pair > div { min-width: 0; max-width: 100%; }
.matrix td, .matrix th { padding: .35rem .45rem; text-align: center; border: 1px solid var(--paper); min-width: 2.3rem }
.matrix tbody th { text-align: right; font-weight: 400; white-space: nowrap; padding-left: 0; font-size: .8125rem; }
.matrix thead th { height: 8.5rem; vertical-align: bottom; font-weight: 400; padding: .3rem; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block; max-height: 8rem;
  white-space: nowrap; }
.matrix td.right { outline: 2px solid var(--soft); outline-offset: -2px; font-weight: 650; }
.matrix td.none { color: var(--soft); } .matrix td.dark { color: #fff; }
.matrix .outside { border-left: 6px solid var(--paper); font-style: italic; }
.case { border: 1px solid var(--line); border-radius: 6px; padding: .7rem 1rem; margin: .7rem 0; max-width: 52rem;
  break-inside: avoid; }
.case pre { margin: 0 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 13rem; overflow: auto;
  font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.case .said { margin: 0; font-size: .9rem; overflow-wrap: anywhere; max-width: none; }
.case .said b { font-weight: 600; }
.case .id { color: var(--soft); font-size: .8rem; }
svg { display: block; width: 100%; max-width: 55rem; min-width: 40rem; height: auto; font-family: inherit; }
.narrow { display: none; } .narrow svg { min-width: 0; max-width: 30rem; }
ol { max-width: 72ch; padding-left: 1.4rem; } ol li { margin: .35rem 0; overflow-wrap: anywhere; }
svg text { fill: var(--ink); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .tick { fill: var(--soft); font-size: 12px; } svg .label.strong { font-weight: 650; }
svg .grid { stroke: var(--line); } svg .zero { stroke: var(--ink); stroke-width: 1.5; }
svg .mark { stroke: var(--soft); stroke-dasharray: 3 3; }
svg .whisker { stroke: var(--soft); stroke-width: 1.6; }
svg .whisker.strong { stroke: var(--accent); stroke-width: 2.4; }
svg .dot, svg .point { fill: var(--soft); stroke: var(--paper); stroke-width: 1.5; }
svg .dot.strong, svg .point { fill: var(--accent); }
svg .curve { fill: none; stroke-width: 1.5; stroke-linejoin: round; } svg .curve.train { stroke: var(--soft); }
svg .curve.valid { stroke: var(--accent); stroke-width: 2.4; }
svg .label.train { fill: var(--soft); } svg .label.valid { fill: var(--accent); }
@media screen and (max-width: 40rem) { .broad { display: none; } .narrow { display: block; margin: .6rem 0 1rem; }
  main { padding: 1.2rem 1rem 3rem; } h1 { font-size: 1.4rem; }
  th, td { padding: .38rem .5rem; } .figures td:first-child { white-space: normal; min-width: 6.5rem; }
  .gates thead { display: none; } .gates tr { display: grid; grid-template-columns: 1fr auto; padding: .4rem 0;
    border-bottom: 1px solid var(--line); }
  .gates td { border: 0; padding: .1rem 0; } .gates td:nth-child(3) { grid-column: 1 / 3; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #f0f0f0;
    --accent: #1f5fae; --good: #17703f; --good-bg: #eef7f1; --bad: #a8281f; --bad-bg: #fdf1ef; --heat: 31, 95, 174;
    --warn: #7a4f00; --warn-bg: #fdf6e6; }
  body { font-size: 10pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  main { max-width: none; padding: 0; } nav { display: none; } .wide { overflow: visible; }
  svg { min-width: 0; }
  .case pre { max-height: none; overflow: visible; } h2, h3 { break-after: avoid; } tr, svg { break-inside: avoid; }
  table { font-size: 8.5pt; } th, td { padding: .25rem .45rem; } }
"""
