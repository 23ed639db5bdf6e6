// Talking: send, stop, regenerate, edit; save and load.

const touch = matchMedia("(pointer: coarse)");
const focusPrompt = () => touch.matches || prompt.focus();
// Enter alone; not while an input method composes. On a phone it starts a line: there is a button to send.
const entered = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch.matches;

function remember() {
  session.set("conversation", JSON.stringify(conversation));
  rememberSlot();
}

function factsOf(end, usage) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const rate = end.timings?.predicted_n > 1 ? ` at ${speed(end.timings.predicted_per_second)}` : "";
  const why = running.stopped ? " · stopped" : end.finish === "length" ? " · cut by a limit" : "";
  return `${number(usage.completion_tokens)} tokens${rate} · prompt of ${number(usage.prompt_tokens)}, ${number(cached)} cached${why}`;
}

function take(event, answer, end) {
  const choice = event.choices?.[0];
  if (choice?.delta?.content) {
    if (running.count++ === 0) running.began = performance.now();
    answer.content += choice.delta.content;
    draw(answer);
    showRate();
  }
  if (choice?.finish_reason) end.finish = choice.finish_reason;
  if (event.timings) end.timings = event.timings;
  if (!event.usage) return;
  answer.facts = factsOf(end, event.usage);
  // The last token that was made has not been read.
  slot.tokens = slot.id >= 0 ? event.usage.prompt_tokens + Math.max(0, event.usage.completion_tokens - 1) : 0;
  meter({cached: number(event.usage.prompt_tokens_details?.cached_tokens ?? 0)});
  if (end.timings?.predicted_n > 1) meter({speed: speed(end.timings.predicted_per_second)});
}

async function stream(answer) {
  await takeSlot();
  const system = systemPrompt();
  const messages = conversation.slice(0, -1).map(({role, content}) => ({role, content}));
  if (system) messages.unshift({role: "system", content: system});
  const body = {...sampling(), messages, stream: true, stream_options: {include_usage: true}};
  if (slot.id >= 0) body.id_slot = slot.id;
  slot.tokens = -1;  // ours, and not known until the answer has ended
  const reply = await post("/v1/chat/completions", body, {signal: running.abort.signal});
  const end = {};
  for await (const event of events(reply)) take(event, answer, end);
}

// Answers the conversation, whose last message is the user's.
async function generate() {
  if (running) return;
  problem("");
  note("");
  const answer = {role: "assistant", content: "", facts: ""};
  running = {abort: new AbortController(), stopped: false, began: 0, count: 0};
  conversation.push(answer);
  show();
  scroller.scrollTop = scroller.scrollHeight;
  byId("spoken").textContent = "Answering";
  const watch = setInterval(() => refreshMeter().catch(() => {}), 500);
  try {
    await stream(answer);
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
    if (answer.content) answer.facts ||= running.stopped ? "stopped" : "broken off";
  }
  clearInterval(watch);
  clearTimeout(running.late);
  const stopped = running.stopped;
  running = null;
  if (!answer.content && !answer.facts) conversation.pop();
  show();
  byId("spoken").textContent = answer.content ? `${stopped ? "Stopped" : "Answered"}: ${answer.content}` : "No answer";
  remember();
  refreshMeter().catch(() => {});
}

// The server ends the answer whole, so that the state is that of what is shown. What has not begun, or does not end, is cut off.
async function stop() {
  const mine = running;
  if (!mine) return;
  const again = mine.stopped;
  mine.stopped = true;
  if (again || mine.count === 0 || slot.id < 0) return mine.abort.abort();
  mine.late = setTimeout(() => mine.abort.abort(), 3000);
  await post(`/slots/${slot.id}?action=stop`, {}).catch(() => mine.abort.abort());
}

function send() {
  const text = prompt.value.trim();
  if (!text || running) return;
  if (conversation.at(-1)?.role === "user") conversation.pop();  // it was never answered
  conversation.push({role: "user", content: text, facts: ""});
  prompt.value = "";
  prompt.oninput();
  generate();
  focusPrompt();
}

function regenerate() {
  conversation.pop();
  generate();
  focusPrompt();
}

function resend(index, text) {
  conversation.splice(index, Infinity, {role: "user", content: text, facts: ""});
  generate();
  focusPrompt();
}

async function replaceConversation(messages) {
  await eraseState();
  conversation.splice(0, Infinity, ...messages);
  problem("");
  note("");
  meter({state: null, tokens: null, speed: null, cached: null});
  show();
  remember();
}

async function startAnew() {
  const old = [...conversation];
  await replaceConversation([]);
  if (old.length) note("A new conversation.", "Back to the old one", () => replaceConversation(old));
  focusPrompt();
}

async function save() {
  note("Saving …");
  let state = null, why = "the server does not hold it any more";
  try {
    state = await fetchState();
  } catch (error) {
    why = error.message;
  }
  const content = {model: modelName, saved: new Date().toISOString(), messages: conversation, settings: settingsToKeep(), tokens: state ? slot.tokens : 0};
  const link = element("a");
  link.href = URL.createObjectURL(packConversation(content, state ?? new Blob()));
  link.download = `${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.retort`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  if (state) note(`Saved, with ${size(state.size)} of state.`);
  else note(`Saved, without the state: ${why}. Loaded again, the words are read anew.`);
}

async function load(file) {
  let saved;
  try {
    saved = await unpackConversation(file);
  } catch (error) {
    return problem(error.message);
  }
  await replaceConversation(saved.messages);
  applySettings(saved.settings);
  rememberSettings();
  if (saved.state.size === 0) return note("Loaded. The file has no state: the next answer reads the words anew.");
  try {
    await putState(saved.state);
    note(`Loaded with its state: ${number(slot.tokens)} tokens need not be read again.`);
  } catch (error) {
    problem(`The words are here, their state is not, so the next answer reads them anew. ${error.message}`);
  }
  refreshMeter().catch(() => {});
}

byId("composer").onsubmit = (event) => { event.preventDefault(); send(); };
prompt.oninput = () => {
  showSend();
  if (CSS.supports("field-sizing", "content")) return;
  prompt.style.height = "auto";  // so that it may become smaller again
  prompt.style.height = `${prompt.scrollHeight}px`;
};
prompt.onkeydown = (event) => {
  if (!entered(event)) return;
  event.preventDefault();
  send();
};
byId("stop").onclick = () => { stop(); focusPrompt(); };
byId("new").onclick = () => startAnew().catch((error) => problem(error.message));
byId("save").onclick = () => save().catch((error) => problem(error.message));
byId("load").onclick = () => byId("file").click();
byId("file").onchange = async (event) => {
  const file = event.target.files[0];
  if (file) await load(file).catch((error) => problem(error.message));
  event.target.value = "";
  focusPrompt();
};
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !running || document.querySelector("dialog[open]")) return;
  event.preventDefault();
  stop();
});

// The server listens before it has read its model.
async function untilReady() {
  for (let reply; (reply = await fetch("/health").catch(() => null))?.status === 503;) {
    byId("model").textContent = "reading the model …";
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function begin() {
  const parsed = (name) => { try { return JSON.parse(session.get(name)); } catch { return null; } };
  conversation.push(...(readMessages(parsed("conversation")) ?? []));
  applySettings(parsed("settings"));
  const kept = parsed("slot");
  if (Number.isInteger(kept?.id) && Number.isInteger(kept.tokens)) Object.assign(slot, {id: kept.id, tokens: kept.tokens});
  show();
  focusPrompt();
  await untilReady();
  const props = await askJson("/props");
  modelName = props.model_alias || modelName;
  byId("model").textContent = modelName;
  document.title = `${modelName} · Retort`;
  showDefaults(props.default_generation_settings?.params);
  if (!props.chat_template) problem("This model has no chat template, so it cannot answer messages. Ask /v1/completions instead.");
  show();
  focusPrompt();
  await refreshMeter();
}

begin().catch((error) => problem(error.message));
