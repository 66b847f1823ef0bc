"""The page's style sheet: one column of cards, light and dark by the reader's own preference, nothing loaded."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f6f7f8; --card: #ffffff; --ink: #1c2126; --muted: #5b6570; --line: #dfe3e7;
  --c1: #1f5fbf; --c2: #b8500b; --c3: #0c7a6f; --c4: #7440c9; --c5: #c01f7a; --c6: #8f7600;
  --c7: #56616c; --c8: #4f9417; --right: #16783a; --wrong: #c4282a; --junk: #79838d;
  --on: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101316; --card: #191d21; --ink: #e6e9ec; --muted: #9ba5af; --line: #2f363d;
    --c1: #78b0ff; --c2: #ffac6b; --c3: #5ccfc0; --c4: #c3a6ff; --c5: #ff86c3; --c6: #e2cb52;
    --c7: #aeb8c2; --c8: #a3dc68; --right: #4fce7d; --wrong: #ff7a74; --junk: #8c96a0;
    --on: #101316;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 Inter, system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-text-size-adjust: 100%;
}
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0; }
h2 { font-size: 20px; letter-spacing: -.01em; margin: 44px 0 12px; }
h3 { font-size: 15px; margin: 0; }
p { margin: 6px 0 12px; max-width: 90ch; }
.muted, figcaption, dt, th { color: var(--muted); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace; font-size: 13px; }

.facts { display: flex; flex-wrap: wrap; gap: 10px 32px; margin: 20px 0 0; }
.facts div { min-width: 0; }
.facts .wide { flex-basis: 100%; }
.facts dt { font-size: 12px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 26px 0 14px; }
.tile .value { font-size: 44px; line-height: 1.1; font-weight: 650; letter-spacing: -.03em; }
.tile .value, td { font-variant-numeric: tabular-nums; }
.tile .name { font-weight: 600; }
.tile .name code { font-weight: 400; color: var(--muted); }
.tile p { font-size: 13px; margin: 6px 0 0; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 500; font-size: 13px; }
thead th { vertical-align: bottom; }
.grid thead th, .study thead th { white-space: normal; }
.study th, .study th[scope=row], .study td { padding: 6px 5px; font-size: 13px; }
.study .grid { margin-top: 10px; }
.words { text-align: left; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; }
th[scope=row] { color: var(--ink); font-size: 14px; font-weight: 400; }
tr.run > * { font-weight: 600; }
th code { font-weight: 400; color: var(--muted); margin-left: 6px; }
td.bar {
  background: linear-gradient(90deg, var(--c1) var(--to), var(--line) var(--to)) no-repeat;
  background-position: 50% 100%; background-size: calc(100% - 20px) 3px;
}
tr.baseline td.bar { background-image: linear-gradient(90deg, var(--junk) var(--to), var(--line) var(--to)); }

.note { font-size: 13px; padding: 0 4px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.grid > * { min-width: 0; }
figure { margin: 0; }
.plot { display: flex; flex-direction: column; }
.plot > svg { width: 100%; height: auto; margin-top: 6px; stroke-linejoin: round; }
.plot text { font-family: inherit !important; }
.plot figcaption { font-size: 13px; margin-top: auto; padding-top: 8px; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
ol, ul { list-style: none; margin: 0; padding: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin-top: 6px; font-size: 13px; }
.legend svg { width: 26px; height: 10px; margin-right: 6px; }

.claims { display: grid; gap: 14px; }
.claims > li { display: flex; gap: 14px; }
.claims p, .claims ul { margin: 2px 0; font-size: 13px; font-weight: 400; }
.claims .verdict { flex: none; width: 104px; font-weight: 600; }
.claims .seen { color: var(--right); }
.claims .not-seen { color: var(--wrong); }
.claims .not-tested { color: var(--muted); }

.ranked { margin-top: 14px; }
.ranked header { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px; margin-bottom: 10px; }
.ranked .row { display: flex; gap: 16px; }
.ranked .asked { flex: none; padding-right: 16px; border-right: 1px solid var(--line); }
.ranked ol { display: flex; gap: 10px; padding-bottom: 6px; overflow-x: auto; }
.thumb { width: 76px; flex: none; --frame: var(--ink); }
.thumb.match { --frame: var(--right); }
.thumb.wrong { --frame: var(--wrong); }
.thumb.distractor { --frame: var(--junk); }
.thumb .frame { position: relative; border: 3px solid var(--frame); border-radius: 6px; overflow: hidden; }
.thumb.distractor .frame { border-style: dashed; }
.thumb img { display: block; width: 100%; height: 140px; object-fit: cover; }
.thumb figcaption { font-size: 11.5px; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere; }
.thumb .caption { white-space: pre-line; }
.thumb .rank { display: block; color: var(--ink); font-weight: 600; }
.sign {
  display: inline-block; min-width: 20px; padding: 0 4px; border-radius: 0 0 0 5px; background: var(--frame);
  color: var(--on); font: 700 13px/20px system-ui, sans-serif; text-align: center;
}
.frame .sign { position: absolute; top: 0; right: 0; }
.signs { display: flex; flex-wrap: wrap; gap: 4px 20px; font-size: 13px; }
.signs .sign { border-radius: 4px; margin-right: 6px; }
.signs .match { --frame: var(--right); }
.signs .wrong { --frame: var(--wrong); }
.signs .distractor { --frame: var(--junk); }

details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; margin: 12px 0 0; line-height: 1.5; tab-size: 2; }
footer { margin-top: 40px; font-size: 13px; }
@media (max-width: 560px) {
  main { padding: 24px 14px 40px; }
  .ranked .row { flex-direction: column; }
  .ranked .asked { border-right: 0; padding: 0; }
}
@media print { .card { break-inside: avoid; } .ranked ol { flex-wrap: wrap; } }
"""
