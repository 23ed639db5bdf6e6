// A little Markdown, made of nodes: what a model writes is text to the browser, never HTML, and links are not made into links.

const element = (tag, text = "", name = "") => {
  const out = document.createElement(tag);
  if (text) out.textContent = text;
  if (name) out.className = name;
  return out;
};

// `code`, **bold**, *italic*; whatever does not fit together stays as it was written.
const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?![\w*])/g;

function appendInline(parent, text, depth = 0) {
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parent.append(text.slice(at, found.index));
    at = found.index + found[0].length;
    if (found[1]) {
      parent.append(element("code", found[2].trim() || found[2]));
    } else {
      const inner = element(found[3] !== undefined ? "strong" : "em");
      if (depth < 4) appendInline(inner, found[3] ?? found[4], depth + 1);
      else inner.textContent = found[3] ?? found[4];
      parent.append(inner);
    }
  }
  parent.append(text.slice(at));
}

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^( {0,8})([-*+]|\d{1,9}[.)])\s+(.*)$/;
const HEADING = /^ {0,3}#{1,6}\s+(.*?)\s*#*$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;

// A block code's lines until its fence ends, or the text does: while it streams, the end is yet to come.
function takeFence(lines, at, out) {
  const [, fence, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(fence) && /^[`~\s]+$/.test(lines[end]))) ++end;
  const code = element("code", lines.slice(at + 1, end).join("\n"));
  const block = element("pre");
  block.tabIndex = 0;  // it may scroll
  block.setAttribute("aria-label", language ? `Code: ${language}` : "Code");
  block.append(code);
  out.append(block);
  return end + 1;
}

// Items of one list, nested by their indents.
function takeList(lines, at, out) {
  const open = [];  // {indent, list, item}
  for (; at < lines.length; ++at) {
    const found = ITEM.exec(lines[at]);
    if (!found) {
      const more = /^\s{2,}(\S.*)$/.exec(lines[at]);  // an item's next line
      if (!more || open.length === 0) break;
      open.at(-1).item.append("\n");
      appendInline(open.at(-1).item, more[1]);
      continue;
    }
    const [, spaces, mark, text] = found;
    while (open.length > 1 && spaces.length < open.at(-1).indent) open.pop();
    const inner = open.length === 0 || spaces.length > open.at(-1).indent + 1;
    if (inner) {
      const list = element(/\d/.test(mark) ? "ol" : "ul");
      if (/\d/.test(mark)) list.start = parseInt(mark);
      (open.at(-1)?.item ?? out).append(list);
      open.push({indent: spaces.length, list});
    }
    const item = element("li");
    appendInline(item, text);
    open.at(-1).list.append(item);
    open.at(-1).item = item;
  }
  return at;
}

const beginsBlock = (line) => !line.trim() || FENCE.test(line) || ITEM.test(line) || HEADING.test(line) || QUOTE.test(line);

function markdown(text) {
  const out = document.createDocumentFragment();
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    if (!line.trim()) {
      ++at;
    } else if (FENCE.test(line)) {
      at = takeFence(lines, at, out);
    } else if (ITEM.test(line)) {
      at = takeList(lines, at, out);
    } else if (HEADING.test(line)) {
      const heading = element("p", "", "heading");
      appendInline(heading, HEADING.exec(line)[1]);
      out.append(heading);
      ++at;
    } else {
      const quote = QUOTE.test(line);
      const rows = [];
      do rows.push(quote ? QUOTE.exec(lines[at])[1] : lines[at]);
      while (++at < lines.length && (quote ? QUOTE.test(lines[at]) : !beginsBlock(lines[at])));
      const block = element(quote ? "blockquote" : "p");
      appendInline(block, rows.join("\n"));
      out.append(block);
    }
  }
  return out;
}
