// Which of the server's slots holds this tab's state. The server compares tokens before it goes on from a state, so a slot that somebody
// else took costs time, never a wrong answer.

const slot = {id: -1, tokens: 0};  // tokens: of our conversation, that the state has read; 0: none; -1: ours, but not known

// Tabs of one browser keep off each other's slots. Where there are no locks (a page that came over plain HTTP from another machine), slots are
// picked at random among the empty ones.
const locks = new Map();

function lockSlot(id) {
  if (locks.has(id) || !navigator.locks) return true;
  return new Promise((resolve) => {
    navigator.locks.request(`retort slot ${id}`, {ifAvailable: true}, (lock) => {
      resolve(lock !== null);
      return lock && new Promise((release) => locks.set(id, release));
    }).catch(() => resolve(true));
  });
}

function leaveSlot() {
  locks.get(slot.id)?.();
  locks.delete(slot.id);
  slot.id = -1;
  slot.tokens = 0;
}

function rememberSlot() { session.set("slot", JSON.stringify(slot)); }

// Ours while it is as we left it; else an empty one; else one whose owner may have gone; else none, and the server takes what is free.
async function takeSlot() {
  const all = await askJson("/slots");
  const own = all.find((s) => s.id === slot.id);
  const intact = own && !own.is_processing && (own.n_past === slot.tokens || own.n_past === 0 || slot.tokens < 0);
  if (intact && await lockSlot(own.id)) return;
  leaveSlot();
  const idle = all.filter((s) => !s.is_processing);
  const mixed = idle.map((s) => [s.n_past > 0, Math.random(), s]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  for (const [, , candidate] of mixed) {
    if (!await lockSlot(candidate.id)) continue;
    slot.id = candidate.id;
    break;
  }
}

async function fetchState() {
  const info = slot.id >= 0 && slot.tokens > 0 && (await askJson("/slots")).find((s) => s.id === slot.id);
  if (!info || info.n_past !== slot.tokens) return null;
  return (await ask(`/slots/${slot.id}/state`)).blob();
}

async function putState(state) {
  await takeSlot();
  if (slot.id < 0) throw new Error("Every slot of the server is busy.");
  const answer = await (await ask(`/slots/${slot.id}/state`, {method: "PUT", body: state})).json();
  slot.tokens = answer.n_restored;
  rememberSlot();
}

async function eraseState() {
  if (slot.id >= 0 && slot.tokens !== 0) await post(`/slots/${slot.id}?action=erase`, {}).catch(() => {});
  leaveSlot();
  rememberSlot();
}
