"""The style sheet of the page: one column on a telephone, cards side by side where there is room.

It is a file of its own to a browser, because the page forbids styles within itself.
"""

STYLE = """\
:root { color-scheme: light dark; --line: #8884; --good: #18794e; --warning: #946800;
  --error: #c62828; --read: #1d6fd1; --write: #c2510c; }
@media (prefers-color-scheme: dark) { :root { --good: #4cc38a; --warning: #f0c000;
  --error: #ff7b72; --read: #6cb2ff; --write: #ff9e57; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0.75rem; max-width: 72rem; font: 1rem/1.4 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.4rem; }
h2 { margin: 1.2rem 0 0.4rem; font-size: 1.1rem; }
h3, p { margin: 0; }
header p, figcaption { font-size: 0.85rem; }
#volumes { display: grid; gap: 0.75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
#volumes h2, #volumes > p { grid-column: 1 / -1; margin-bottom: 0; }
article { padding: 0.6rem; border: 1px solid var(--line); border-radius: 0.5rem; min-width: 0; }
figure { margin: 0.5rem 0 0; }
svg { display: block; width: 100%; height: 3.5rem; border-bottom: 1px solid var(--line); }
path { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.good { color: var(--good); }
.warning { color: var(--warning); }
.error { color: var(--error); }
.read { color: var(--read); white-space: nowrap; }
.write { color: var(--write); white-space: nowrap; }
"""
