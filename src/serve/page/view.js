// What is shown: messages, the meter, notes and problems.

const byId = (id) => document.getElementById(id);
const prompt = byId("prompt"), log = byId("log"), scroller = byId("scroll");
const conversation = [];  // {role, content, facts}
let running = null;       // the answer that is being made: {abort, stopped, began, count}
let modelName = "The model";

const number = (value) => value.toLocaleString("en");
const speed = (value) => `${value.toLocaleString("en", {maximumSignificantDigits: value < 1000 ? 3 : 4})} tokens/s`;
function size(bytes) {
  const unit = ["bytes", "KB", "MB", "GB"], power = Math.min(3, Math.floor(Math.log10(Math.max(bytes, 1)) / 3));
  return `${(bytes / 1000 ** power).toLocaleString("en", {maximumSignificantDigits: 3})} ${unit[power]}`;
}

// Runs `change`, and keeps the end of the text in sight if it was.
function keepingEnd(change) {
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 48;
  change();
  if (atEnd) scroller.scrollTop = scroller.scrollHeight;
}

function problem(text) {
  keepingEnd(() => {
    byId("problem").hidden = !text;
    byId("problem").firstElementChild.textContent = text;
  });
}
byId("problem").lastElementChild.onclick = () => { problem(""); prompt.focus(); };

// What went well, with a button where it can be taken back.
function note(text, label, act) {
  const view = byId("note");
  keepingEnd(() => {
    view.hidden = !text;
    view.replaceChildren(element("span", text));
    if (label) view.append(button(label, act));
  });
}

function button(label, act) {
  const out = element("button", label);
  out.type = "button";
  out.onclick = act;
  return out;
}

function fill(view, message) {
  const text = view.querySelector(".text");
  if (message.role === "assistant") text.replaceChildren(markdown(message.content));
  else text.textContent = message.content;
  view.querySelector(".facts").textContent = message.facts;
}

function buttonsOf(message, index) {
  const last = index === conversation.length - 1, mine = message.role === "user";
  if (running) return [];
  return [
    !mine && navigator.clipboard && button("Copy", () => navigator.clipboard.writeText(message.content).then(() => note("Copied."))),
    !mine && last && button("Regenerate", regenerate),
    mine && last && button("Answer", generate),
    mine && button("Edit", () => edit(index)),
  ].filter(Boolean);
}

function viewOf(message, index) {
  const view = byId("message").content.firstElementChild.cloneNode(true);
  const mine = message.role === "user";
  view.className = message.role;
  view.querySelector("h3").textContent = mine ? "You" : modelName;
  view.querySelector(".buttons").append(...buttonsOf(message, index));
  fill(view, message);
  if (running && index === conversation.length - 1) {
    view.classList.add("busy");
    view.setAttribute("aria-busy", "true");
  }
  return view;
}

function show() {
  keepingEnd(() => log.replaceChildren(...conversation.map(viewOf)));
  byId("welcome").hidden = conversation.length > 0;
  byId("save").disabled = Boolean(running) || conversation.length === 0;
  for (const id of ["new", "load"]) byId(id).disabled = Boolean(running);
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  showSend();
}

function showSend() { byId("send").disabled = prompt.value.trim() === ""; }

// Once a frame: a fast model makes more tokens than that.
let drawing = 0;
function draw(message) {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    if (running && log.lastElementChild) keepingEnd(() => fill(log.lastElementChild, message));
  });
}

function edit(index) {
  const view = log.children[index], text = view.querySelector(".text");
  const area = element("textarea");
  area.value = conversation[index].content;
  area.setAttribute("aria-label", "Your message, changed");
  const cancel = () => { show(); log.children[index].querySelector(".buttons").lastElementChild.focus(); };
  const send = () => area.value.trim() && !running && resend(index, area.value.trim());
  area.onkeydown = (event) => {
    if (event.key === "Escape") cancel();
    else if (entered(event)) send();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  view.classList.add("editing");
  text.replaceChildren(area);
  view.querySelector(".buttons").replaceChildren(button("Send", send), button("Cancel", cancel));
  area.focus();
}

// --- the meter ---

function meter(values) {
  for (const [name, value] of Object.entries(values)) byId(`m-${name}`).textContent = value ?? "–";
}

function showRate() {
  const seconds = (performance.now() - running.began) / 1000;
  if (running.count > 1 && seconds > 0.2) meter({speed: speed((running.count - 1) / seconds)});
}

// What the server says of our slot, now.
async function refreshMeter() {
  const own = slot.id >= 0 && (await askJson("/slots")).find((s) => s.id === slot.id);
  const ours = own && (own.is_processing ? running?.count > 0 : own.n_past === slot.tokens || slot.tokens < 0);
  meter({state: ours && own.n_past ? size(own.state_bytes) : null, tokens: ours && own.n_past ? number(own.n_past) : null});
}
