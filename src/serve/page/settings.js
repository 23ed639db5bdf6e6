// Sampling settings and the theme. A field that is empty is not sent: what the server was started with holds.

const settingsDialog = document.getElementById("settings-dialog");
const fields = [...settingsDialog.querySelectorAll("[name]")];

// What a request says besides its messages.
function sampling() {
  const out = {};
  for (const field of fields) {
    if (field.type === "number" && field.value !== "" && field.checkValidity()) out[field.name] = field.valueAsNumber;
  }
  return out;
}

const systemPrompt = () => settingsDialog.querySelector("[name=system]").value.trim();

function settingsToKeep() { return Object.fromEntries(fields.filter((f) => f.value !== "").map((f) => [f.name, f.value])); }

// From a file or from this tab's memory: values that do not fit their field are passed over.
function applySettings(settings) {
  for (const field of fields) {
    const value = settings?.[field.name];
    field.value = typeof value === "string" || typeof value === "number" ? value : "";
    if (!field.checkValidity()) field.value = "";
  }
}

const rememberSettings = () => session.set("settings", JSON.stringify(settingsToKeep()));

function showDefaults(params) {
  for (const field of fields) if (params?.[field.name] !== undefined) field.placeholder = params[field.name];
}

document.getElementById("settings").onclick = () => settingsDialog.showModal();
document.getElementById("defaults").onclick = () => applySettings({});
settingsDialog.addEventListener("close", () => {
  for (const field of fields) if (!field.checkValidity()) field.value = "";
  rememberSettings();
});

// --- the theme: the system's, until somebody says otherwise ---

const dark = matchMedia("(prefers-color-scheme: dark)");
const themeButton = document.getElementById("theme");
const chosen = () => { try { return localStorage.getItem("theme"); } catch { return null; } };

function showTheme(theme) {
  document.documentElement.style.colorScheme = theme ?? "";
  const isDark = (theme ?? (dark.matches ? "dark" : "light")) === "dark";
  themeButton.querySelector("span").textContent = themeButton.title = isDark ? "Light theme" : "Dark theme";
}

themeButton.onclick = () => {
  const theme = themeButton.title === "Dark theme" ? "dark" : "light";
  const same = (theme === "dark") === dark.matches;
  try { same ? localStorage.removeItem("theme") : localStorage.setItem("theme", theme); } catch { /* forbidden: until the page closes */ }
  showTheme(same ? null : theme);
};
dark.addEventListener("change", () => showTheme(chosen()));
showTheme(chosen());
