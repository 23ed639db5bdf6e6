// A saved conversation: words, settings and the model's state in one file.
//
//   "RETORTCH"  version:u32  length:u32  JSON in UTF-8 [length]  the state's bytes, to the end (docs/serving.md)

const MAGIC = "RETORTCH";
const FILE_VERSION = 1;

function packConversation(content, state) {
  const json = new TextEncoder().encode(JSON.stringify(content));
  const head = new DataView(new ArrayBuffer(16));
  for (let i = 0; i < 8; ++i) head.setUint8(i, MAGIC.charCodeAt(i));
  head.setUint32(8, FILE_VERSION, true);
  head.setUint32(12, json.length, true);
  return new Blob([head.buffer, json, state], {type: "application/octet-stream"});
}

// {messages, settings, tokens, state}, or an Error whose message can be shown. A file may come from anybody.
async function unpackConversation(file) {
  const head = new DataView(await file.slice(0, 16).arrayBuffer());
  const magic = head.byteLength < 16 ? "" : String.fromCharCode(...new Uint8Array(head.buffer, 0, 8));
  if (magic !== MAGIC) throw new Error(`${file.name} is no conversation saved by Retort.`);
  const version = head.getUint32(8, true), length = head.getUint32(12, true);
  if (version !== FILE_VERSION) throw new Error(`${file.name} has version ${version} of the format; this page reads version ${FILE_VERSION}.`);
  if (16 + length > file.size) throw new Error(`${file.name} ends before its conversation does: it was cut.`);
  let content;
  try {
    content = JSON.parse(new TextDecoder("utf-8", {fatal: true}).decode(await file.slice(16, 16 + length).arrayBuffer()));
  } catch {
    throw new Error(`${file.name} is damaged: its conversation cannot be read.`);
  }
  const messages = readMessages(content?.messages);
  if (!messages) throw new Error(`${file.name} is damaged: its messages are none.`);
  const tokens = Number.isSafeInteger(content.tokens) ? content.tokens : 0;
  return {messages, settings: content.settings, tokens, state: file.slice(16 + length)};
}

// A list of messages of users and the model, or null.
function readMessages(list) {
  if (!Array.isArray(list) || list.length === 0) return null;
  const fits = (m) => m && (m.role === "user" || m.role === "assistant") && typeof m.content === "string";
  return list.every(fits) ? list.map((m) => ({role: m.role, content: m.content, facts: typeof m.facts === "string" ? m.facts : ""})) : null;
}
