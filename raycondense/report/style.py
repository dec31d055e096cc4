"""The look of a report: one style sheet, light and dark, from a phone to a wide screen."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1d2129; --muted: #5b6472; --line: #e3e6eb; --accent: #2f5fd0;
  --tint: #eef3fe; --warn: #fff4e0; --warn-line: #e0a030;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111419; --card: #1a1e25; --ink: #e7eaf0; --muted: #9aa4b4; --line: #2c323c; --accent: #7ea6ff;
    --tint: #1d2738; --warn: #2b2312; --warn-line: #a97a1f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header p { color: var(--muted); margin: 0.25rem 0 0; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 0.75rem; }
h3 { font-size: 0.95rem; margin: 1.25rem 0 0.5rem; color: var(--muted); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.25rem; margin-top: 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.75rem;
  margin: 1.25rem 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 0.75rem 1rem; }
.tiles dt { color: var(--muted); font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: 0.8rem; font-weight: 400; color: var(--muted); }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; min-width: min(100%, 38rem); font-size: 0.92rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.4rem 0.75rem 0.4rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; color: var(--muted); font-size: 0.82rem; }
tbody th { color: var(--ink); font-size: inherit; font-weight: 400; white-space: normal; }
tbody th:not([colspan]) { position: sticky; left: 0; background: var(--card); }
td small, th small { color: var(--muted); font-size: 0.85em; }
td.number, th.number { text-align: right; padding-right: 1.25rem; }
td.all { text-align: center; }
tr.band th { color: var(--muted); font-weight: 600; font-size: 0.82rem; padding-top: 0.9rem; }
tr.ours > *, tr.ours > th:not([colspan]) { background: var(--tint); }
tr.ours > :first-child { font-weight: 600; color: var(--accent); }
td:first-child, th:first-child { padding-left: 0.5rem; }
.terms { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 0.9rem; margin: 0.9rem 0 0;
  font-size: 0.85rem; color: var(--muted); }
.terms dt { font-weight: 600; }
.terms dd { margin: 0; }
.warning { background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 6px;
  padding: 0.6rem 0.9rem; margin: 0 0 1rem; font-size: 0.92rem; overflow-wrap: anywhere; }
.warning p { margin: 0; font-weight: 600; }
.warning details { margin-top: 0.3rem; }
.warning ul { margin: 0.25rem 0 0; padding-left: 1.1rem; }
section > .figures, details { margin-top: 1rem; }
.notes { color: var(--muted); font-size: 0.88rem; padding-left: 1.1rem; margin: 0.75rem 0 0; }
p.notes { padding: 0; margin: 0 0 1rem; }
.notes li { overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 0.75rem; }
.figures.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
.figures img { width: 100%; height: auto; display: block; }
.class { padding: 0.75rem 0; border-top: 1px solid var(--line); }
.class:first-of-type { border-top: 0; padding-top: 0; }
.class h3 { margin: 0 0 0.4rem; color: var(--ink); overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0.5rem 1.5rem; }
.pair p { margin: 0 0 0.25rem; color: var(--muted); font-size: 0.82rem; }
.strip { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: 3px; max-width: 34rem; }
.strip img { width: 100%; aspect-ratio: 1; display: block; border-radius: 3px; image-rendering: pixelated; }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); align-content: start; }
.space { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1.5rem; }
.space img { width: 100%; height: auto; display: block; }
.neighbours { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr));
  gap: 0.75rem 1.5rem; }
.twins h3 { margin: 0 0 0.3rem; color: var(--ink); overflow-wrap: anywhere; }
.twins > div { display: grid; grid-template-columns: 1fr 1fr; gap: 0.75rem; }
.twins figure { margin: 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.two img { width: 100%; aspect-ratio: 1; display: block; border-radius: 3px; image-rendering: pixelated; }
figcaption { font-size: 0.82rem; font-variant-numeric: tabular-nums; margin-top: 0.15rem; }
figcaption strong { font-weight: 600; }
figcaption small { color: var(--muted); }
summary { cursor: pointer; color: var(--muted); }
pre { overflow-x: auto; font-size: 0.82rem; line-height: 1.4; margin: 0.75rem 0 0; }
code { overflow-wrap: anywhere; font-size: 0.85em; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; margin: 0 0 0.75rem;
  font-size: 0.92rem; }
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: 0.85rem; margin-top: 1.5rem; }
@media (max-width: 36rem) {
  section { padding: 1rem 0.8rem; }
  .strip { grid-template-columns: repeat(5, minmax(0, 1fr)); }
  th, td { padding-right: 0.4rem; }
  td.number, th.number { padding-right: 0.5rem; }
  td.number small { display: block; }
  thead th { white-space: normal; vertical-align: bottom; }
}
@media print { section { break-inside: avoid; } }
"""
