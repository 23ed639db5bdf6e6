// Asks the server that sent this page, and asks the user for a key where the server wants one.

class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const session = {  // of this tab; a browser that forbids storage forgets
  get(name) { try { return sessionStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(name, value); } catch { /* full, or forbidden */ } },
};

let key = session.get("key") ?? "";
let asked = null;  // one dialog for however many requests

function askKey(wrong) {
  const dialog = document.getElementById("key-dialog"), input = document.getElementById("key");
  asked ??= new Promise((resolve) => {
    document.getElementById("key-problem").hidden = !wrong;
    input.value = "";
    dialog.returnValue = "";
    dialog.onclose = () => {
      asked = null;
      if (dialog.returnValue === "ok") session.set("key", key = input.value);
      resolve(dialog.returnValue === "ok");
    };
    dialog.showModal();
    input.focus();
  });
  return asked;
}
document.getElementById("key-cancel").onclick = () => document.getElementById("key-dialog").close("");

async function messageOf(reply) {
  try {
    return (await reply.json()).error.message;
  } catch {
    return `the server answered with status ${reply.status}`;
  }
}

// The answer, if it is a good one. Errors have messages to show.
async function ask(path, options = {}) {
  for (;;) {
    const used = key;
    let reply;
    try {
      reply = await fetch(path, {...options, cache: "no-store", headers: {...options.headers, ...(used && {Authorization: `Bearer ${used}`})}});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, "The server does not answer. Is it still running?");
    }
    if (reply.ok) return reply;
    if (reply.status === 401 && (key !== used || await askKey(used !== ""))) continue;
    if (reply.status === 401) throw new ServerError(401, "Without a key this server answers nothing.");
    throw new ServerError(reply.status, `The server refused: ${await messageOf(reply)}`);
  }
}

const askJson = async (path) => (await ask(path)).json();
const post = (path, body, more) =>
  ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), ...more});

// The events of a stream, parsed. One that breaks off is an error, so that half an answer does not look whole.
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new ServerError(0, "The connection to the server broke off.");
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0;) {
      const line = text.slice(0, end);
      text = text.slice(end + 2);
      if (!line.startsWith("data: ")) continue;  // a comment keeps the connection awake
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new ServerError(event.error.code, `The server gave up: ${event.error.message}`);
      yield event;
    }
  }
}
