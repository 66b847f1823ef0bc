// The audit page: shows findings, keeps decisions in the browser, exports and imports corrections.csv.
// Text from the data is inserted as text only: no string is parsed as HTML.
"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const A = window.AUDIT;
if (!A) { $("missing").hidden = false; return; }

// Findings are stored as rows, which take a third less space than objects.
const FIELDS = ["row", "suspicion", "kind", "suggested", "frames", "evidence", "shown", "own", "other"];
A.findings = A.findings.map((cells) => Object.fromEntries(cells.map((cell, k) => [FIELDS[k], cell])));
const N = A.findings.length;
const KEY = `robust-reid audit ${A.id}`;
const unreadable = new Set(A.unreadable);
const rowOfKey = new Map(A.keys.map((key, row) => [key, row]));
const indexOfRow = new Map(A.findings.map((finding, i) => [finding.row, i]));
const KINDS = {
  "": "nothing stands out", wrong: "wrong person", switch: "another person in some frames", merge: "one person, two pids",
  split: "two persons, one pid", duplicate: "duplicate images", background: "no person",
};

/* ---- Choices. For a tracklet: {action, pid, cuts: [[position, pid]], gone: "3,7-9", note}; merges: {from: [into, note]}. ---- */
let choices = new Map(), merges = new Map(), past = [];

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) || "null");
    if (stored) { choices = new Map(stored.choices); merges = new Map(stored.merges); }
  } catch { tell("Earlier decisions cannot be read from this browser; import a corrections.csv instead.", true); }
}
function save(words) { // also shows what was done, or that it will be lost
  try {
    localStorage.setItem(KEY, JSON.stringify({ choices: [...choices], merges: [...merges] }));
    tell(words);
  } catch { tell(`${words}. This browser cannot store decisions: export corrections.csv before you close the page.`, true); }
}
function change(words, apply) { // one step of undo; the caller then calls go, which renders it
  past.push([choices, merges, current, words]);
  const before = merges;
  choices = new Map(choices); merges = new Map(merges);
  apply();
  save(words); progress(); everything = merges.size !== before.size; touched.add(current);
}
function undo() {
  const before = past.pop();
  if (!before) return tell("Nothing to undo.");
  choices = before[0]; merges = before[1];
  save(`Undone: ${before[3]}`); progress(); everything = true; go(before[2]);
}
const keyOf = (i) => A.keys[A.findings[i].row];
const personOf = (i) => A.persons[A.person[A.findings[i].row]];
const suggestedOf = (i) => (A.findings[i].suggested < 0 ? null : A.persons[A.findings[i].suggested]);
const chosen = (i) => choices.get(keyOf(i)) || {};
const decidedOn = (c) => Boolean(c.action || c.gone || (c.cuts && c.cuts.length));
const decided = (i) => decidedOn(chosen(i)) || (A.findings[i].kind === "merge" && (merges.has(personOf(i)) || merges.has(suggestedOf(i))));
function put(i, words, patch) {
  change(`${words}: ${keyOf(i)}`, () => {
    const next = { ...chosen(i), ...patch };
    for (const name of Object.keys(next)) if (next[name] == null || next[name].length === 0) delete next[name];
    if (Object.keys(next).length) choices.set(keyOf(i), next); else choices.delete(keyOf(i));
  });
}
const called = (text) => (A.named ? text : `pid ${text}`);

/* ---- Actions on the current finding ---- */
const actions = {
  keep(i) { put(i, "Label is right", { action: "keep", pid: null }); onward(i); },
  drop(i) { put(i, "Tracklet dropped", { action: "drop", pid: null, cuts: null, gone: null }); onward(i); },
  relabel(i) {
    if (suggestedOf(i) === null) return actions.other(i);
    relabel(i, suggestedOf(i));
  },
  other(i) { choosePerson(i, `Who is ${keyOf(i)}?`, "", (text) => relabel(i, text)); },
  split(i) {
    ask({
      title: `Split ${keyOf(i)}`, hint: `Frames from this position on become a new tracklet; positions are 0 to ${lengthOf(i) - 1}.`,
      label: "First position of the new tracklet", value: String(firstMarked(i)), check: (text) => splitPosition(i, text),
    }, (text) => choosePerson(i, "Who is in the new tracklet?", suggestedOf(i) || "", (pid) => {
      const cuts = (chosen(i).cuts || []).filter((cut) => cut[0] !== Number(text)).concat([[Number(text), pid]]);
      put(i, `Split at ${text}`, { cuts: cuts.sort((a, b) => a[0] - b[0]), ...withoutDrop(i) });
      go(i);
    }, true));
  },
  frames(i) {
    ask({
      title: `Drop frames of ${keyOf(i)}`, hint: `Positions are 0 to ${lengthOf(i) - 1}, such as 3,7-9. Empty: keep all frames.`,
      label: "Positions", value: chosen(i).gone || marked(i), empty: true, check: (text) => framesProblem(i, text),
    }, (text) => { put(i, text ? `Frames ${text} dropped` : "Frames kept", { gone: text.replace(/\s/g, ""), ...withoutDrop(i) }); go(i); });
  },
  merge(i) {
    const from = personOf(i);
    choosePerson(i, `Merge all tracklets of ${called(from)} into …`, suggestedOf(i) || "", (into) => {
      if (!A.persons.includes(into)) return tell(`A merge needs an existing person; ${called(into)} does not exist.`, true);
      for (let next = into; next !== undefined; next = (merges.get(next) || [])[0]) {
        if (next === from) return tell(`${called(from)} would be merged into itself.`, true);
      }
      change(`${called(from)} merged into ${called(into)}`, () => merges.set(from, [into, ""]));
      onward(i);
    });
  },
  note(i) {
    ask({ title: `Note on ${keyOf(i)}`, label: "Note", value: chosen(i).note || "", empty: true },
      (text) => { put(i, "Noted", { note: text }); go(i); });
  },
  clear(i) { // also for decisions that undo no longer knows after the page was closed
    if (!saidOf(i)) return tell("There is no decision on this tracklet.");
    change(`Cleared: ${keyOf(i)}`, () => { choices.delete(keyOf(i)); merges.delete(personOf(i)); });
    go(i);
  },
  skip(i) { onward(i); },
};
const withoutDrop = (i) => (chosen(i).action === "drop" ? { action: null } : {});
function relabel(i, text) {
  if (text === personOf(i)) return tell(`${keyOf(i)} already has the label ${called(text)}; use “label is right”.`);
  put(i, `Now ${called(text)}`, { action: "relabel", pid: text });
  onward(i);
}
const lengthOf = (i) => A.length[A.findings[i].row];
function spansOf(text) {
  return text.split(",").map((part) => /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(part)).map((m) => m && [Number(m[1]), Number(m[2] ?? m[1])]);
}
function framesProblem(i, text) {
  if (!text.trim()) return "";
  const spans = spansOf(text), length = lengthOf(i);
  if (spans.some((span) => !span || span[0] > span[1] || span[1] >= length)) return `Enter positions from 0 to ${length - 1}, such as 3,7-9.`;
  return leavesAPiece(i, chosen(i).cuts, text) ? "" : "No frame would be left of the tracklet, or of a piece of it.";
}
function splitPosition(i, text) {
  const position = Number(text);
  if (!/^\d+$/.test(text) || position < 1 || position >= lengthOf(i)) return `Enter a position from 1 to ${lengthOf(i) - 1}.`;
  return leavesAPiece(i, [...(chosen(i).cuts || []), [position]], chosen(i).gone) ? "" : "One piece would have no frame left.";
}
function leavesAPiece(i, cuts, gone) {
  const dropped = new Set();
  for (const [first, last] of gone ? spansOf(gone) : []) for (let at = first; at <= last; at++) dropped.add(at);
  const edges = [0, ...(cuts || []).map((cut) => cut[0]).sort((a, b) => a - b), lengthOf(i)];
  return edges.slice(1).every((end, k) => {
    for (let at = edges[k]; at < end; at++) if (!dropped.has(at)) return true;
    return edges[k] === end;
  });
}

/* ---- The list: filter and order ---- */
let view = [], current = 0, mark = [0, 0]; // current: a finding; mark: its first and last selected thumbnail
const place = new Map(); // finding -> its place in the view
function filter() {
  const kind = $("kind").value, camera = $("camera").value, state = $("state").value, words = $("find").value.trim().toLowerCase();
  view = [];
  for (let i = 0; i < N; i++) {
    const finding = A.findings[i];
    if (kind !== "all" && finding.kind !== kind) continue;
    if (camera !== "all" && A.camera[finding.row] !== Number(camera)) continue;
    if (state !== "all" && decided(i) !== (state === "decided")) continue;
    if (words && ![keyOf(i), personOf(i), suggestedOf(i) || "", chosen(i).pid || "", chosen(i).note || ""].some((text) => text.toLowerCase().includes(words))) continue;
    view.push(i);
  }
  const person = (i) => A.person[A.findings[i].row], camera_of = (i) => A.camera[A.findings[i].row];
  const orders = {
    person: (i, j) => person(i) - person(j) || i - j, camera: (i, j) => camera_of(i) - camera_of(j) || i - j,
    kind: (i, j) => A.findings[i].kind.localeCompare(A.findings[j].kind) || i - j, length: (i, j) => lengthOf(j) - lengthOf(i) || i - j,
  };
  if (orders[$("sort").value]) view.sort(orders[$("sort").value]);
  place.clear();
  view.forEach((i, at) => place.set(i, at));
  $("count").textContent = view.length === N ? "" : `· ${view.length.toLocaleString("en")} shown`;
  $("none").hidden = view.length > 0;
  if (!place.has(current) && view.length) { current = view[0]; mark = [0, 0]; }
  for (const node of nodes.values()) node.remove();
  nodes.clear();
  render();
}
const nodes = new Map(); // finding -> its card, for those near the window
const list = $("list");
let pitch = 0; // height of a card and the gap after it
function measure() {
  const probe = make("div", { class: "item" });
  list.append(probe);
  pitch = probe.offsetHeight + parseFloat(getComputedStyle(list).getPropertyValue("--gap"));
  probe.remove();
}
const touched = new Set(); // findings whose card is out of date
let everything = false, queued = false;
function soon() { if (!queued) { queued = true; requestAnimationFrame(() => { queued = false; render(); }); } }
function render() {
  list.style.height = `${view.length * pitch}px`;
  const top = -list.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / pitch) - 2), last = Math.min(view.length, Math.ceil((top + innerHeight) / pitch) + 2);
  const wanted = new Set(view.slice(first, last));
  for (const [i, node] of nodes) {
    if (!wanted.has(i) && !node.contains(document.activeElement)) { node.remove(); nodes.delete(i); }
  }
  for (const i of wanted) {
    if (nodes.has(i) && !everything && !touched.has(i)) continue;
    const old = nodes.get(i), node = card(i), held = old && old.contains(document.activeElement);
    node.style.transform = `translateY(${place.get(i) * pitch}px)`;
    if (old) old.replaceWith(node); else list.append(node);
    nodes.set(i, node);
    if (held) node.focus({ preventScroll: true });
  }
  everything = false; touched.clear();
}
function go(i) { // makes a finding the current one and brings it into view
  if (!place.has(i)) return render();
  if (i !== current) { touched.add(current); mark = [0, 0]; }
  current = i;
  touched.add(i);
  const top = place.get(i) * pitch, box = list.getBoundingClientRect(), bar = $("bar").offsetHeight;
  const above = top + box.top < bar + 8, below = top + box.top + pitch > innerHeight;
  if (above || below) {
    scrollTo({ top: scrollY + box.top + top - bar - 8, behavior: "instant" }); // always at the same place, so that it is easy to find
  }
  render();
  nodes.get(i)?.focus({ preventScroll: true });
}
function step(by) { go(view[Math.min(view.length - 1, Math.max(0, (place.get(current) ?? 0) + by))]); }
function onward(i) { // the next one without a decision, else the next one
  const from = place.get(i) ?? -1;
  for (let at = from + 1; at < view.length; at++) if (!decided(view[at])) return go(view[at]);
  go(from + 1 < view.length ? view[from + 1] : i);
}

/* ---- A card ---- */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}
function thumbnail(cell, label, ...below) {
  const picture = make("div", { class: unreadable.has(cell) ? "picture lost" : "picture", role: "img", "aria-label": unreadable.has(cell) ? `${label}, cannot be read` : label });
  if (!unreadable.has(cell)) {
    const size = A.columns * A.rows, at = cell % size, sheet = String(Math.floor(cell / size)).padStart(4, "0");
    const rows = Math.ceil(Math.min(size, A.thumbnails - cell + at) / A.columns);
    picture.style.backgroundImage = `url("data/${A.id}-${sheet}.jpg")`;
    picture.style.backgroundPosition = `calc(var(--w) * ${-(at % A.columns)}) calc(var(--h) * ${-Math.floor(at / A.columns)})`;
    picture.style.backgroundSize = `calc(var(--w) * ${A.columns}) calc(var(--h) * ${rows})`;
  }
  return make("div", { class: "shot" }, picture, ...below);
}
function strip(i) {
  const finding = A.findings[i], gone = new Set(), c = chosen(i);
  for (const [first, last] of c.gone ? spansOf(c.gone) : []) for (let at = first; at <= last; at++) gone.add(at);
  const odd = (at) => finding.frames.some(([first, last]) => at >= first && at <= last);
  return finding.shown.map(([position, cell], k) => {
    const cut = (c.cuts || []).some((one) => one[0] <= position && (k === 0 || finding.shown[k - 1][0] < one[0]));
    const shot = thumbnail(cell, `frame ${position}`, make("span", { class: "under" }, String(position), odd(position) ? " ⚠" : ""));
    shot.classList.toggle("odd", odd(position));
    shot.classList.toggle("gone", gone.has(position) || c.action === "drop");
    shot.classList.toggle("cut", cut);
    shot.classList.toggle("marked", i === current && k >= Math.min(...mark) && k <= Math.max(...mark));
    shot.addEventListener("click", (event) => { const from = event.shiftKey && i === current ? mark[0] : k; touched.add(current).add(i); current = i; mark = [from, k]; render(); });
    return shot;
  });
}
function exemplars(found, of) {
  return found.map(([row, similarity, cell]) => {
    const camera = `cam ${A.cameras[A.camera[row]]}`, near = similarity === null ? "–" : similarity.toFixed(2);
    return thumbnail(cell, `${of}, ${A.keys[row]}, ${camera}, similarity ${near}`, make("span", { class: "under", title: A.keys[row] }, near, make("br"), camera));
  });
}
function group(name, title, shots, empty) {
  return make("section", { class: name, "aria-label": title }, make("h4", { title }, title),
    make("div", { class: "shots", tabindex: shots.length > 4 ? -1 : null }, ...(shots.length ? shots : [make("p", { class: "muted" }, empty)])));
}
function saidOf(i) { // the decision in words
  const c = chosen(i), into = merges.get(personOf(i)), words = [];
  if (c.action === "keep") words.push("✓ label is right");
  if (c.action === "drop") words.push("✗ dropped");
  if (c.action === "relabel") words.push(`→ ${called(c.pid)}`);
  for (const [at, pid] of c.cuts || []) words.push(`from ${at} on: ${pid ? called(pid) : "a new person"}`);
  if (c.gone) words.push(`without frames ${c.gone}`);
  if (into) words.push(`${called(personOf(i))} merged into ${called(into[0])}`);
  if (c.note) words.push(`“${c.note}”`);
  return words.join(" · ");
}
function button(i, name, key, text, strong = false) {
  return make("button", { type: "button", class: strong ? "strong" : null, "data-do": name, title: `${text} (${key})`, onclick: () => { go(i); actions[name](i); } }, text, make("kbd", { "aria-hidden": "true" }, key));
}
function card(i) {
  const finding = A.findings[i], better = suggestedOf(i), said = saidOf(i), key = keyOf(i);
  const evidence = A.evidence.map((name, k) => `${name} ${finding.evidence[k] ?? "–"}`).join(" · ");
  const camera = `cam ${A.cameras[A.camera[finding.row]]}`;
  const node = make("article", {
    class: "card item", role: "listitem", tabindex: i === current ? 0 : -1, "aria-setsize": view.length, "aria-posinset": place.get(i) + 1,
    "aria-current": i === current ? "true" : null, "aria-label": `${key}, ${called(personOf(i))}, ${KINDS[finding.kind]}${said ? `, ${said}` : ""}`,
    "data-finding": i, "data-decided": decided(i) ? "yes" : null,
  },
  make("header", {},
    make("h3", { title: key }, make("span", { class: "muted" }, `${i + 1} `), key),
    make("span", { class: "kind", "data-kind": finding.kind || "none" }, KINDS[finding.kind]),
    make("span", { class: "said", title: said }, said),
    make("span", { class: "muted facts", title: evidence }, `${called(personOf(i))} · ${camera} · ${lengthOf(i)} ${lengthOf(i) === 1 ? "frame" : "frames"} · suspicion ${finding.suspicion}${evidence ? ` · ${evidence}` : ""}`)),
  make("div", { class: "sheet" },
    group("suspect", `labelled ${called(personOf(i))}`, strip(i), ""),
    group("own", `others of ${called(personOf(i))}`, exemplars(finding.own, called(personOf(i))), "no other tracklet"),
    group("other", better === null ? "nearest other persons" : `${called(better)} fits better`, exemplars(finding.other, better === null ? "another person" : called(better)), "no similar tracklet")),
  make("div", { class: "do" },
    button(i, "keep", "a", "Label is right"),
    better === null ? null : button(i, "relabel", "r", `It is ${called(better)}`, true),
    button(i, "other", "o", better === null ? "It is …" : "Other …"),
    button(i, "drop", "d", "Drop"), button(i, "frames", "f", "Drop frames …"), button(i, "split", "s", "Split …"),
    button(i, "merge", "m", "Merge …"), button(i, "note", "n", "Note …"),
    said ? button(i, "clear", "c", "Clear") : null));
  node.addEventListener("focusin", () => { if (i !== current) { const old = current; current = i; mark = [0, 0]; mark_current(old); mark_current(i); } });
  return node;
}
function mark_current(i) {
  const node = nodes.get(i);
  if (!node) return;
  if (i === current) node.setAttribute("aria-current", "true"); else node.removeAttribute("aria-current");
  node.tabIndex = i === current ? 0 : -1;
  node.querySelectorAll(".suspect .shot").forEach((shot, k) => shot.classList.toggle("marked", i === current && k === 0));
}
const shownOf = (i) => A.findings[i].shown;
function moveMark(by, extend) {
  const k = Math.min(shownOf(current).length - 1, Math.max(0, mark[1] + by));
  mark = [extend ? mark[0] : k, k];
  touched.add(current);
  render();
  nodes.get(current)?.querySelectorAll(".suspect .shot")[k]?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
function marked(i) { // positions of the selected thumbnails, or of the frames of the finding
  const spans = A.findings[i].frames;
  if (mark[0] === 0 && mark[1] === 0 && spans.length) return spans.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
  const [first, last] = [Math.min(...mark), Math.max(...mark)].map((k) => shownOf(i)[k][0]);
  return first === last ? String(first) : `${first}-${last}`;
}
function firstMarked(i) { // default position of a split
  const spans = A.findings[i].frames, at = shownOf(i)[Math.min(...mark)][0];
  if (at > 0 || !spans.length) return Math.max(1, at);
  return spans[0][0] || spans[0][1] + 1;
}

/* ---- Dialogs ---- */
function ask({ title, hint = "", label, value, check = () => "", empty = false }, done) {
  $("ask-title").textContent = title; $("ask-hint").textContent = hint; $("ask-label").textContent = label; $("ask-problem").textContent = "";
  $("ask-text").value = value; $("ask-options").replaceChildren();
  $("ask-text").oninput = () => { $("ask-problem").textContent = ""; };
  $("ask-form").onsubmit = (event) => {
    event.preventDefault();
    const text = $("ask-text").value.trim(), problem = !text && !empty ? "Enter a value." : check(text);
    if (problem) { $("ask-problem").textContent = problem; return; }
    close($("ask")); done(text);
  };
  $("ask").showModal(); $("ask-text").focus(); $("ask-text").select();
}
function choosePerson(i, title, value, done, may_be_new = false) {
  const problem = (text) => {
    if (!text) return may_be_new ? "" : "Enter a person.";
    if (/^-?\d+(\.0*)?$/.test(text) && !(Number(text) > 0)) return "0 and negative numbers mean no person: drop the tracklet instead.";
    return A.named || /^\d+$/.test(text) ? "" : "Expected a whole number.";
  };
  const hint = `Type to search${may_be_new ? "; empty: a new person" : ""}. A name that is not listed becomes a new person.`;
  ask({ title, hint, label: "Person", value, check: problem, empty: may_be_new }, (text) => done(A.named ? text : text.replace(/^0+(?=\d)/, "")));
  const near = [suggestedOf(i), ...A.findings[i].other.map(([row]) => A.persons[A.person[row]])].filter((person) => person !== null);
  const offer = () => {
    $("ask-problem").textContent = "";
    const words = $("ask-text").value.trim().toLowerCase();
    const found = [...new Set([...near, ...A.persons])].filter((person) => person.toLowerCase().includes(words) && !(Number(person) <= 0));
    found.sort((a, b) => (a.toLowerCase() !== words) - (b.toLowerCase() !== words) || (!a.toLowerCase().startsWith(words)) - (!b.toLowerCase().startsWith(words)));
    $("ask-options").replaceChildren(...found.slice(0, 8).map((person) => make("button", { type: "button", onclick: () => { $("ask-text").value = person; $("ask-form").requestSubmit(); } }, called(person))));
    if (words && !A.persons.some((person) => person.toLowerCase() === words)) $("ask-options").append(make("span", { class: "muted" }, `Enter: ${called($("ask-text").value.trim())}, a new person`));
  };
  $("ask-text").oninput = offer;
  offer();
}
function close(dialog) { dialog.close(); }
$("ask").addEventListener("close", () => nodes.get(current)?.focus({ preventScroll: true }));
for (const one of document.querySelectorAll("dialog .cancel")) one.addEventListener("click", () => close(one.closest("dialog")));
let quiet = 0;
function tell(words, bad = false) {
  $("told").textContent = words; $("told").classList.toggle("bad", bad); $("told").classList.add("on");
  clearTimeout(quiet);
  if (!bad) quiet = setTimeout(() => $("told").classList.remove("on"), 4000);
}
function progress() {
  let done = 0;
  for (const [key, c] of choices) done += decidedOn(c) && rowOfKey.has(key);
  if (merges.size) for (let i = 0; i < N; i++) done += A.findings[i].kind === "merge" && !decidedOn(chosen(i)) && decided(i);
  $("progress").max = N || 1; $("progress").value = done;
  $("progress-text").textContent = `${done.toLocaleString("en")} of ${N.toLocaleString("en")} decided`;
}

/* ---- corrections.csv ---- */
const HEADER = ["action", "key", "pid", "frames", "note"];
// A cell that a spreadsheet would evaluate as a formula gets a leading apostrophe; import removes it.
const guard = (text) => (/^'*[=+\-@]/.test(text) && !/^-?\d+(\.0*)?$/.test(text) ? `'${text}` : text);
const unguard = (cell) => (/^'+[=+\-@]/.test(cell) ? cell.slice(1) : cell);
const quoted = (text) => (/[",;\t\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
function exported() {
  const rows = [HEADER];
  const write = (action, key, pid, frames, note) => rows.push([action, guard(key), guard(pid), frames, guard(note.replace(/\s+/g, " "))]);
  const keys = [...choices.keys()].sort((a, b) => (indexOfRow.get(rowOfKey.get(a)) ?? N) - (indexOfRow.get(rowOfKey.get(b)) ?? N));
  for (const key of keys) {
    const c = choices.get(key);
    let note = c.note || "";
    const once = () => { const text = note; note = ""; return text; };
    if (c.action) write(c.action, key, c.pid || "", "", once());
    if (c.gone) write("drop_frames", key, "", c.gone, once());
    for (const [at, pid] of c.cuts || []) write("split", key, pid, String(at), once());
  }
  for (const [from, [into, note]] of merges) write("merge", from, into, "", note);
  return rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
}
function exportFile() {
  if (!merges.size && ![...choices.values()].some(decidedOn)) return tell("There are no decisions to export yet.");
  const url = URL.createObjectURL(new Blob([exported()], { type: "text/csv;charset=utf-8" }));
  make("a", { href: url, download: "corrections.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  const alone = [...choices.values()].filter((c) => c.note && !decidedOn(c)).length;
  tell(`corrections.csv exported.${alone ? ` Notes on ${alone} undecided tracklets are not included.` : ""}`, alone > 0);
}
function parsed(text) {
  const rows = [];
  let row = [], cell = "", inside = false, any = false;
  text = text.replace(/^\uFEFF/, "");
  const mark_of = (line) => [",", ";", "\t"].reduce((best, mark) => (line.split(mark).length > line.split(best).length ? mark : best));
  const mark = mark_of(text.split("\n", 1)[0]);
  for (let at = 0; at < text.length; at++) {
    const one = text[at];
    if (inside) {
      if (one !== '"') cell += one; else if (text[at + 1] === '"') { cell += '"'; at++; } else inside = false;
    } else if (one === '"' && !cell) { inside = true; any = true; }
    else if (one === mark) { row.push(cell); cell = ""; any = true; }
    else if (one === "\n") { if (any || cell) rows.push([...row, cell]); row = []; cell = ""; any = false; }
    else if (one !== "\r") { cell += one; any = true; }
  }
  if (any || cell) rows.push([...row, cell]);
  return rows;
}
function importText(text) {
  const [header, ...rows] = parsed(text);
  const names = (header || []).map((name) => name.trim().toLowerCase());
  if (!names.includes("action") || !names.includes("key")) return tell("This is not a corrections.csv: its first line has no action and key.", true);
  const lost = [];
  change(`${rows.length} rows read`, () => {
    const fresh = new Set();
    for (const cells of rows) {
      const row = Object.fromEntries(HEADER.map((name) => [name, unguard((cells[names.indexOf(name)] || "").trim())]));
      if (row.action === "merge" && A.persons.includes(row.key) && A.persons.includes(row.pid)) { merges.set(row.key, [row.pid, row.note]); continue; }
      const i = indexOfRow.get(rowOfKey.get(row.key));
      if (i === undefined || !["keep", "relabel", "drop", "drop_frames", "split"].includes(row.action)) { lost.push(row.key); continue; }
      if (!fresh.has(row.key)) { choices.delete(row.key); fresh.add(row.key); }
      const c = { ...chosen(i) };
      if (row.action === "drop_frames" && row.frames && !framesProblem(i, row.frames)) c.gone = c.gone ? `${c.gone},${row.frames}` : row.frames;
      else if (row.action === "split" && !splitPosition(i, row.frames)) c.cuts = [...(c.cuts || []), [Number(row.frames), row.pid]];
      else if (["keep", "drop"].includes(row.action) || (row.action === "relabel" && row.pid)) { c.action = row.action; if (row.action === "relabel") c.pid = row.pid; }
      else { lost.push(row.key); continue; }
      if (row.note) c.note = row.note;
      choices.set(row.key, c);
    }
  });
  everything = true;
  go(current);
  if (lost.length) tell(`${rows.length - lost.length} rows read; ${lost.length} do not match this audit, such as ${lost[0]}.`, true);
}

/* ---- Keys and controls ---- */
const KEYS = {
  a: "keep", r: "relabel", o: "other", d: "drop", f: "frames", s: "split", m: "merge", n: "note", c: "clear", " ": "skip",
};
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && typing) return go(current);
  if (typing || event.altKey || ((event.ctrlKey || event.metaKey) && event.key !== "z")) return;
  if (event.key === " " && event.target.matches("button, summary, a")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const others = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1), PageDown: () => step(5), PageUp: () => step(-5),
    Home: () => step(-N), End: () => step(N), ArrowLeft: () => moveMark(-1, event.shiftKey), ArrowRight: () => moveMark(1, event.shiftKey),
    u: undo, z: () => (event.ctrlKey || event.metaKey) && undo(), e: exportFile, "/": () => $("find").focus(), "?": () => $("keys").showModal(),
  };
  if (KEYS[key] && view.length) actions[KEYS[key]](current); else if (others[key]) others[key](); else return;
  event.preventDefault();
});
for (const [name, label] of Object.entries(KINDS)) {
  const count = A.findings.filter((finding) => finding.kind === name).length;
  if (count) $("kind").append(make("option", { value: name }, `${label} (${count.toLocaleString("en")})`));
}
A.cameras.forEach((camera, k) => $("camera").append(make("option", { value: k }, `cam ${camera}`)));
for (const id of ["kind", "camera", "state", "sort"]) $(id).addEventListener("change", filter);
let typed = 0;
$("find").addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(filter, 120); });
$("export").addEventListener("click", exportFile);
$("undo").addEventListener("click", undo);
$("help").addEventListener("click", () => $("keys").showModal());
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => { if ($("file").files[0]) importText(await $("file").files[0].text()); $("file").value = ""; });
addEventListener("storage", (event) => { // another tab of the same page
  if (event.key === KEY) { load(); progress(); everything = true; render(); }
});
addEventListener("scroll", soon, { passive: true });
addEventListener("resize", () => { measure(); for (const [i, node] of nodes) node.style.transform = `translateY(${place.get(i) * pitch}px)`; soon(); });

document.documentElement.style.setProperty("--cell-w", A.width);
document.documentElement.style.setProperty("--cell-h", A.height);
load(); measure(); filter(); progress();
const start = view.find((i) => !decided(i));
if (start !== undefined && start !== view[0]) go(start); else nodes.get(current)?.focus({ preventScroll: true });
document.body.dataset.ready = "yes";
})();
