"""The style of the report page."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1f2329; --soft: #59636f; --line: #dfe3e8; --panel: #f6f7f9; --band: #f0f2f5;
  --good: #14692f; --good-paper: #e7f5eb; --careful: #7a4b00; --careful-paper: #fdf3dd;
  --bad: #a3171f; --bad-paper: #fdebeb; --none: #59636f; --none-paper: #f0f2f4;
  --accent: #1c5fa8; --on-accent: #fff; --second: #b3541e;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --soft: #a2abb5; --line: #343a42; --panel: #1d2126; --band: #1d2228;
    --good: #7fd69a; --good-paper: #14291b; --careful: #f0bf62; --careful-paper: #2d2410;
    --bad: #ff9a9a; --bad-paper: #331819; --none: #a2abb5; --none-paper: #22272d;
    --accent: #7fbcf5; --on-accent: #10151b; --second: #f2a766;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "Noto Sans", "Liberation Sans", Arial,
    sans-serif;
  overflow-wrap: break-word;
}
h1, h2, h3, h4 { line-height: 1.25; margin: 0; text-wrap: balance; }
h1 { font-size: 1.9rem; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin-top: 1.5rem; }
h4 { font-size: 0.875rem; margin-top: 1.1rem; color: var(--soft); font-weight: 600; }
p, ol, ul { margin: 0.4rem 0; max-width: 44rem; }
ol, ul { padding-left: 1.6rem; }
li + li { margin-top: 0.3rem; }
.soft, figcaption, caption { color: var(--soft); font-size: 0.875rem; }
.eyebrow { margin: 0 0 0.25rem; font-size: 0.875rem; color: var(--soft); }
.lead { font-size: 1.0625rem; }
.verdict {
  margin: 1.25rem 0 0; padding: 0.9rem 1.25rem 1rem; border: 1px solid; border-left-width: 0.5rem;
  border-radius: 0.4rem;
}
.verdict h2 { margin: 0; padding: 0; border: 0; }
.verdict p { color: var(--ink); max-width: none; margin: 0.35rem 0 0; }
.verdict .soft { color: var(--ink); opacity: 0.85; }
header + section h2 { border: 0; margin-top: 1.25rem; }
.good { color: var(--good); background: var(--good-paper); }
.careful { color: var(--careful); background: var(--careful-paper); }
.bad { color: var(--bad); background: var(--bad-paper); }
.none { color: var(--none); background: var(--none-paper); }
.tallies { display: flex; flex-wrap: wrap; gap: 0.4rem 1.1rem; list-style: none; padding: 0; margin: 1rem 0; }
.tallies li { margin: 0; }
.pill {
  display: inline-block; padding: 0 0.5em; border-radius: 0.8em; font-size: 0.8125rem; font-weight: 600;
  line-height: 1.55; white-space: nowrap; color: var(--none); background: var(--none-paper);
}
.pill.pass { color: var(--good); background: var(--good-paper); }
.pill.warn { color: var(--careful); background: var(--careful-paper); }
.pill.fail { color: var(--bad); background: var(--bad-paper); }
.issue { margin: 1.25rem 0 2rem; padding-left: 1rem; border-left: 0.25rem solid var(--line); }
.issue.grave { border-color: var(--bad); }
.issue.slight { border-color: var(--careful); }
.mild .pill.fail, .issue.slight .pill.fail {
  color: var(--careful); background: var(--careful-paper);
}
.issue h3 { margin-top: 0; }
.fields > h4 { margin-top: 0.75rem; }
.fields > div > :first-child { margin-top: 0.15rem; }
@media (min-width: 50rem) {
  .fields { display: grid; grid-template-columns: 10.5rem minmax(0, 1fr); gap: 0.75rem 1.25rem; margin-top: 0.75rem; }
  .fields > h4 { margin-top: 0.2rem; }
  .fields > div > :first-child { margin-top: 0; }
}
.recorded {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0.75rem 2rem;
  align-items: start; margin: 1rem 0;
}
.recorded.long { grid-template-columns: minmax(0, 1fr); }
.recorded.long ol { columns: 19rem 2; column-gap: 2rem; }
.recorded ol { font-size: 0.875rem; margin: 0.25rem 0; }
.recorded li + li { margin-top: 0.15rem; }
li.update { font-weight: 600; }
li.update code { font-weight: 400; }
li.update::marker { color: var(--accent); }
figure { margin: 0.5rem 0; min-width: 0; break-inside: avoid; }
figcaption { max-width: 44rem; margin-top: 0.35rem; line-height: 1.45; }
svg { display: block; height: auto; fill: currentColor; font-size: 12.5px; font-family: inherit; }
svg.events { width: 100%; }
svg.momentum { width: 100%; }
svg text { fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .middle, svg .step, svg .mark text { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .step { fill: var(--ink); font-weight: 600; }
svg .band0 { fill: var(--band); }
svg .band1 { fill: none; stroke: var(--line); }
svg .lane, svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .path { fill: none; stroke: var(--soft); stroke-width: 1; opacity: 0.55; }
svg .update-label { fill: var(--accent); font-weight: 600; }
svg .mark circle { fill: var(--paper); stroke: var(--soft); stroke-width: 1.5; }
svg .mark text { fill: var(--ink); font-size: 11.5px; }
svg .mark.update circle { fill: var(--accent); stroke: var(--accent); }
svg .mark.update text { fill: var(--on-accent); font-weight: 700; }
svg .mark.skipped circle { stroke-dasharray: 3 2; }
svg .dot { fill: var(--accent); }
svg .bar { stroke: var(--accent); fill: none; stroke-width: 1.25; }
svg .prescribed { stroke: var(--second); fill: none; stroke-width: 2; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, pre:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; margin: 0.75rem 0; font-size: 0.875rem; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { padding: 0.45rem 0.9rem 0.45rem 0; text-align: left; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--line); color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
.rules tbody th { width: 40%; }
.rules th code { color: var(--soft); display: block; }
.numbers { width: auto; font-variant-numeric: tabular-nums; }
.numbers th, .numbers td { text-align: right; padding: 0.25rem 0 0.25rem 1.5rem; white-space: nowrap; }
.numbers th:first-child { padding-left: 0; }
.numbers .gap td { text-align: center; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.5rem; margin: 0.6rem 0; }
dl { font-size: 0.875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
code { font-size: 0.875em; }
code { overflow-wrap: anywhere; }
pre {
  font-size: 0.8125rem;
  margin: 0.4rem 0; padding: 0.8rem 1rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 0.4rem; overflow-x: auto;
}
pre ins, pre del { text-decoration: none; }
pre ins { color: var(--good); }
pre del { color: var(--bad); }
@media (max-width: 36rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  .issue { padding-left: 0.75rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
  .rules thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .rules tr { display: block; padding: 0.5rem 0; border-bottom: 1px solid var(--line); }
  .rules th, .rules td { display: block; border: 0; padding: 0.1rem 0; }
  .rules tbody th { width: auto; }
  .numbers th, .numbers td { padding-left: 0.9rem; font-size: 0.8125rem; }
}
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2, h3, h4 { break-after: avoid; } }
"""
