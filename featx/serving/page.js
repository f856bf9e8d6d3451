"use strict";
// Names of files and classes may hold anything: they get into the page by textContent and nothing else.

const FEW = 10; // classes that are shown before somebody wants all
const at = (id) => document.getElementById(id);
let about = { class_names: [], no_maps: "", max_bytes: Infinity };
let chosen = null; // the file that is shown
let turn = 0; // grows with each picture, so that an answer that comes too late is known as such

const percent = (share) => `${(100 * share).toFixed(1)} %`;

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error || `The server answers ${response.status}.`);
}

function upload(path, file) {
  const body = new FormData();
  body.append("file", file);
  return ask(path, { method: "POST", body });
}

function say(message, error = "") {
  at("status").textContent = message;
  at("error").textContent = error;
}

function show(image, blob) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
}

function row(name, probability) {
  const [line, head, number, cell, bar] = ["tr", "th", "td", "td", "div"].map((tag) => document.createElement(tag));
  head.scope = "row";
  head.textContent = name;
  number.className = "number";
  number.textContent = percent(probability);
  bar.className = "bar";
  bar.style.width = `${100 * probability}%`; // says again what the number says: nothing to be read aloud
  cell.setAttribute("aria-hidden", "true");
  cell.append(bar);
  line.append(head, number, cell);
  return line;
}

function tabulate(probabilities, most) {
  const rows = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  at("probabilities").replaceChildren(...rows.slice(0, most).map(([name, p]) => row(name, p)));
  at("all").hidden = rows.length <= most;
  at("all").textContent = `Show all ${rows.length} classes`;
  at("all").onclick = () => {
    tabulate(probabilities, Infinity);
    at("verdict").focus();
  };
}

async function predict(file) {
  const mine = ++turn;
  chosen = file;
  at("result").hidden = true;
  if (file.size > about.max_bytes) return say("", `The picture has more than the ${about.max_bytes / 1e6} MB accepted.`);
  say("Looking at the picture …");
  try {
    const answer = await (await upload("predict", file)).json();
    if (mine !== turn) return;
    show(at("picture"), file);
    at("name").textContent = file.name;
    at("verdict").textContent = `${answer.label}, ${percent(answer.probability)}`;
    tabulate(answer.probabilities, FEW);
    at("class").value = answer.label;
    at("result").hidden = false;
    say(`The picture is taken for ${answer.label}, with a probability of ${percent(answer.probability)}.`);
    if (!about.no_maps) await explain(answer.label);
  } catch (error) {
    if (mine === turn) say("", error.message);
  }
}

async function explain(name) {
  const mine = turn;
  at("explained").hidden = true;
  try {
    const map = await (await upload(`explain?class=${encodeURIComponent(name)}`, chosen)).blob();
    if (mine !== turn || at("class").value !== name) return;
    show(at("map"), map);
    at("map").alt = `The picture, coloured where it speaks for or against ${name}`;
    at("legend").textContent = `Red speaks for ${name}, blue against it.`;
    at("explained").hidden = false;
  } catch (error) {
    if (mine === turn) say("", error.message);
  }
}

function take(files) {
  if (files.length) predict(files[0]);
}

function listen() {
  at("file").addEventListener("change", () => take(at("file").files));
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // or the browser would leave the page for the picture
      at("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  at("another").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = at("class").value;
    say(`Looking for what speaks for ${name} …`);
    await explain(name);
    if (!at("explained").hidden) say(`The map of ${name} is shown.`);
  });
}

async function begin() {
  listen();
  try {
    about = await (await ask("about")).json();
  } catch (error) {
    return say("", error.message);
  }
  const right = about.validation_accuracy;
  const measured = right === null ? "" : `, right on ${percent(right)} of ${about.validation_rows} held-out pictures`;
  at("about").textContent = `${about.class_names.length} classes, ${about.head} on ${about.spec.backbone}${measured}.`;
  at("class").replaceChildren(...about.class_names.map((name) => new Option(name, name)));
  at("another").hidden = at("explained").hidden = Boolean(about.no_maps);
}

begin();
