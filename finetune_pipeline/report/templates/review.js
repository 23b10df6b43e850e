"use strict";
// The review page: decisions are kept in the browser under the names of sheet and reviewer, so that nobody sees another's, and sent
// to the server where there is one.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const store_key = "finetune-review:" + data.sheet + (data.rater ? ":" + data.rater : "");
const name_key = "finetune-review-rater";
let kept = {};
let at = 0;
let sending = Promise.resolve();

function read(key) {
  try { return localStorage.getItem(key); } catch (error) { return null; }
}

function keep(key, text) {
  try {
    localStorage.setItem(key, text);
  } catch (error) {
    say("this browser keeps nothing: download before you leave", true);
  }
}

function say(text, bad) {
  $("state").textContent = text;
  $("state").className = bad ? "bad" : "";
}

function block(title, text) {
  const box = document.createElement("div");
  const head = document.createElement("h3");
  const body = document.createElement("pre");
  box.className = "block";
  head.textContent = title;
  body.textContent = text;
  box.append(head, body);
  return box;
}

const item = () => data.items[at];
const choices = () => item().choices || data.choices;
const choice_of = row => row && ((data.items.find(each => each.id === row.id) || {}).choices || data.choices)
  .find(choice => choice.value === row.choice);
const complete = row => Boolean(row && row.choice && !row.refused && !(choice_of(row).answer && !row.answer)
  && !(choice_of(row).reason && !row.comment));
// Who has seen the teacher's answer changes the own one no more, except where people must agree on one.
const locked = () => Boolean((kept[item().id] || {}).revealed && !item().again);
const decided = () => data.items.filter(each => complete(kept[each.id])).length;

// Buttons stay, with the focus, while the next item has the same choices.
function show_choices(own) {
  const buttons = choices().map(choice => $("choice-" + choice.value) || button(choice));
  if (buttons.length !== $("choices").children.length || buttons.some(each => !each.isConnected)) {
    $("choices").replaceChildren(...buttons);
  }
  choices().forEach((choice, i) => {
    buttons[i].className = own && own.choice === choice.value ? "on" : "";
    buttons[i].disabled = locked();
  });
}

function button(choice) {
  const made = document.createElement("button");
  const key = document.createElement("kbd");
  made.id = "choice-" + choice.value;
  made.type = "button";
  key.textContent = choice.key;
  made.append(key, choice.label);
  made.onclick = () => choose(choice);
  return made;
}

function show() {
  const own = kept[item().id];
  $("item").replaceChildren(...item().blocks.map(b => block(b.title, b.text)));
  if (own && own.revealed) $("item").append(block("The teacher answers otherwise", own.revealed));
  if (item().sides) {
    const sides = document.createElement("div");
    sides.className = "sides";
    sides.append(...item().sides.map(b => block(b.title, b.text)));
    $("item").append(sides);
  }
  show_choices(own);
  $("comment").value = own && own.comment ? own.comment : "";
  if ($("answer")) {
    $("answer").value = own && own.answer ? own.answer : "";
    $("answer").disabled = locked();
    $("answer-row").className = own && choice_of(own).answer ? "row" : "row hidden";
  }
  $("where").textContent = `${at + 1} of ${data.items.length}, ${decided()} decided`;
  $("bar").style.width = `${100 * decided() / data.items.length}%`;
  $("ready").className = decided() === data.items.length ? "" : "hidden";
}

// The form of the lines that people hand in: ratings of answers, or decisions about rows of data.
function line(row) {
  const comment = row.comment || undefined;
  if (data.mode === "people") {
    const skipped = row.choice === "skip";
    const answer = skipped ? undefined : choice_of(row).answer ? row.answer : row.choice.slice("is ".length);
    return { id: row.id, decision: skipped ? "skip" : "answer", answer, reviewer: row.rater, comment, time: row.time };
  }
  if (data.mode === "rows") {
    const label = choice_of(row).answer ? row.answer : undefined;
    return { id: row.id, decision: row.choice, label, reviewer: row.rater, comment, time: row.time };
  }
  return { sheet: data.sheet, id: row.id, choice: row.choice, rater: row.rater, comment, time: row.time };
}

function send(row) {
  if (!data.server) return;
  const body = JSON.stringify(line(row));
  const headers = { "Content-Type": "application/json" };
  sending = sending
    .then(() => fetch("ratings", { method: "POST", headers, body }))
    .then(async answer => {
      const text = await answer.text();
      if (answer.status === 400) {
        note(row.id, { refused: true });
        say(`not stored: ${text}`, true);
        return;
      }
      if (!answer.ok) throw new Error(text);
      say(text === "stored" ? text : "stored: next (j) goes on");
      if (text !== "stored") note(row.id, { revealed: text });
    })
    .catch(error => say(`not stored: ${error.message} (kept in this browser; download it)`, true));
}

function note(id, what) {
  kept[id] = { ...kept[id], ...what };
  keep(store_key, JSON.stringify(kept));
  if (item().id === id) show();
}

function change(what) {
  const rater = $("rater").value.trim();
  if (!rater) {
    say("write your name first", true);
    $("rater").focus();
    return false;
  }
  const id = item().id;
  kept[id] = { ...kept[id], ...what, refused: undefined, id, rater, time: new Date().toISOString() };
  keep(store_key, JSON.stringify(kept));
  if (complete(kept[id])) send(kept[id]);
  return true;
}

function choose(choice) {
  if (locked() || !change({ choice: choice.value, comment: $("comment").value.trim() })) return;
  show();
  if (choice.answer) {
    $("answer").focus();
  } else if (choice.reason && !$("comment").value.trim()) {
    say("write the reason as a comment: the row is skipped with it", true);
    $("comment").focus();
  } else if (at + 1 < data.items.length) {
    const here = at;
    // what the server says of the answer keeps the page at its row
    sending.then(() => setTimeout(() => { if (at === here && goes_on()) move(1); }, 120));
  }
}

function goes_on() {
  const own = kept[item().id] || {};
  return !own.revealed && !own.refused;
}

function move(by) {
  at = Math.min(data.items.length - 1, Math.max(0, at + by));
  show();
  scrollTo(0, 0);
}

function first_open() {
  const open = data.items.findIndex(each => !complete(kept[each.id]));
  if (open >= 0) at = open;
  show();
}

function download() {
  const rows = data.items.map(each => kept[each.id]).filter(complete).map(row => JSON.stringify(line(row)) + "\n");
  const link = document.createElement("a");
  const rater = ($("rater").value.trim() || "somebody").replace(/[^\p{L}\p{N}_-]+/gu, "-");
  link.href = URL.createObjectURL(new Blob(rows, { type: "application/jsonl" }));
  link.download = data.file.replace("RATER", rater);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function on_key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    event.target.blur();
    return;
  }
  if (["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName)) {
    if (event.key === "Enter" && !event.shiftKey && event.target.id !== "comment") {
      event.preventDefault();
      event.target.blur();
      if (event.target.id === "answer" && complete(kept[item().id])) {
        const here = at;
        sending.then(() => { if (at === here && goes_on()) move(1); });
      }
    }
    return;
  }
  const choice = choices().find(each => each.key === event.key);
  if (choice) {
    event.preventDefault();
    choose(choice);
  } else if (event.key === "j" || event.key === "ArrowRight") {
    move(1);
  } else if (event.key === "k" || event.key === "ArrowLeft") {
    move(-1);
  } else if (event.key === "o") {
    first_open();
  } else if (event.key === "c") {
    event.preventDefault();
    $("comment").focus();
  }
}

try { kept = JSON.parse(read(store_key) || "{}"); } catch (error) { kept = {}; }
for (const row of data.done) kept[row.id] = kept[row.id] || row;
for (const id of Object.keys(kept)) {
  const shown = data.items.find(each => each.id === id);
  // a row that people must agree on is open again: what is kept is older than its newest decision
  if (!shown || !choice_of(kept[id]) || (shown.again && kept[id].time <= shown.again)) delete kept[id];
}
$("rater").value = data.rater || read(name_key) || "";
if ($("answer")) $("answer").onchange = () => { if (change({ answer: $("answer").value.trim() })) show(); };
$("comment").onchange = () => { if (kept[item().id]) change({ comment: $("comment").value.trim() }); };
$("rater").onchange = () => { keep(name_key, $("rater").value.trim()); say(""); };
$("back").onclick = () => move(-1);
$("next").onclick = () => move(1);
$("open").onclick = first_open;
$("download").onclick = download;
addEventListener("keydown", on_key);
first_open();
